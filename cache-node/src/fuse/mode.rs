//! Whether OPEN is answered: the switch to no-open, which is for good and must be in the record before the kernel learns of it.

use std::sync::atomic::{AtomicBool, Ordering};

use forebay_mounter::protocol::ProtocolError;

use crate::handover::Handover;

/// One way: from answering OPEN to ENOSYS.
#[derive(Debug)]
pub(super) struct Mode {
    no_open: AtomicBool,
}

impl Mode {
    pub(super) fn new(recorded_no_open: bool) -> Self {
        Self { no_open: AtomicBool::new(recorded_no_open) }
    }

    pub(super) fn is_no_open(&self) -> bool {
        self.no_open.load(Ordering::Acquire)
    }

    /// Records the switch with the holder, once it matters; then ENOSYS may be answered. Two threads may both record it: the same twice.
    pub(super) fn enter_no_open(&self, handover: &Handover) -> Result<(), ProtocolError> {
        if !self.is_no_open() {
            handover.no_open()?;
            self.no_open.store(true, Ordering::Release);
            tracing::info!("the kernel opens files without asking from now on");
        }
        Ok(())
    }
}
