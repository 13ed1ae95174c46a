//! What a daemon keeps of its mount, so that a holder that was started again gets it back: the device, and the record as both sides know it.
//! Knows what was recorded. Does not know sockets.
//! Invariant: an id whose close the holder may have missed stays in the record until a holder was told again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_mounter::record::Record;
use parking_lot::Mutex;

/// Shared by all connections to one holder. Empty until the mount was adopted.
#[derive(Debug, Default)]
pub(super) struct Kept {
    mount: OnceLock<(OwnedFd, Mutex<Record>)>,
    /// Guards the nodes that are to be closed as soon as somebody listens.
    unclosed: Mutex<BTreeSet<u64>>,
    retired: AtomicBool,
}

impl Kept {
    /// The mount that was adopted. A second adoption by the same process keeps the first device: it is the same connection.
    pub(super) fn keep(&self, device: &OwnedFd, record: &Record) -> io::Result<()> {
        if let Some((_, kept)) = self.mount.get() {
            *kept.lock() = record.clone();
            return Ok(());
        }
        // Somebody who was faster kept the same.
        drop(self.mount.set((device.try_clone()?, Mutex::new(record.clone()))));
        Ok(())
    }

    /// What is to be given back; `None` before the adoption and after the mount's end.
    pub(super) fn mount(&self) -> Option<(&OwnedFd, Record)> {
        if self.is_retired() {
            return None;
        }
        self.mount.get().map(|(device, record)| (device, record.lock().clone()))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Record)) {
        if let Some((_, record)) = self.mount.get() {
            change(&mut record.lock());
        }
    }

    /// The holder was told to close the ids of `nodes`, or wasn't.
    pub(super) fn closed(&self, nodes: &[u64], told: bool) {
        if told {
            self.change(|record| record.backing.retain(|node, _| !nodes.contains(node)));
        } else {
            self.unclosed.lock().extend(nodes);
        }
    }

    /// A node that is registered again is open again: its close is no longer due.
    pub(super) fn registered(&self, node: u64, backing: u32) {
        self.unclosed.lock().remove(&node);
        self.change(|record| {
            record.backing.insert(node, backing);
        });
    }

    pub(super) fn take_unclosed(&self) -> Vec<u64> {
        std::mem::take(&mut *self.unclosed.lock()).into_iter().collect()
    }

    /// The mount is gone: nothing is given back any more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_close_that_nobody_heard_stays_in_the_record_until_it_is_told() {
        let kept = Kept::default();
        let device: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        assert!(kept.mount().is_none());
        kept.keep(&device, &Record::new(vec![1], vec![2])).unwrap();
        kept.registered(6, 1);
        kept.registered(8, 2);
        kept.closed(&[6], false);
        assert_eq!(kept.mount().unwrap().1.backing.len(), 2);
        assert_eq!(kept.take_unclosed(), [6]);
        kept.closed(&[6], true);
        assert_eq!(kept.mount().unwrap().1.backing.into_keys().collect::<Vec<_>>(), [8]);
        kept.closed(&[8], false);
        kept.registered(8, 2);
        assert!(kept.take_unclosed().is_empty(), "open again");
        kept.retire();
        assert!(kept.mount().is_none());
    }
}
