//! How much of a data set is held here: a walk over its list, now and then.
//! Knows list and store, and what a preload that is done has brought. Does not know how it is brought.
//! The walk costs about a microsecond a file, so its pace follows its cost: it takes one twentieth of one core at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::PreloadState;
use crate::fill::chain;
use crate::fs::for_each_below;
use crate::node::Dataset;
use crate::preload::Wanted;
use forebay_wire::block::{BlockId, BlockIndex};

const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Pause of a walk, as a multiple of what it took.
const PAUSE_FACTOR: u32 = 20;

/// What the last walk found. Of the blocks that are this node's own: copies of others' are counted where they belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// What a preload has brought and what of it is still here; `None` where none was done when the walk began.
    pub(super) wanted: Option<Wanted>,
}

/// Shared by the walk and who asks.
#[derive(Debug, Default)]
pub(super) struct Coverage(Mutex<Held>);

impl Coverage {
    pub(super) fn held(&self) -> Held {
        *self.0.lock()
    }

    /// Walks until the data set ends.
    pub(super) async fn follow(self: Arc<Self>, dataset: Arc<Dataset>) {
        let stop = dataset.stopped();
        loop {
            let (coverage, walked) = (self.clone(), dataset.clone());
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

    fn walk(&self, dataset: &Dataset) {
        let fs = &dataset.fs;
        let Some(manifest) = fs.manifest() else { return };
        let is_done = dataset.preload.progress().borrow().as_ref().is_some_and(|progress| progress.state == PreloadState::Done);
        let mut held = Held::default();
        let walked = for_each_below(&manifest, b"/", &mut |entry, _| {
            let Ok(object) = manifest.object(entry) else { return };
            let (own, bytes) = fs.reader().own_bytes(&object.object);
            held.bytes += bytes;
            // Where its first block is at home, so that a file is counted once.
            let first = BlockId { object: object.object.id, index: BlockIndex(0) };
            held.files += u64::from(bytes == own && fs.reader().fill().owns(first));
        });
        if let Err(error) = walked {
            return tracing::debug!(error = %chain(&error), "the list can't be walked; the figures stay as they were");
        }
        if is_done {
            match dataset.preload.wanted(&dataset.paths_to_load()) {
                Ok(wanted) => held.wanted = Some(wanted),
                Err(error) => tracing::debug!(error = %chain(&error), "what is wanted can't be walked"),
            }
        }
        *self.0.lock() = held;
    }
}
