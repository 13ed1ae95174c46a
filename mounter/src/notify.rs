//! Tells the kernel what it should forget, by writing to the device.
//! Each write may block: INVAL_ENTRY waits for the folder's lock, which a pending LOOKUP may hold. So only a thread that may wait calls this.

use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::record::NodeNumber;

/// What changed, as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notification {
    /// A name of a folder means something else now, or nothing.
    Entry { parent: NodeNumber, name: Vec<u8> },
    /// Attributes and cached pages of a node (of a folder: its cached listing).
    Inode { node: NodeNumber },
    /// Drop these nodes if nobody uses them, which sends their FORGET. Since protocol 7.45; before, nothing happens.
    Prune { nodes: Vec<NodeNumber> },
    /// Every cached name is looked up again at its next use. Since protocol 7.44.
    Epoch,
}

const NOTIFY_INVAL_INODE: i32 = 2;
const NOTIFY_INVAL_ENTRY: i32 = 3;
const NOTIFY_RESEND: i32 = 7;
const NOTIFY_INC_EPOCH: i32 = 8;
const NOTIFY_PRUNE: i32 = 9;

impl Notification {
    /// Writes it to the kernel. A node or name that the kernel doesn't know is fine.
    pub fn write(&self, device: impl AsFd) -> io::Result<()> {
        let sent = match self {
            Self::Entry { parent, name } => {
                let length = u32::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                send(device, NOTIFY_INVAL_ENTRY, &[&parent.to_ne_bytes(), &length.to_ne_bytes(), &[0; 4], name, &[0]])
            }
            // Offset 0 and length 0: all pages.
            Self::Inode { node } => send(device, NOTIFY_INVAL_INODE, &[&node.to_ne_bytes(), &[0; 16]]),
            Self::Prune { nodes } => {
                let count = u32::try_from(nodes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                let list: Vec<u8> = nodes.iter().flat_map(|node| node.to_ne_bytes()).collect();
                send(device, NOTIFY_PRUNE, &[&count.to_ne_bytes(), &[0; 12], &list])
            }
            Self::Epoch => send(device, NOTIFY_INC_EPOCH, &[]),
        };
        match sent {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

/// Asks the kernel to send again what was read from the device but never answered. EINVAL: a kernel before 6.9.
pub fn resend(device: impl AsFd) -> io::Result<()> {
    send(device, NOTIFY_RESEND, &[])
}

/// One fuse_out_header {len, error = code, unique = 0} and its payload, in one write.
fn send(device: impl AsFd, code: i32, payload: &[&[u8]]) -> io::Result<()> {
    const HEADER_BYTES: usize = 16;
    let length = HEADER_BYTES + payload.iter().map(|part| part.len()).sum::<usize>();
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?.to_ne_bytes());
    message.extend_from_slice(&code.to_ne_bytes());
    message.extend_from_slice(&0u64.to_ne_bytes());
    for part in payload {
        message.extend_from_slice(part);
    }
    rustix::io::write(device, &message)?;
    Ok(())
}
