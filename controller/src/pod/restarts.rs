//! When a monitor that died is replaced. Pure: moments are arguments.

use std::time::{Duration, Instant};

/// Deaths that are further apart than this have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(60);

/// How long to wait after each of them. The next one is one too many.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The deaths of late.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    deaths: Vec<Instant>,
}

impl Restarts {
    /// A monitor died, or did not come to life. Answers how long to wait before the next attempt, and
    /// nothing when there should be none.
    pub(super) fn died(&mut self, now: Instant) -> Option<Duration> {
        self.deaths
            .retain(|death| now.saturating_duration_since(*death) < WINDOW);
        let pause = PAUSES.get(self.deaths.len()).copied();
        self.deaths.push(now);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_that_dies_again_and_again_is_replaced_ever_later_and_then_no_more() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        for pause in PAUSES {
            assert_eq!(restarts.died(now), Some(pause));
            now += Duration::from_secs(1);
        }
        assert_eq!(restarts.died(now), None);
        assert_eq!(restarts.died(now + WINDOW), Some(PAUSES[0]));
    }

    #[test]
    fn one_death_an_hour_costs_no_pause() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        for hour in 0..10 {
            let now = start + Duration::from_secs(3600 * hour);
            assert_eq!(restarts.died(now), Some(Duration::ZERO));
        }
    }
}
