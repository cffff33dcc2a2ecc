//! Ctrl-C and SIGTERM end what runs here in order: loops look at [`told`], guards do the rest. A second one ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static TOLD: AtomicBool = AtomicBool::new(false);

extern "C" fn note(signal: libc::c_int) {
    if TOLD.swap(true, Ordering::Relaxed) {
        // SAFETY: ends the process without running anything of it, which is what may be done in a handler.
        #[allow(unsafe_code)]
        unsafe {
            libc::_exit(128 + signal)
        };
    }
}

/// From now on the signals are noted instead of ending the process. Programs that are started have the usual ways again.
pub fn attend() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler touches one atomic and may end the process; both are allowed at any moment.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(signal, note as *const () as libc::sighandler_t)
        };
    }
}

/// Whether one has come.
pub fn told() -> bool {
    TOLD.load(Ordering::Relaxed)
}

/// Sleeps, but not beyond a signal. Whether it slept to the end.
pub fn sleep(span: Duration) -> bool {
    let start = Instant::now();
    while !told() {
        let left = span.saturating_sub(start.elapsed());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
    false
}
