//! A listing that outlives its lister: the next in rank keeps what the lister has got, while it lists, and goes on from there.
//! Knows who comes after whom, and how often and how much is asked for. Does not know records or requests.
//! Invariant: what an heir goes on with has a number above all manifests that it knows of, and below that of any listing that began later.
//!
//! The heir asks the lister, which it asks for a newer list anyway, for the bytes of its log that it doesn't have. So the lister does nothing for it but
//! read its own log, and an heir that is away costs nothing. Two that go on with the same listing, in a partition, have different numbers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_manifest::listing::handover::{self, Part, Place};
use forebay_peer::{LISTING_BYTES_MAX, ListingHead, ListingRequest};
use forebay_wire::id::NodeName;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Refresh;
use super::group::Group;
use crate::aside;
use crate::fill::chain;

/// How often a part is asked for; with `LISTING_BYTES_MAX` this bounds what it takes of the network: 16 MiB a second.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// What is kept of one source's listing: some fifty million files. Beyond it an heir lists the rest anew.
const BYTES_MAX: u64 = 4 << 30;

/// How far what is kept is.
#[derive(Default)]
pub(super) struct Handed {
    /// Guards how far, by source, and when was asked last; held for memory only.
    kept: Mutex<(Option<Instant>, Vec<Place>)>,
}

impl Refresh {
    /// Keeps what `lister`, whose listing goes on, has got beyond what is kept. Once a second at most.
    pub(super) async fn keep_listing(self: &Arc<Self>, group: &Group, lister: &NodeName) {
        let sources = self.fs.sources().len();
        let places = {
            let mut kept = self.handed.kept.lock();
            if kept.0.is_some_and(|at| at.elapsed() < ASK_EVERY) {
                return;
            }
            kept.0 = Some(Instant::now());
            kept.1.resize(sources, Place::default());
            kept.1.clone()
        };
        for (position, place) in places.into_iter().enumerate().filter(|(_, place)| place.have < BYTES_MAX) {
            match self.keep_part(group, lister, position, place).await {
                Ok(Some(now)) => self.handed.kept.lock().1[position] = now,
                Ok(None) => {}
                // It is a help: without it the heir lists more.
                Err(error) => debug!(dataset = self.fs.name(), %lister, error, "the listing that goes on can't be kept"),
            }
        }
    }

    async fn keep_part(&self, group: &Group, lister: &NodeName, position: usize, place: Place) -> Result<Option<Place>, String> {
        let source = u32::try_from(position).map_err(|error| error.to_string())?;
        let request = ListingRequest { dataset: group.dataset().clone(), source, listing: place.listing, have: place.have };
        let asked = group.neighbours().peers().listing(lister, &request).await.map_err(|error| chain(&error))?;
        let Some((ListingHead { listing, start, number: (term, sequence), began_ms_ago, .. }, bytes)) = asked else { return Ok(None) };
        let began = crate::fs::seconds_of(std::time::SystemTime::now()).saturating_sub_unsigned(began_ms_ago.div_ceil(1000));
        // Above the lister's own: it may live, and this node goes on with what is its listing too.
        let number = (term, sequence + 1 + group.own_part());
        let part = Part { listing, number, began, start, bytes };
        let sources = self.fs.sources();
        let Some((_, origin)) = sources.get(position) else { return Ok(None) };
        let (folder, name) = (self.folder.clone(), origin.handle.name().to_owned());
        let kept = aside::spawn(move || handover::keep(&folder, position, &name, place, &part)).await;
        kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// What the listing of a source that goes on here, or failed and will go on, has got beyond `place`.
    pub async fn listing_part(&self, source: u32, place: Place) -> Option<(ListingHead, Bytes)> {
        let folder = self.folder.clone();
        let part = aside::spawn(move || handover::part(&folder, usize::try_from(source).unwrap_or(usize::MAX), place, LISTING_BYTES_MAX));
        let Part { listing, number, began, start, bytes } = part.await.ok()?.ok()??;
        let seconds = crate::fs::seconds_of(std::time::SystemTime::now()).saturating_sub(began);
        let began_ms_ago = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        Some((ListingHead { listing, start, bytes: bytes.len() as u64, number, began_ms_ago }, bytes.into()))
    }

    /// A newer list of files is here: what was kept is of no use. Blocks on the disk.
    pub(super) fn forget_listing(&self) {
        self.handed.kept.lock().1.clear();
        if let Err(error) = handover::forget(&self.folder) {
            warn!(dataset = self.fs.name(), %error, "what was kept of a listing that has ended can't be removed");
        }
    }
}
