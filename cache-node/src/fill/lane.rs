//! Places and memory for flights: what runs at once, and what waits.
//! Knows budgets. Does not know what is in flight.
//! Invariant: what waits for another node holds nothing that a fill from a source needs, so two nodes never wait for each other's places.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Memory is granted in pieces of this size.
pub(super) const BUFFER_UNIT_BYTES: u64 = 4096;

/// Places and memory.
pub(super) struct Lane {
    places: Semaphore,
    memory: Semaphore,
    memory_units: u32,
}

pub(super) type Entered<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>);

impl Lane {
    fn new(places: u32, bytes: u64) -> Self {
        let units = units(bytes).max(1);
        Self { places: Semaphore::new(places.max(1) as usize), memory: Semaphore::new(units as usize), memory_units: units }
    }

    pub(super) fn memory_units(&self) -> u32 {
        self.memory_units
    }

    /// `None` only when the semaphores were closed, which nobody does.
    pub(super) async fn enter(&self, len: usize) -> Option<Entered<'_>> {
        let units = units((len as u64).next_multiple_of(BUFFER_UNIT_BYTES)).min(self.memory_units);
        let place = self.places.acquire().await.ok()?;
        Some((place, self.memory.acquire_many(units).await.ok()?))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / BUFFER_UNIT_BYTES).unwrap_or(u32::MAX >> 3)
}

/// The lanes of one kind of flight.
pub(super) struct Lanes {
    pub(super) all: Lane,
    /// What background flights take first, so that they never hold all of `all`.
    pub(super) background: Lane,
}

impl Lanes {
    pub(super) fn new(places: u32, bytes: u64) -> Self {
        Self { all: Lane::new(places, bytes), background: Lane::new(places - places / 4, bytes / 4 * 3) }
    }

    /// Whether as much is queued as may run.
    pub(super) fn are_crowded(&self) -> bool {
        self.background.places.available_permits() == 0 || self.background.memory.available_permits() == 0
    }
}
