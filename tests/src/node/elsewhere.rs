//! What is done at a runtime that the harness did not start, and that goes on after the tests.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::client::Client;

/// Removes the images that have no name beside those at `hosts`, each a registry's `host:port`.
pub(super) fn remove_images(socket: PathBuf, hosts: Vec<String>) -> Result<()> {
    aside(async move || {
        let client = Client::connect(&socket).await?;
        for image in client.list_images().await? {
            let ours = |name: &&String| hosts.iter().any(|host| name.starts_with(host));
            let names: Vec<_> = image.repo_tags.iter().chain(&image.repo_digests).collect();
            if !names.is_empty() && names.iter().all(ours) {
                client.remove_image(&image.id).await?;
            }
        }
        Ok(())
    })
}

/// Does `work` on a thread with an executor of its own: the caller may be within one, or beyond the last.
pub(super) fn aside<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let done = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(work())
    });
    let done = done.join();
    done.unwrap_or_else(|_panic| bail!("what was done aside panicked"))
}
