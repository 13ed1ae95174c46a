//! Passes what the kernel must forget from the filesystem to the holder, which writes it.
//! On a thread and a connection of its own: a notification may wait for a lookup that this very session is to answer.

use std::time::Duration;

use forebay_mounter::notify::Notification;
use forebay_mounter::protocol::ProtocolError;
use tokio::sync::mpsc::Receiver;

use crate::fs::Invalidation;
use crate::handover::Handover;

/// Bytes of names a message: as JSON numbers a byte takes up to four.
const NAME_BYTES_MAX: usize = 16 << 10;
const NOTIFICATIONS_MAX: usize = 512;
/// Between two attempts while there is no holder.
const AGAIN_EVERY: Duration = Duration::from_millis(100);

/// Runs until the filesystem or the holder is gone. What was not written then is replayed by the next daemon.
pub(super) fn pump(mut invalidations: Receiver<Invalidation>, holder: &Handover) -> Result<(), ProtocolError> {
    let mut batch = Batch::default();
    while let Some(first) = invalidations.blocking_recv() {
        batch.add(first);
        while !batch.is_full()
            && let Ok(next) = invalidations.try_recv()
        {
            batch.add(next);
        }
        let Batch { notifications, sequence, .. } = std::mem::take(&mut batch);
        tell(holder, &notifications, sequence)?;
    }
    Ok(())
}

/// To forget twice costs nothing, so what a holder that died may not have written is told to the next one.
fn tell(holder: &Handover, notifications: &[Notification], sequence: Option<u64>) -> Result<(), ProtocolError> {
    loop {
        match holder.notify(notifications.to_vec(), sequence) {
            Err(error) if holder.is_lasting() && !holder.is_retired() => {
                tracing::debug!(%error, "the kernel is told what changed when there is a holder again");
                std::thread::park_timeout(AGAIN_EVERY);
            }
            told => return told,
        }
    }
}

#[derive(Default)]
struct Batch {
    notifications: Vec<Notification>,
    name_bytes: usize,
    sequence: Option<u64>,
}

impl Batch {
    fn add(&mut self, invalidation: Invalidation) {
        match invalidation {
            Invalidation::Entry { parent, name } => {
                self.name_bytes += name.len();
                self.notifications.push(Notification::Entry { parent: parent.0, name });
                self.forget_inode(parent.0);
            }
            Invalidation::Inode { id } => self.forget_inode(id.0),
            Invalidation::Listing { directory } => self.forget_inode(directory.0),
            Invalidation::Notified { sequence } => self.sequence = Some(sequence),
        }
    }

    /// Names of one folder come in a row: its listing is forgotten once, after the last of them.
    fn forget_inode(&mut self, node: u64) {
        let forget = Notification::Inode { node };
        if let [.., before, Notification::Entry { parent, .. }] = self.notifications.as_mut_slice()
            && *before == forget
            && *parent == node
        {
            let last = self.notifications.len() - 1;
            self.notifications.swap(last - 1, last);
        } else if self.notifications.last() != Some(&forget) {
            self.notifications.push(forget);
        }
    }

    fn is_full(&self) -> bool {
        self.sequence.is_some() || self.name_bytes >= NAME_BYTES_MAX || self.notifications.len() >= NOTIFICATIONS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::NodeId;

    #[test]
    fn a_folders_listing_is_forgotten_once_after_its_names() {
        let mut batch = Batch::default();
        for name in ["a", "b", "c"] {
            batch.add(Invalidation::Entry { parent: NodeId(6), name: name.into() });
        }
        batch.add(Invalidation::Inode { id: NodeId(8) });
        let entry = |name: &str| Notification::Entry { parent: 6, name: name.into() };
        let expected = [entry("a"), entry("b"), entry("c"), Notification::Inode { node: 6 }, Notification::Inode { node: 8 }];
        assert_eq!(batch.notifications, expected);
        assert!(!batch.is_full());
        batch.add(Invalidation::Notified { sequence: 4 });
        assert!(batch.is_full());
    }
}
