//! The daemon: everything put together.

use crate::config::Config;

/// Why the daemon could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// This part of the program does not exist yet.
    #[error("not built yet")]
    NotBuilt,
}

/// Serves until it is told to stop.
///
/// # Errors
/// [`ServeError`].
#[expect(clippy::unused_async, reason = "the server awaits")]
pub async fn run(config: Config) -> Result<(), ServeError> {
    drop(config);
    Err(ServeError::NotBuilt)
}
