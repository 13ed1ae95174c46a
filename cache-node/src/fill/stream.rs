//! A buffer that readers share while one writer fills it from the front.
//! Knows bytes and how many are there. Does not know where they come from or who waits.
//! Invariant: bytes below the watermark never change again, so readers need no lock.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The shared side: read what is there.
pub(super) struct Growing {
    bytes: UnsafeCell<Box<[MaybeUninit<u8>]>>,
    /// Kept apart so that the writer never has to form a reference to the whole slice.
    start: *mut u8,
    len: usize,
    filled: AtomicUsize,
}

// SAFETY: the one `Writer` writes only at and above `filled`, readers read only below it, and `filled` grows with release ordering
// after the bytes were written: no byte is written and read at the same time. The allocation lives as long as `self`.
unsafe impl Send for Growing {}
// SAFETY: as above.
unsafe impl Sync for Growing {}

/// Bytes of a buffer that are there, to be handed on without a copy.
pub(super) struct Part {
    buffer: Arc<Growing>,
    range: Range<usize>,
}

impl Part {
    /// Panics when not all of `range` is there.
    pub(super) fn of(buffer: &Arc<Growing>, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= buffer.filled().len(), "only what is there is handed on");
        Bytes::from_owner(Self { buffer: buffer.clone(), range })
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.filled()[self.range.clone()]
    }
}

/// The one that fills. Not `Clone`: there is one writer by type.
pub(super) struct Writer(Arc<Growing>);

impl Growing {
    /// An empty buffer of `len` bytes, not zeroed, with its writer.
    pub(super) fn new(len: usize) -> (Arc<Self>, Writer) {
        let mut bytes: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice(len);
        let start = bytes.as_mut_ptr().cast::<u8>();
        let shared = Arc::new(Self { bytes: UnsafeCell::new(bytes), start, len, filled: AtomicUsize::new(0) });
        (shared.clone(), Writer(shared))
    }

    /// What is there by now.
    pub(super) fn filled(&self) -> &[u8] {
        let filled = self.filled.load(Ordering::Acquire);
        // SAFETY: `start` points to `len >= filled` bytes that `bytes` owns as long as `self` lives; those below `filled` were
        // initialised before it grew, and are never written again.
        unsafe { std::slice::from_raw_parts(self.start, filled) }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // The box frees its bytes by itself; this pair only says that the two fields stayed consistent.
        debug_assert!(self.filled.load(Ordering::Relaxed) <= self.len);
        debug_assert_eq!(self.bytes.get_mut().len(), self.len);
    }
}

impl Writer {
    /// Puts `data` behind what is there and gives how much is there now. `false` in place of it when it doesn't fit: the source
    /// sent more than was asked for.
    pub(super) fn append(&mut self, data: &[u8]) -> Option<usize> {
        let shared = &*self.0;
        let filled = shared.filled.load(Ordering::Relaxed);
        let end = filled.checked_add(data.len()).filter(|end| *end <= shared.len)?;
        // SAFETY: `[filled, end)` is inside the allocation, only this writer (there is one, and it is borrowed mutably) writes
        // there, and no reader looks at or above `filled`. `data` can't overlap: nobody has a slice of that part.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), shared.start.add(filled), data.len()) };
        shared.filled.store(end, Ordering::Release);
        Some(end)
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled() == self.0.len
    }

    /// How much is there.
    pub(super) fn filled(&self) -> usize {
        self.0.filled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_a_growing_prefix_and_never_a_changing_byte() {
        let (shared, mut writer) = Growing::new(1 << 16);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < 1 << 16 {
                        let bytes = shared.filled();
                        assert!(bytes.len() >= seen);
                        assert!(bytes[seen..].iter().enumerate().all(|(at, byte)| *byte == ((seen + at) % 251) as u8));
                        seen = bytes.len();
                    }
                });
            }
            let all: Vec<u8> = (0..1_usize << 16).map(|at| (at % 251) as u8).collect();
            for piece in all.chunks(1000) {
                writer.append(piece).expect("it fits");
            }
        });
        assert!(writer.is_full());
        assert_eq!(writer.append(&[1]), None, "one byte too many is refused");
        assert_eq!(writer.append(&[]), Some(1 << 16));
    }
}
