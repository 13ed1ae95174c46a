//! Answers INIT: which of the kernel's features the mount uses.
//! Knows the wire form of one message. The answer is a pure function of the request, and part of the hand-over record.
//! Kernels from protocol 7.31 on (Linux 5.4) are served; what an older one lacks is left out.

use std::io;
use std::os::fd::AsFd;

use crate::MountError;

const OPCODE_INIT: u32 = 26;
const IN_HEADER_BYTES: usize = 40;
const OUT_HEADER_BYTES: usize = 16;
/// fuse_init_in of 7.36 and later: 16 words. Before, four.
const INIT_IN_BYTES: usize = 64;
const INIT_OUT_BYTES: usize = 64;

const MAJOR: u32 = 7;
const MINOR_MIN: u32 = 31;
/// The newest protocol whose messages the daemon's library reads.
const MINOR_MAX: u32 = 40;

/// Requests of 1 MiB: the largest that every kernel since 4.20 gives.
const MAX_PAGES: u16 = 256;
/// Read-ahead requests in flight. The kernel's default of 12 starves a few readers of large files; with 256 the queue was never the limit.
const MAX_BACKGROUND: u16 = 256;
const CONGESTION_THRESHOLD: u16 = 192;
/// Nothing is written, so the smallest buffer.
const MAX_WRITE_BYTES: u32 = 4096;
/// Backing files must not be on a stacked filesystem themselves.
const MAX_STACK_DEPTH: u32 = 1;

macro_rules! flags {
    ($($name:ident = $bit:literal),* $(,)?) => { $(pub(crate) const $name: u64 = 1 << $bit;)* };
}
flags! {
    ASYNC_READ = 0, BIG_WRITES = 5, DO_READDIRPLUS = 13, READDIRPLUS_AUTO = 14, NO_OPEN_SUPPORT = 17, PARALLEL_DIROPS = 18,
    MAX_PAGES_FLAG = 22, NO_OPENDIR_SUPPORT = 24, EXPLICIT_INVAL_DATA = 25, INIT_EXT = 30,
    HAS_EXPIRE_ONLY = 35, PASSTHROUGH = 37, HAS_RESEND = 39,
}

/// Wanted wherever the kernel has it. Not POSIX_LOCKS and FLOCK_LOCKS: locks are the kernel's own, so they succeed and die with their process.
const WANTED: u64 = ASYNC_READ
    | BIG_WRITES
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | NO_OPEN_SUPPORT
    | PARALLEL_DIROPS
    | MAX_PAGES_FLAG
    | NO_OPENDIR_SUPPORT
    | EXPLICIT_INVAL_DATA
    | HAS_EXPIRE_ONLY
    | HAS_RESEND;

/// What the kernel gives and the mount uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Features {
    /// Minor version of the kernel's protocol, whatever we answered.
    pub kernel_minor: u32,
    pub passthrough: bool,
    /// Without it a dead daemon's requests are lost, so the connection is aborted then.
    pub resend: bool,
    /// FUSE_NOTIFY_PRUNE (7.45).
    pub prune: bool,
}

/// INIT and its answer, as they crossed the device.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub request: Vec<u8>,
    pub reply: Vec<u8>,
    pub features: Features,
}

/// Reads INIT from a device that was just mounted, and answers it.
pub fn shake_hands(device: impl AsFd, passthrough: bool) -> Result<Handshake, MountError> {
    let mut buffer = vec![0; 64 << 10];
    let failed = |op: &str, error: io::Error| MountError::Init { detail: format!("{op} INIT: {error}") };
    let bytes = loop {
        match rustix::io::read(&device, &mut buffer[..]) {
            Ok(bytes) => break bytes,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(failed("read", error.into())),
        }
    };
    buffer.truncate(bytes);
    let handshake = answer(buffer, passthrough)?;
    rustix::io::write(&device, &handshake.reply).map_err(|error| failed("answer", error.into()))?;
    Ok(handshake)
}

