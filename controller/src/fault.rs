//! Points at which the suites make the daemon fail, wait or abort. Without the feature `faults`, which no program for
//! users has, each of them is nothing.

use std::io;

/// A point made the step fail that it is in.
#[derive(Debug)]
pub(crate) struct Fired {
    /// The point's name.
    pub(crate) point: &'static str,
    /// As the suite wants it.
    pub(crate) source: io::Error,
}

/// Says below which directory points are armed.
pub(crate) fn work_below(directory: &std::path::Path) {
    #[cfg(feature = "faults")]
    fault_point::work_below(directory);
    #[cfg(not(feature = "faults"))]
    let _ = directory;
}

/// A step of something asked of a pod.
pub(crate) fn point(name: &'static str) -> Result<(), Fired> {
    io(name).map_err(|source| Fired {
        point: name,
        source,
    })
}

/// A step where nothing can fail: it waits or aborts.
pub(crate) fn mark(name: &'static str) {
    // There is nobody to be told.
    drop(io(name));
}

/// A step of a module with errors of its own.
#[cfg(feature = "faults")]
pub(crate) fn io(name: &'static str) -> io::Result<()> {
    fault_point::point_of_task(name)
}

/// A step of a module with errors of its own.
#[cfg(not(feature = "faults"))]
pub(crate) fn io(_name: &'static str) -> io::Result<()> {
    Ok(())
}
