//! The wall clock, as the wire carries it.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the Unix epoch, of `CLOCK_REALTIME`.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}
