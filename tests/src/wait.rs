//! Waiting for a state with a deadline, which `HUSK_TEST_PATIENCE` makes longer on slow machines.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::settings;

/// Long enough for any single step on a loaded machine; a test that meets it fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` again and again until it answers, and fails naming `what` once `limit` has passed.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let limit = limit * settings::patience();
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = probe().await {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("{what}: not so after {limit:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`wait_for`], for places that cannot await, such as `Drop`. Tells whether the state came.
pub fn wait_blocking(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit * settings::patience();
    while !probe() {
        if Instant::now() >= end {
            return false;
        }
        pause();
    }
    true
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a state, bounded by a deadline"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_ends_the_wait_and_the_deadline_names_what_was_missing() {
        let mut asked = 0;
        let answer = wait_for("three", DEADLINE, async || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer.await.unwrap(), 3);
        let missing = wait_for::<()>("a miracle", Duration::from_millis(1), async || None).await;
        assert!(missing.unwrap_err().to_string().starts_with("a miracle"));
    }
}
