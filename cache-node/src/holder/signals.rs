//! A holder's signals: kept for the thread that waits for them, and given back to its children.

use std::io;

/// The signals that end a holder.
fn signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that sigaddset then changes.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        set.assume_init()
    }
}

/// Keeps the signals for the thread that waits for them.
pub(super) fn block() {
    // SAFETY: the set is initialised, and no old set is asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals(), std::ptr::null_mut());
    }
}

/// A child inherits the mask, of ours or of whoever started us, and would never hear SIGTERM. For `pre_exec`: async-signal-safe.
pub(super) fn clear_mask() -> io::Result<()> {
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, and no old set is asked for.
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Calls `told` at each signal that ends a holder, until it says `false`. For a thread of its own, after `block`.
pub(super) fn wait(mut told: impl FnMut() -> bool) {
    let mut signal = 0;
    // SAFETY: the set is initialised, and the signal is written to our own integer.
    while unsafe { libc::sigwait(&signals(), &mut signal) } == 0 {
        if !told() {
            return;
        }
    }
}
