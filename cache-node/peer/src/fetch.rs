//! Bytes of a block from whichever of its nodes gives them: the first in rank, with a hedge when it is slow, the next when it fails.
//! Knows ranks as a list of names. Does not know why they are in that order, or what to do when all fail.
//! Invariants: bytes are handed on in order and once; only a peer that failed or refused is followed by one that may ask the source, so a slow
//! owner never makes another node read the source for it.

use bytes::Bytes;
use forebay_wire::block::Extent;
use forebay_wire::id::NodeName;
use tokio::time::sleep;

use super::answer::{Answer, Event};
use super::error::{PeerError, Refusal};
use super::message::{DatasetId, ReadRequest, Want};
use super::peers::Peers;

/// The part of the longest silence after which the other ranks are asked for a sign of life.
const SOUNDED_AFTER: u32 = 4;

/// No peer gave all bytes.
#[derive(Debug)]
pub struct Unfetched {
    /// Bytes that came before; they are right.
    pub bytes: u64,
    /// Why the last peer that was asked didn't give the rest; `None` when there was nobody to ask.
    pub cause: Option<PeerError>,
}

impl Peers {
    /// Hands the bytes of `request` to `take` as they come from the first of `ranks` that gives them. Where one fails in the middle, the next goes on.
    ///
    /// A peer that shows no sign of life in its usual time is given a competitor: the next rank, which is asked for what it has (`Want::Held`), never
    /// to fill. What the source said ends it: the other ranks would ask the same source. The first may name another node that has the block, which is
    /// asked for it, once. Dropping the future cancels.
    pub async fn fetch(&self, ranks: &[NodeName], request: ReadRequest, take: &mut (dyn FnMut(Bytes) + Send)) -> Result<(), Unfetched> {
        let begin = request.extent.start();
        let (mut rest, mut cause) = (request, None);
        for (rank, name) in ranks.iter().enumerate() {
            if rank > 0 {
                self.metrics().failovers.add(1);
            }
            rest.elsewhere = rank == 0 && rest.want == Want::Fill;
            let others = &ranks[rank + 1..];
            let Err(mut error) = self.fetch_rest(name, others, &mut rest, take).await else { return Ok(()) };
            if let (true, PeerError::Refused { refusal: Refusal::Elsewhere(other), .. }) = (rest.elsewhere, &error) {
                self.metrics().sent_on.add(1);
                let want = std::mem::replace(&mut rest.want, Want::Held);
                rest.elsewhere = false;
                if self.fetch_rest(other, &[], &mut rest, take).await.is_ok() {
                    return Ok(());
                }
                rest.want = want;
                match self.fetch_rest(name, others, &mut rest, take).await {
                    Ok(()) => return Ok(()),
                    Err(again) => error = again,
                }
            }
            let is_final = matches!(&error, PeerError::Refused { refusal: Refusal::Source(_), .. });
            cause = Some(error);
            if is_final {
                break;
            }
        }
        Err(Unfetched { bytes: rest.extent.start() - begin, cause })
    }

    /// Fetches what is left of `rest`, which is less after a failure.
    async fn fetch_rest(
        &self,
        name: &NodeName,
        others: &[NodeName],
        rest: &mut ReadRequest,
        take: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), PeerError> {
        let mut at = rest.extent.start();
        let mut count = |bytes: Bytes| {
            at += bytes.len() as u64;
            take(bytes);
        };
        let outcome = self.fetch_from(name, others, rest, &mut count).await;
        match (outcome, Extent::new(at, rest.extent.end())) {
            (Err(error), Some(left)) => {
                rest.extent = left;
                Err(error)
            }
            (Ok(()), _) | (Err(_), None) => Ok(()),
        }
    }

    async fn fetch_from(
        &self,
        name: &NodeName,
        others: &[NodeName],
        request: &ReadRequest,
        take: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), PeerError> {
        let peer = self.find(name).ok_or_else(|| PeerError::Unlisted { peer: name.clone() })?;
        // Listens before the peer's health is looked at: otherwise a peer that falls silent in between is waited for.
        let mut silent = std::pin::pin!(peer.silent());
        silent.as_mut().enable();
        let signed = async { self.first_sign(self.read(name, request).await?, others.first(), request).await };
        let (mut answer, mut event) = tokio::select! {
            biased;
            signed = signed => signed?,
            () = silent => return Err(peer.bypassed()),
            error = self.sound_later(others, &request.block.dataset) => return Err(error),
        };
        loop {
            match event {
                Event::Waiting => {}
                Event::Data(bytes) => take(bytes),
                Event::End => return Ok(()),
            }
            event = answer.event().await?;
        }
    }

    /// Finds out about the other ranks while the first keeps silent: when several are away, they are so together, and a reader waits once. Never returns.
    async fn sound_later(&self, others: &[NodeName], dataset: &DatasetId) -> PeerError {
        sleep(self.limits().silence / SOUNDED_AFTER).await;
        others.iter().filter_map(|name| self.find(name)).for_each(|peer| peer.sound(dataset));
        std::future::pending().await
    }

    /// Waits for the first event of an answer, or for that of its competitor; whose it was goes on.
    async fn first_sign(&self, mut first: Answer, next: Option<&NodeName>, request: &ReadRequest) -> Result<(Answer, Event), PeerError> {
        let Some(next) = next else { return first.event().await.map(|event| (first, event)) };
        let patience = self.hedge_after(&first);
        tokio::select! {
            biased;
            event = first.event() => return event.map(|event| (first, event)),
            () = sleep(patience) => {}
        }
        self.metrics().hedges.add(1);
        let held = ReadRequest { want: Want::Held, ..request.clone() };
        let competitor = async {
            let mut second = self.read(next, &held).await?;
            loop {
                match second.event().await? {
                    // It has nothing yet, whatever it waits for.
                    Event::Waiting => {}
                    event => return Ok::<_, PeerError>((second, event)),
                }
            }
        };
        let mut competitor = std::pin::pin!(competitor);
        let second = tokio::select! {
            biased;
            event = first.event() => match event {
                Ok(event) => return Ok((first, event)),
                // It may still be the competitor's.
                Err(error) => competitor.await.map_err(|_| error),
            },
            second = &mut competitor => match second {
                Ok(second) => Ok(second),
                Err(_) => return first.event().await.map(|event| (first, event)),
            },
        };
        second.inspect(|_| self.metrics().hedges_won.add(1))
    }
}
