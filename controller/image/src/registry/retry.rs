//! When to try again, and how long to wait before: pure, with the clock as an argument.

use std::time::Duration;

use jiff::Timestamp;

/// Requests in a row that may fail before it is given up.
pub(super) const ATTEMPTS: u32 = 5;
/// A registry that nobody listens on is given up sooner, so that the next mirror gets its turn.
pub(super) const CONNECT_ATTEMPTS: u32 = 3;
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// No server is obeyed that wants to be left alone for longer: the caller has a deadline too.
const LONGEST_OBEYED: Duration = Duration::from_secs(60);

/// What a status means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The answer is final.
    Final,
    /// Wait and try again.
    Again,
}

pub(super) fn verdict(status: u16) -> Verdict {
    match status {
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Verdict::Again,
        _ => Verdict::Final,
    }
}

/// The wait before attempt `attempt` (the second is 1): what the server asks for, else doubling from
/// 200 ms, shortened by up to half at random so that many nodes do not come back together.
pub(super) fn delay(attempt: u32, asked: Option<Duration>, random: u8) -> Duration {
    if let Some(asked) = asked {
        return asked.min(LONGEST_OBEYED);
    }
    let doubled = FIRST * 2u32.pow(attempt.clamp(1, 10) - 1);
    let full = doubled.min(LONGEST);
    full - full / 2 * u32::from(random) / 255
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds or a date.
pub(super) fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(header)
        .ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// A byte that need not be a secret.
pub(super) fn random() -> u8 {
    let mut byte = [128];
    // Without entropy every wait is the middle one.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let millis = |attempt, random| delay(attempt, None, random).as_millis();
        assert_eq!([1, 2, 3].map(|attempt| millis(attempt, 0)), [200, 400, 800]);
        assert_eq!((millis(1, 255), millis(50, 0)), (100, 10_000));
        let asked = Some(Duration::from_secs(7));
        assert_eq!(delay(1, asked, 9), Duration::from_secs(7));
        let long = Some(Duration::from_secs(86_400));
        assert_eq!(delay(1, long, 9), Duration::from_secs(60));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2015-10-21T07:27:00Z".parse().unwrap();
        for (header, expect) in [
            ("3", Some(3)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:20:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(
                retry_after(header, now),
                expect.map(Duration::from_secs),
                "{header}"
            );
        }
    }
}
