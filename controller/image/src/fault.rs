//! Points at which suites make a pull or a mount fail, wait or abort. Without the feature `faults`, which no program for
//! users has, each of them is nothing.

use crate::kind::FileError;

/// A step of something done to the store.
pub(crate) fn point(name: &'static str) -> Result<(), FileError> {
    #[cfg(feature = "faults")]
    return pass(name).map_err(FileError::new("passing the fault point", name));
    #[cfg(not(feature = "faults"))]
    {
        let _ = name;
        Ok(())
    }
}

#[cfg(feature = "faults")]
fn pass(name: &'static str) -> std::io::Result<()> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let pass = || fault_point::point(name);
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        // So that a wait holds up nobody else: tasks of this thread's runtime go on elsewhere.
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(pass),
        _ => pass(),
    }
}

/// A step where nothing can fail: it waits or aborts.
pub(crate) fn mark(name: &'static str) {
    // There is nobody to be told.
    drop(point(name));
}
