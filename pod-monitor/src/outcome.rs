//! What becomes known once, and those who wait for it.
//!
//! A `watch` channel tells of any number of changes and takes ten times the room for it: what a
//! container costs the monitor is a budget.

use std::cell::Cell;
use std::fmt::{self, Debug, Formatter};

use tokio::sync::Notify;

/// A value that is set once.
pub(crate) struct Outcome<T> {
    value: Cell<Option<T>>,
    told: Notify,
}

impl<T: Copy> Outcome<T> {
    /// Known from the start where there is a value.
    pub(crate) fn new(value: Option<T>) -> Outcome<T> {
        Outcome {
            value: Cell::new(value),
            told: Notify::new(),
        }
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.value.get()
    }

    /// Tells it to everybody who waits. The first value stays.
    pub(crate) fn set(&self, value: T) {
        self.value.set(self.value.get().or(Some(value)));
        self.told.notify_waiters();
    }

    pub(crate) async fn wait(&self) -> T {
        loop {
            // It hears of everything from here on, so nothing is missed between look and wait.
            let told = self.told.notified();
            if let Some(value) = self.get() {
                return value;
            }
            told.await;
        }
    }
}

impl<T: Copy + Debug> Debug for Outcome<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outcome").field(&self.value.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[tokio::test(flavor = "current_thread")]
    async fn everybody_hears_the_first_value() {
        let outcome = Rc::new(Outcome::new(None));
        let local = tokio::task::LocalSet::new();
        let waits = [1, 2].map(|_| {
            let outcome = Rc::clone(&outcome);
            local.spawn_local(async move { outcome.wait().await })
        });
        local
            .run_until(async {
                tokio::task::yield_now().await;
                assert_eq!(outcome.get(), None);
                outcome.set(7);
                outcome.set(8);
                for wait in waits {
                    assert_eq!(wait.await.unwrap(), 7);
                }
                assert_eq!(outcome.wait().await, 7);
            })
            .await;
        assert_eq!(Outcome::new(Some(3)).wait().await, 3);
    }
}
