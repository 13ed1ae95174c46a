//! Whole-object checksums of objects larger than a block, whose ranges come without any.
//! Knows objects, blocks, proofs. Does not know file names or who reads.
//! Invariants: the block that makes an object complete in the store is put only after all of its bytes were compared with the source's
//! checksum, so complete means checked, also after a restart; and `prove` says yes only of bytes that were compared.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};
use tracing::{debug, warn};
use xxhash_rust::xxh3::Xxh3;

use super::bring::{fail, wrong_length};
use super::flight::Flight;
use super::{FileObject, Fill, FillError, chain};
use crate::aside;
use crate::rules::Placement;
use forebay_source::checksum::Hasher;
use forebay_source::{Checksum, Priority, SourceError};
use forebay_store::ReadOutcome;
use forebay_wire::block::{BlockId, BlockIndex, Extent, ObjectId, ObjectRef};

/// Blocks of one object on their way to the store, to be proved whole.
const PROVE_BLOCKS_MAX: usize = 8;
/// Times that a whole object is fetched before its checksum is believed to be wrong for good.
const PROVE_ATTEMPTS_MAX: u32 = 2;
/// Digests of blocks that are remembered, 16 bytes each: 1 TiB of objects that the store doesn't keep.
const DIGESTS_MAX: usize = 1 << 18;

/// How the bytes of an object can be trusted.
#[derive(Clone)]
pub enum Proof {
    /// All of it is in the store, which took the last block only after the comparison.
    Stored,
    /// It was read once and compared; the digest of each block tells whether the same bytes come again.
    Digests(Arc<[u128]>),
    /// The source keeps no checksum of the whole object.
    Absent,
}

#[derive(Default)]
pub(super) struct Verifier {
    /// Guards which blocks of which objects are being put, with their tickets.
    puts: Mutex<Puts>,
    /// Told whenever a put ended.
    put_ended: Notify,
    /// Guards who proves which object; only one at a time does.
    turns: Mutex<HashMap<ObjectId, Arc<tokio::sync::Mutex<()>>>>,
    proofs: Mutex<Proofs>,
}

#[derive(Default)]
struct Puts {
    next: u64,
    pending: HashMap<ObjectId, Vec<(u64, BlockIndex)>>,
}

/// What this process found out, oldest out first.
#[derive(Default)]
struct Proofs {
    known: HashMap<ObjectId, Proof>,
    order: VecDeque<ObjectId>,
    digests: usize,
}

impl Proofs {
    fn insert(&mut self, object: ObjectId, proof: Proof) {
        let count = |proof: &Proof| if let Proof::Digests(digests) = proof { digests.len() } else { 1 };
        self.digests += count(&proof);
        match self.known.insert(object, proof) {
            Some(old) => self.digests -= count(&old),
            None => self.order.push_back(object),
        }
        while self.digests > DIGESTS_MAX && self.order.len() > 1 {
            let old = self.order.pop_front().and_then(|oldest| self.known.remove(&oldest));
            self.digests -= old.as_ref().map_or(0, count);
        }
    }
}

/// A put of a block under way.
pub(super) struct Put<'a> {
    verifier: &'a Verifier,
    object: ObjectId,
    ticket: u64,
    /// Every other block is in the store, or on its way there with an older ticket.
    pub(super) is_last: bool,
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        let mut puts = self.verifier.puts.lock();
        if let Some(pending) = puts.pending.get_mut(&self.object) {
            pending.retain(|(ticket, _)| *ticket != self.ticket);
            if pending.is_empty() {
                puts.pending.remove(&self.object);
            }
        }
        drop(puts);
        self.verifier.put_ended.notify_waiters();
    }
}

