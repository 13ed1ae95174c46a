//! Where all of a run's chance comes from: one number, the seed.
//! Knows numbers. Invariant: the same seed gives the same numbers, also to the standard library's hash maps and to `rand`, which ask the system for
//! theirs: in this program the system is asked here.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

/// SplitMix64 (Steele, Lea and Flood 2014).
fn step(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    (state, mix(state))
}

/// Its finaliser: a number that tells nothing of its neighbours'.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of numbers. Shared by tasks of one thread, which take turns in the same order each time.
pub(crate) struct Chance(Mutex<u64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(mix(seed)))
    }
    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock();
        let (next, number) = step(*state);
        *state = next;
        number
    }
    /// In `[0, end)`; `end` is above 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
    /// In `[from, to]`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }
    pub(crate) fn shuffle<T>(&self, things: &mut [T]) {
        for at in (1..things.len()).rev() {
            things.swap(at, self.below(at + 1));
        }
    }
}

static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SYSTEM: Cell<u64> = const { Cell::new(0) };
}

/// What threads that begin from now on are given for the system's random numbers.
pub(crate) fn seed_system(seed: u64) {
    SEED.store(mix(seed), Relaxed);
}

/// The system's random numbers, as glibc's function of this name gives them: the standard library and `rand` call it, and find this one first.
///
/// # Safety
/// `buffer` has room for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, _flags: c_uint) -> isize {
    SYSTEM.with(|system| {
        let mut at = 0;
        while at < len {
            let (next, number) = step(system.get() ^ SEED.load(Relaxed));
            system.set(next ^ SEED.load(Relaxed));
            let bytes = number.to_le_bytes();
            let part = bytes.len().min(len - at);
            // SAFETY: `[at, at + part)` is inside the caller's buffer, and `bytes` is our own.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>().add(at), part) };
            at += part;
        }
    });
    len as isize
}
