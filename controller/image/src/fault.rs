//! Points at which suites make a pull or a mount fail, wait or abort. Without the feature `faults`, which no program for
//! users has, each of them is nothing.

use crate::kind::FileError;

/// A step of something done to the store.
pub(crate) fn point(name: &'static str) -> Result<(), FileError> {
    #[cfg(feature = "faults")]
    return fault_point::point_of_task(name)
        .map_err(FileError::new("passing the fault point", name));
    #[cfg(not(feature = "faults"))]
    {
        let _ = name;
        Ok(())
    }
}

/// A step where nothing can fail: it waits or aborts.
pub(crate) fn mark(name: &'static str) {
    // There is nobody to be told.
    drop(point(name));
}