/// The answer to the INIT message `request`.
pub fn answer(request: Vec<u8>, passthrough: bool) -> Result<Handshake, MountError> {
    let refused = |detail: String| MountError::Init { detail };
    let word = |at: usize| request.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let body = |index: usize| word(IN_HEADER_BYTES + 4 * index).unwrap_or(0);
    if word(4) != Some(OPCODE_INIT) || request.len() < IN_HEADER_BYTES + 16 {
        return Err(refused("the first message is not INIT".into()));
    }
    let (major, minor, readahead_bytes) = (body(0), body(1), body(2));
    if major != MAJOR || minor < MINOR_MIN {
        return Err(refused(format!("the kernel speaks {major}.{minor}, needed is 7.{MINOR_MIN} (Linux 5.4) or later")));
    }
    let low = u64::from(body(3));
    let offered = if low & INIT_EXT == 0 { low } else { low | u64::from(body(4)) << 32 };
    let wanted = WANTED | if passthrough { PASSTHROUGH } else { 0 };
    let mut agreed = offered & wanted;
    if agreed >> 32 != 0 {
        agreed |= INIT_EXT;
    }
    let features =
        Features { kernel_minor: minor, passthrough: agreed & PASSTHROUGH != 0, resend: agreed & HAS_RESEND != 0, prune: minor >= 45 };

    let mut reply = Vec::with_capacity(OUT_HEADER_BYTES + INIT_OUT_BYTES);
    reply.extend_from_slice(&((OUT_HEADER_BYTES + INIT_OUT_BYTES) as u32).to_ne_bytes());
    reply.extend_from_slice(&0i32.to_ne_bytes());
    reply.extend_from_slice(&request[8..16]); // the request's unique number
    reply.extend_from_slice(&MAJOR.to_ne_bytes());
    reply.extend_from_slice(&minor.min(MINOR_MAX).to_ne_bytes());
    reply.extend_from_slice(&readahead_bytes.to_ne_bytes());
    reply.extend_from_slice(&((agreed & 0xffff_ffff) as u32).to_ne_bytes());
    reply.extend_from_slice(&MAX_BACKGROUND.to_ne_bytes());
    reply.extend_from_slice(&CONGESTION_THRESHOLD.to_ne_bytes());
    reply.extend_from_slice(&MAX_WRITE_BYTES.to_ne_bytes());
    reply.extend_from_slice(&1u32.to_ne_bytes()); // times in nanoseconds
    reply.extend_from_slice(&MAX_PAGES.to_ne_bytes());
    reply.extend_from_slice(&0u16.to_ne_bytes()); // map_alignment, for DAX
    reply.extend_from_slice(&((agreed >> 32) as u32).to_ne_bytes());
    reply.extend_from_slice(&if features.passthrough { MAX_STACK_DEPTH } else { 0 }.to_ne_bytes());
    reply.resize(OUT_HEADER_BYTES + INIT_OUT_BYTES, 0);
    Ok(Handshake { request, reply, features })
}

impl Handshake {
    /// Reads a recorded pair back.
    pub fn recorded(request: &[u8], reply: &[u8]) -> Result<Self, MountError> {
        let passthrough = reply
            .get(OUT_HEADER_BYTES + 32..OUT_HEADER_BYTES + 36)
            .and_then(|bytes| bytes.try_into().ok())
            .is_some_and(|bytes| u64::from(u32::from_ne_bytes(bytes)) << 32 & PASSTHROUGH != 0);
        let again = answer(request.to_vec(), passthrough)?;
        Ok(Self { request: request.to_vec(), reply: reply.to_vec(), features: again.features })
    }
}

/// An INIT for the daemon's library, which insists on a handshake of its own: the recorded request without what it need not know.
pub fn synthetic(handshake: &Handshake) -> Vec<u8> {
    let mut message = handshake.request.clone();
    message.resize(IN_HEADER_BYTES + INIT_IN_BYTES, 0);
    message[..4].copy_from_slice(&((IN_HEADER_BYTES + INIT_IN_BYTES) as u32).to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(minor: u32, flags: u64) -> Vec<u8> {
        let mut message = vec![0; IN_HEADER_BYTES];
        message[..4].copy_from_slice(&104u32.to_ne_bytes());
        message[4..8].copy_from_slice(&OPCODE_INIT.to_ne_bytes());
        message[8..16].copy_from_slice(&7u64.to_ne_bytes());
        for word in [7, minor, 131_072, flags as u32, (flags >> 32) as u32] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.resize(104, 0);
        message
    }

    #[test]
    fn a_new_kernel_gets_everything_wanted() {
        let shaken = answer(request(45, u64::MAX), true).expect("valid");
        assert_eq!(shaken.features, Features { kernel_minor: 45, passthrough: true, resend: true, prune: true });
        assert_eq!(shaken.reply.len(), 80);
        assert_eq!(&shaken.reply[8..16], &7u64.to_ne_bytes());
        let recorded = Handshake::recorded(&shaken.request, &shaken.reply).expect("own pair");
        assert_eq!(recorded.features, shaken.features);
    }

    #[test]
    fn an_older_kernel_gets_what_it_has() {
        let shaken = answer(request(31, 0x03ff_ffff), true).expect("valid");
        assert_eq!(shaken.features, Features { kernel_minor: 31, passthrough: false, resend: false, prune: false });
        assert!(!Handshake::recorded(&shaken.request, &shaken.reply).expect("own pair").features.passthrough);
    }

    #[test]
    fn what_is_not_init_or_too_old_is_refused() {
        assert!(answer(request(30, 0), true).is_err());
        assert!(answer(vec![0; 104], true).is_err());
        assert!(answer(Vec::new(), true).is_err());
    }
}
