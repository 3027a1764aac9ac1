//! Undoing what was done, in reverse, when a later step fails.

use futures::future::BoxFuture;

use crate::error::PodError;

/// Steps that take back what was done so far.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<BoxFuture<'static, Result<(), PodError>>>,
}

impl std::fmt::Debug for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo")
            .field("steps", &self.steps.len())
            .finish()
    }
}

impl Undo {
    /// Notes how to take back what was just done.
    pub(crate) fn push(
        &mut self,
        step: impl Future<Output = Result<(), PodError>> + Send + 'static,
    ) {
        self.steps.push(Box::pin(step));
    }

    /// Takes everything back, last first, past errors, and answers why that was needed.
    pub(crate) async fn run(self, failed: PodError) -> PodError {
        let mut cleanup = Vec::new();
        for step in self.steps.into_iter().rev() {
            if let Err(error) = step.await {
                cleanup.push(error);
            }
        }
        if cleanup.is_empty() {
            return failed;
        }
        PodError::Cleanup {
            failed: Box::new(failed),
            cleanup,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn failure(subject: &str) -> PodError {
        PodError::Invalid {
            subject: subject.into(),
            cause: "x".into(),
        }
    }

    #[tokio::test]
    async fn steps_run_in_reverse_and_past_errors() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for step in ["first", "second", "third"] {
            let order = order.clone();
            undo.push(async move {
                order.lock().unwrap().push(step);
                if step == "second" {
                    return Err(failure(step));
                }
                Ok(())
            });
        }
        let error = undo.run(failure("cause")).await;
        assert_eq!(*order.lock().unwrap(), ["third", "second", "first"]);
        assert_eq!(
            crate::chain::chain(&error),
            "not all could be undone (second: x) after a failure: cause: x"
        );
        assert_eq!(
            Undo::default().run(failure("cause")).await.to_string(),
            "cause: x"
        );
    }
}
