//! How much of a data set is held here: a walk over its list, now and then.
//! Knows list and store. Does not know preload or rules beyond what they want to be here.
//! The walk costs about a microsecond a file, so its pace follows its cost: it takes one twentieth of one core at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::fill::chain;
use crate::fs::{Filesystem, for_each_below};
use forebay_wire::block::BlockIndex;

const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Pause of a walk, as a multiple of what it took.
const PAUSE_FACTOR: u32 = 20;

/// What the last walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Shared by the walk and who asks.
#[derive(Debug, Default)]
pub(super) struct Coverage(Mutex<Held>);

impl Coverage {
    pub(super) fn held(&self) -> Held {
        *self.0.lock()
    }

    /// Walks until `stop`.
    pub(super) async fn follow(self: Arc<Self>, fs: Arc<Filesystem>, stop: CancellationToken) {
        loop {
            let (coverage, walked) = (self.clone(), fs.clone());
            let walk = move || {
                let begin = Instant::now();
                coverage.walk(&walked);
                begin.elapsed()
            };
            let Ok(took) = tokio::task::spawn_blocking(walk).await else { return };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep((took * PAUSE_FACTOR).max(PAUSE_MIN)) => {}
            }
        }
    }

    fn walk(&self, fs: &Filesystem) {
        let Some(manifest) = fs.manifest() else { return };
        let reader = fs.reader();
        let mut held = Held::default();
        let walked = for_each_below(&manifest, b"/", &mut |entry, size| {
            let Ok((file, _)) = fs.file_of_entry(&manifest, entry) else { return };
            let here = |index: &BlockIndex| reader.store().contains(&file.object, *index);
            let blocks = (0..reader.block_size().count(size)).map(BlockIndex);
            let bytes =
                blocks.filter(here).filter_map(|index| reader.block_size().extent(index, size)).map(|extent| extent.len()).sum::<u64>();
            held.bytes += bytes;
            held.files += u64::from(bytes == size);
        });
        match walked {
            Ok(_) => *self.0.lock() = held,
            Err(error) => tracing::debug!(error = %chain(&error), "the list can't be walked; the figures stay as they were"),
        }
    }
}