impl Verifier {
    /// `has` tells which blocks the store has.
    fn begin(&self, object: ObjectId, index: BlockIndex, count: u32, has: impl Fn(BlockIndex) -> bool) -> Put<'_> {
        let mut puts = self.puts.lock();
        let ticket = puts.next;
        puts.next += 1;
        let pending = puts.pending.entry(object).or_default();
        // From the end: of an object that is read in order the last block is missing longest.
        let is_there = |other: BlockIndex| other == index || pending.iter().any(|(_, block)| *block == other) || has(other);
        let is_last = (0..count).rev().map(BlockIndex).all(is_there);
        pending.push((ticket, index));
        Put { verifier: self, object, ticket, is_last }
    }

    /// Waits for the puts of this object that began earlier. Only a later one waits, so nobody waits in a circle.
    async fn others(&self, put: &Put<'_>) {
        loop {
            let mut ended = std::pin::pin!(self.put_ended.notified());
            ended.as_mut().enable();
            let is_first = {
                let puts = self.puts.lock();
                puts.pending.get(&put.object).is_none_or(|pending| pending.iter().all(|(ticket, _)| *ticket >= put.ticket))
            };
            if is_first {
                return;
            }
            ended.await;
        }
    }

    async fn turn(&self, object: ObjectId) -> OwnedMutexGuard<()> {
        let turn = self.turns.lock().entry(object).or_default().clone();
        turn.lock_owned().await
    }

    fn end_turn(&self, object: ObjectId, turn: OwnedMutexGuard<()>) {
        drop(turn);
        let mut turns = self.turns.lock();
        if turns.get(&object).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&object);
        }
    }
}

impl Fill {
    fn is_large(&self, object: &ObjectRef) -> bool {
        object.size > self.block_size.bytes()
    }

