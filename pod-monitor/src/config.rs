//! The start-up configuration with the monitor's defaults filled in.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pod_monitor_schema::{Limits, MESSAGE_BYTES_MAX, Resume, StartConfig, from_bytes};

use crate::stdio::Bounds;
use crate::sys::memfd;

/// The most that a configuration may be, in bytes.
const CONFIG_MAX: usize = 1 << 20;

/// Reads the configuration from the descriptor that the monitor was started with.
///
/// # Errors
/// The kernel's, and `InvalidData` for what is no configuration.
pub(crate) fn read(fd: &OwnedFd) -> io::Result<StartConfig> {
    let bytes = memfd::tail(fd, CONFIG_MAX)?;
    let config: StartConfig = from_bytes(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    if !config.run_directory.is_absolute() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the run directory is not an absolute path",
        ));
    }
    Ok(config)
}

/// Reads what the monitor is to go on from.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_resume(fd: &OwnedFd) -> io::Result<Resume> {
    let bytes = memfd::tail(fd, CONFIG_MAX)?;
    from_bytes(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// The bounds in the units they are used in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    pub(crate) calls: usize,
    pub(crate) message_bytes: usize,
    pub(crate) connections: usize,
    pub(crate) token: Duration,
    pub(crate) streams: Bounds,
}

impl Checked {
    pub(crate) fn new(limits: &Limits) -> Checked {
        let or = |value: u32, default: u32| match value {
            0 => default,
            value => value,
        };
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let time = |value: u32| Duration::from_millis(u64::from(value));
        Checked {
            calls: size(or(limits.calls_in_flight, 256)),
            message_bytes: size(or(limits.message_bytes, MESSAGE_BYTES_MAX)),
            connections: size(or(limits.connections, 16)),
            token: time(or(limits.token_ms, 10_000)),
            streams: Bounds {
                line_bytes: size(or(limits.log_line_bytes, 16 * 1024)),
                flush: time(or(limits.log_flush_ms, 200)),
                stall: time(or(limits.attach_stall_ms, 10_000)),
            },
        }
    }
}
