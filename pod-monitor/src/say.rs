//! The monitor's own log: one line on standard error for what an operator must know.

use std::fmt::Arguments;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A write of this many bytes to a pipe that has room is whole and does not wait (pipe(7)).
const LONGEST: usize = 4096;

/// Writes a line, or drops it where that would mean waiting: a pod does not stand still because
/// nobody reads what its monitor says.
pub(crate) fn say(message: Arguments<'_>) {
    let mut line = format!("pod-monitor: {message}");
    let end = line.floor_char_boundary(LONGEST - 1);
    line.truncate(end);
    line.push('\n');
    let stderr = rustix::stdio::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
        // Nobody is left to be told.
        let _ = rustix::io::write(stderr, line.as_bytes());
    }
}