    /// Has to be held while a block is put. `None`: the block is not to be kept, because the object it would complete is not what the source
    /// says it is, or that can't be found out now.
    pub(super) async fn may_put(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        flight: &Arc<Flight>,
    ) -> Option<Option<Put<'_>>> {
        if !self.is_large(&file.object) {
            return Some(None);
        }
        let count = self.block_size.count(file.object.size);
        let put = self.verifier.begin(file.object.id, index, count, |block| self.store.contains(&file.object, block));
        if put.is_last {
            self.verifier.others(&put).await;
            if !self.is_sound(file, index, flight).await {
                return None;
            }
        }
        Some(Some(put))
    }

    /// Whether the object with this last block is what the source's checksum says; also when there is none.
    async fn is_sound(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, flight: &Arc<Flight>) -> bool {
        let checksum = match self.checksum(file, Priority::Background).await {
            Ok(Some(checksum)) => checksum,
            Ok(None) => return true,
            Err(error) => {
                debug!(key = %file.describe(), error = %chain(&error), "the checksum can't be asked for; the last block is not kept");
                return false;
            }
        };
        let (fill, object, last) = (self.clone(), file.object, flight.clone());
        let compare = move || fill.compare(&object, index, &last, checksum.hasher());
        match aside::spawn(compare).await {
            Ok(Some(true)) => {
                self.metrics.verified.add(1);
                true
            }
            Ok(Some(false)) => {
                self.note_mismatch(file);
                self.store.free(&file.object);
                false
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// `None` when a block left the store meanwhile.
    fn compare(&self, object: &ObjectRef, index: BlockIndex, last: &Flight, mut hasher: Hasher) -> Option<bool> {
        let mut buffer = vec![0; usize::try_from(self.block_size.bytes()).ok()?];
        for block in (0..self.block_size.count(object.size)).map(BlockIndex) {
            if block == index {
                hasher.update(last.bytes()?);
                continue;
            }
            let extent = self.block_size.extent(block, object.size)?;
            let into = &mut buffer[..extent.len() as usize];
            match self.store.read(object, extent, into) {
                Ok(ReadOutcome::Hit) => hasher.update(into),
                Ok(ReadOutcome::Miss) | Err(_) => return None,
            }
        }
        Some(hasher.is_met())
    }

    fn note_mismatch(&self, file: &FileObject) {
        self.metrics.mismatched.add(1);
        warn!(key = %file.describe(), "the object's bytes don't sum up to the source's checksum; nothing of it is kept");
    }

    /// A source that refuses the question gives no checksum; one that can't answer now is an error.
    async fn checksum(&self, file: &FileObject, priority: Priority) -> Result<Option<Checksum>, SourceError> {
        let source = match priority {
            Priority::OnDemand => file.origin.handle.on_demand(),
            Priority::Background => file.origin.handle.background(),
        };
        match source.checksum(&file.key, &file.version).await {
            Err(SourceError::Denied { .. } | SourceError::Permanent { .. } | SourceError::Unaskable { .. }) => Ok(None),
            answer => answer,
        }
    }

    /// Makes sure that all bytes of an object larger than a block were compared with the source's checksum, fetching it whole where need be:
    /// into the store, or, when that doesn't keep it, past it, which asks the source for every byte once more than the reads do.
    pub async fn prove(self: &Arc<Self>, file: &Arc<FileObject>) -> Result<Proof, FillError> {
        let known = || {
            if self.store.is_complete(&file.object) {
                return Some(Proof::Stored);
            }
            self.verifier.proofs.lock().known.get(&file.object.id).cloned()
        };
        if let Some(proof) = known() {
            return Ok(proof);
        }
        let turn = self.verifier.turn(file.object.id).await;
        let proof = match known() {
            Some(proof) => Ok(proof),
            None => self.find_proof(file).await,
        };
        self.verifier.end_turn(file.object.id, turn);
        proof
    }

    async fn find_proof(self: &Arc<Self>, file: &Arc<FileObject>) -> Result<Proof, FillError> {
        let first = BlockIndex(0);
        let checksum = self.checksum(file, Priority::OnDemand).await.map_err(|cause| fail(file, first, cause))?;
        let Some(checksum) = checksum else {
            self.verifier.proofs.lock().insert(file.object.id, Proof::Absent);
            return Ok(Proof::Absent);
        };
        if self.load_all(file).await? && self.store.is_complete(&file.object) {
            return Ok(Proof::Stored);
        }
        for attempt in 0..PROVE_ATTEMPTS_MAX {
            let digests = match attempt {
                // From the nodes whose its blocks are, so that all nodes together cost the source its bytes once. If those are wrong, from the source.
                0 if !self.is_alone() => self.digests_of_flights(file, checksum.hasher()).await?,
                _ => self.digests(file, checksum.hasher()).await?,
            };
            if let Some(digests) = digests {
                self.metrics.verified.add(1);
                let proof = Proof::Digests(digests);
                self.verifier.proofs.lock().insert(file.object.id, proof.clone());
                return Ok(proof);
            }
            self.note_mismatch(file);
        }
        Err(fail(file, first, corrupt(file, "its bytes don't sum up to the checksum that the source gives")))
    }

    /// Whether the store kept every block.
    async fn load_all(self: &Arc<Self>, file: &Arc<FileObject>) -> Result<bool, FillError> {
        if file.placement == Placement::Pass {
            return Ok(false);
        }
        let blocks = (0..self.block_size.count(file.object.size)).map(BlockIndex);
        let loads = blocks.map(|index| async move {
            if self.store.contains(&file.object, index) {
                return Ok(true);
            }
            let flight = self.join_now(file, index);
            flight.finished().await?;
            Ok(flight.settled().await)
        });
        let mut loads = futures::stream::iter(loads).buffered(PROVE_BLOCKS_MAX);
        while let Some(kept) = loads.next().await {
            if !kept? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the whole object block by block, each from where it is. `None`: the checksum doesn't fit.
    async fn digests_of_flights(self: &Arc<Self>, file: &Arc<FileObject>, mut hasher: Hasher) -> Result<Option<Arc<[u128]>>, FillError> {
        let mut digests = Vec::new();
        for index in (0..self.block_size.count(file.object.size)).map(BlockIndex) {
            let flight = self.join_now(file, index);
            flight.finished().await?;
            hasher.update(flight.bytes().ok_or(FillError::Aborted)?);
            digests.push(flight.digest().ok_or(FillError::Aborted)?);
        }
        Ok(hasher.is_met().then(|| digests.into()))
    }

    /// Reads the whole object past the store. `None`: the checksum doesn't fit.
    async fn digests(&self, file: &FileObject, mut hasher: Hasher) -> Result<Option<Arc<[u128]>>, FillError> {
        let first = BlockIndex(0);
        let whole = Extent::new(0, file.object.size).expect("larger than a block");
        // As a range: the answer to the whole would be compared twice, and a break in it is gone on with.
        let source = file.origin.handle.on_demand();
        let mut body = source.read(&file.key, &file.version, whole, false).await.map_err(|cause| fail(file, first, cause))?;
        let mut digests = Vec::new();
        let (mut block, mut at) = (Xxh3::new(), 0);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|cause| fail(file, first, cause))?;
            self.metrics.bytes.add(piece.len() as u64);
            hasher.update(&piece);
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let room = self.block_size.bytes() - at % self.block_size.bytes();
                let (part, after) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                block.update(part);
                at += part.len() as u64;
                rest = after;
                if at % self.block_size.bytes() == 0 || at == file.object.size {
                    digests.push(std::mem::take(&mut block).digest128());
                }
            }
        }
        if at != file.object.size {
            return Err(fail(file, first, wrong_length(file)));
        }
        Ok(hasher.is_met().then(|| digests.into()))
    }

    /// `Fill::read` for bytes that were proved: the whole block is awaited and its digest compared. Other bytes are fetched once more.
    pub async fn read_proved(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        (from, to): (usize, usize),
        digests: &[u128],
        into: &mut BytesMut,
    ) -> Result<(), FillError> {
        let block = BlockId { object: file.object.id, index };
        for _ in 0..PROVE_ATTEMPTS_MAX {
            let flight = self.join_now(file, index);
            flight.finished().await?;
            if flight.digest() == digests.get(index.0 as usize).copied() {
                let outcome = flight.read(from, to, into).await;
                if flight.is_used_up() {
                    self.drop_lingering(block);
                }
                return outcome;
            }
            self.note_mismatch(file);
            flight.settled().await;
            // The next attempt must begin a new flight, not join this one.
            self.take_out(block, &flight);
            self.drop_lingering(block);
            self.store.free(&file.object);
        }
        Err(fail(file, index, corrupt(file, "other bytes came than those that were compared with its checksum")))
    }
}

fn corrupt(file: &FileObject, detail: &str) -> SourceError {
    SourceError::Corrupt {
        op: "read",
        key: file.key.0.escape_ascii().to_string(),
        origin: file.origin.handle.name().to_owned(),
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_last_two_blocks_at_once_the_later_one_is_last() {
        let (verifier, object) = (Verifier::default(), ObjectId(7));
        let first = verifier.begin(object, BlockIndex(0), 3, |block| block == BlockIndex(2));
        let second = verifier.begin(object, BlockIndex(1), 3, |block| block == BlockIndex(2));
        assert!(!first.is_last && second.is_last);
        let mut others = Box::pin(verifier.others(&second));
        let waker = futures::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        assert!(others.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(others.as_mut().poll(&mut context).is_ready());
        drop(others);
        drop(second);
        assert!(verifier.puts.lock().pending.is_empty());
    }

    #[test]
    fn proofs_are_bounded() {
        let mut proofs = Proofs::default();
        let digests: Arc<[u128]> = vec![0; DIGESTS_MAX / 2].into();
        for object in 0..5 {
            proofs.insert(ObjectId(object), Proof::Digests(digests.clone()));
            proofs.insert(ObjectId(object), Proof::Digests(digests.clone()));
        }
        assert_eq!((proofs.known.len(), proofs.order.len(), proofs.digests), (2, 2, DIGESTS_MAX));
    }
}
