//! What all containers wrote to their root file systems.

use std::time::{Duration, Instant};

use husk_image::{DiskUsage, Images};
use tokio::sync::Mutex;

/// How long a sum serves. The kubelet asks every ten seconds by several routes, and a walk of all
/// root file systems of a dense node costs far more than an answer that is a moment old.
const SERVES: Duration = Duration::from_secs(10);

/// The sum over all containers. It is found by walking their files when somebody asks, and kept
/// for ten seconds; nothing is walked when nobody asks. Who asks during a walk waits for that one.
#[derive(Debug, Default)]
pub struct WritableUsage {
    last: Mutex<Option<Measured>>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Instant,
    usage: DiskUsage,
}

impl WritableUsage {
    /// The sum, at most ten seconds old.
    pub async fn measure(&self, images: &Images) -> DiskUsage {
        self.recent(Instant::now(), || walk(images)).await
    }

    async fn recent<F>(&self, now: Instant, walk: impl FnOnce() -> F) -> DiskUsage
    where
        F: Future<Output = DiskUsage>,
    {
        // Held during the walk on purpose: a second one at the same time would be for nothing.
        let mut last = self.last.lock().await;
        if let Some(measured) = *last
            && now.saturating_duration_since(measured.at) < SERVES
        {
            return measured.usage;
        }
        let usage = walk().await;
        *last = Some(Measured { at: now, usage });
        usage
    }
}

/// A container that goes away meanwhile counts as nothing.
async fn walk(images: &Images) -> DiskUsage {
    let mut sum = DiskUsage::default();
    for id in images.known_rootfs().await {
        if let Ok(usage) = images.container_usage(&id).await {
            sum.bytes += usage.bytes;
            sum.inodes += usage.inodes;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sum_serves_for_ten_seconds() {
        let usage = WritableUsage::default();
        let start = Instant::now();
        // Seconds since the first question, what a walk would find, what is answered.
        let rows = [(0, 1, 1), (9, 2, 1), (10, 3, 3), (19, 4, 3), (20, 5, 5)];
        for (seconds, found, expected) in rows {
            let now = start + Duration::from_secs(seconds);
            let walk = || async move {
                DiskUsage {
                    bytes: found,
                    inodes: found,
                }
            };
            let answered = usage.recent(now, walk).await;
            assert_eq!(answered.bytes, expected, "after {seconds} s");
        }
    }

    #[tokio::test]
    async fn questions_during_a_walk_share_it() {
        let usage = WritableUsage::default();
        let now = Instant::now();
        let (finish, finished) = tokio::sync::oneshot::channel();
        let first = usage.recent(now, || async { finished.await.unwrap() });
        let second = usage.recent(now, || async { panic!("a second walk") });
        let found = DiskUsage {
            bytes: 7,
            inodes: 1,
        };
        let finishing = async { finish.send(found).unwrap() };
        let (first, second, ()) = tokio::join!(first, second, finishing);
        assert_eq!((first, second), (found, found));
    }
}
