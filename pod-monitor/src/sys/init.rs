//! The first process of a shared PID namespace.
//!
//! Forked from the monitor and never executed, so its pages are the monitor's. It owns nothing,
//! reaps what it is given, and ends when it is told to, which ends everything in the namespace.

use nix::sys::signal::{SigSet, Signal};

use super::{own, signal};

/// Never returns. Called in a child that was forked into a new PID namespace.
pub(crate) fn run() -> ! {
    let _ = own::close_from(0);
    let _ = nix::sys::prctl::set_name(c"pod-init");
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCHLD);
    awaited.add(Signal::SIGTERM);
    // All are blocked, so none but the awaited ones does anything: the kernel keeps even SIGTERM
    // from a namespace's first process unless it asks for it (pid_namespaces(7)).
    let _ = SigSet::all().thread_set_mask();
    loop {
        while signal::reap_any().is_some() {}
        if awaited.wait() == Ok(Signal::SIGTERM) {
            leave(0);
        }
    }
}

/// Ends a forked child at once: what the monitor would do at its own end is not the child's.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(code) }
}
