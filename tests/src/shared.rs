//! What the tests of one program share, for as long as one of them holds it.

use std::sync::{Arc, Weak};

use anyhow::Result;
use tokio::sync::Mutex;

/// A value that is made when it is first asked for, and again once all who held it are gone.
#[derive(Debug)]
pub(crate) struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::const_new(Weak::new()))
    }

    /// The value, made by `make` where nobody holds one. Who comes meanwhile waits for it.
    pub(crate) async fn get(&self, make: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let mut held = self.0.lock().await;
        if let Some(value) = held.upgrade() {
            return Ok(value);
        }
        let value = Arc::new(make.await?);
        *held = Arc::downgrade(&value);
        Ok(value)
    }
}
