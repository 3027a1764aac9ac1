//! Points at which tests make the monitor fail, wait or abort. Without the feature `faults`, which no program for users
//! has, each of them is nothing.

use std::io;

use pod_monitor_schema::Error;

/// Says below which directory points are armed.
pub(crate) fn work_below(directory: &std::path::Path) {
    #[cfg(feature = "faults")]
    fault_point::work_below(directory);
    #[cfg(not(feature = "faults"))]
    let _ = directory;
}

/// A step of a request.
pub(crate) fn point(name: &'static str) -> Result<(), Error> {
    io(name).map_err(|error| Error::io("pass the fault point", name, &error))
}

/// A step where nothing can fail: it waits or aborts.
pub(crate) fn mark(name: &'static str) {
    drop(io(name));
}

/// A step of a module with errors of its own.
#[cfg(feature = "faults")]
pub(crate) fn io(name: &'static str) -> io::Result<()> {
    fault_point::point(name)
}

/// A step of a module with errors of its own.
#[cfg(not(feature = "faults"))]
pub(crate) fn io(_name: &'static str) -> io::Result<()> {
    Ok(())
}
