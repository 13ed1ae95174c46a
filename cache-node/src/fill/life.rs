//! The life of one flight: admitted, brought, served, put, landed.
//! Knows the order of these. Does not know where bytes come from, or who waits.
//! Invariant: a flight's place and memory are held until it has landed, and it lands once, whatever becomes of its task.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use super::bring::Admitted;
use super::flight::{Flight, Supplier};
use super::{FileObject, Fill, FillError};
use crate::peer::Way;
use crate::rules::Placement;
use forebay_source::Priority;
use forebay_wire::block::{BlockId, BlockIndex, Extent};

/// Ends a flight whose task is dropped or panics: waiters get `Aborted`, and the block can be asked for again.
pub(super) struct Landing {
    pub(super) fill: Arc<Fill>,
    pub(super) block: BlockId,
    pub(super) flight: Arc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flight.finish(Err(FillError::Aborted));
        self.flight.settle(false);
        self.fill.take_out(self.block, &self.flight);
        self.fill.metrics.in_flight.subtract(1);
    }
}

/// A flight's whole life. Not cancelled by readers; dropped only with the runtime, where `Landing` ends it.
pub(super) async fn run(landing: Landing, file: Arc<FileObject>, index: BlockIndex, extent: Extent, mut priority: Priority, way: Way) {
    let (fill, flight) = (landing.fill.clone(), landing.flight.clone());
    let lanes = if way == Way::Own { &fill.lanes } else { &fill.peer_lanes };
    let Some(entered) = fill.enter(lanes, &flight, &mut priority).await else { return };
    if fill.store.contains(&file.object, index) && fill.take_stored(file.object, extent, &flight).await {
        flight.finish(Ok(()));
        flight.settle(true);
        return;
    }
    if flight.has_begun() {
        return;
    }
    let started = Instant::now();
    let outcome = fill.bring(&file, index, extent, &flight, priority, &way).await;
    fill.metrics.duration.observe(started.elapsed());
    let failed = outcome.is_err();
    if outcome.is_err() {
        // Out of the map before anybody hears of the failure: a retry must begin a new flight, not join the dead one.
        fill.shard(landing.block).lock().remove(&landing.block);
    }
    flight.finish(outcome);
    if failed {
        fill.metrics.failed.add(1);
        return;
    }
    let arrival = Arrival { landing, file, index, _entered: entered };
    if arrival.file.placement == Placement::Pass || !fill.stays(&arrival.file, arrival.landing.block, &flight, &way) {
        return arrival.land(false);
    }
    if fill.is_large(&arrival.file.object) {
        let kept = fill.keep(&arrival.file, index, &flight).await;
        return arrival.land(kept);
    }
    let line = fill.puts.clone();
    line.push(move || {
        let kept = fill.put(&arrival.file, index, &flight);
        arrival.land(kept);
    });
}

/// A flight that brought its block, and holds its place until it has landed.
struct Arrival {
    landing: Landing,
    file: Arc<FileObject>,
    index: BlockIndex,
    _entered: Admitted,
}

impl Arrival {
    fn land(self, kept: bool) {
        let Self { landing: Landing { fill, block, flight }, file, index, .. } = &self;
        if !kept {
            debug!(key = %file.describe(), block = index.0, "served, not kept");
            fill.metrics.refused.add(1);
            // Only then are there more requests to come that would ask for the same block.
            if !flight.is_used_up() {
                fill.linger(*block, flight.clone());
            }
        }
        flight.settle(kept);
        if kept && flight.supplier() == Supplier::Source {
            fill.hand_down(file, *index, flight);
        }
    }
}
