//! One-time tokens: who knows one may open what was put behind it, once and soon.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Random bytes in a token: 256 bits.
const BYTES: usize = 32;

/// Sessions that wait for their client, with no more than `capacity` of them.
pub(crate) struct Tokens<T> {
    waiting: Vec<Waiting<T>>,
    capacity: usize,
    lifetime: Duration,
}

struct Waiting<T> {
    token: String,
    deadline: Instant,
    value: T,
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Too many sessions wait for their client.
    #[error("{0} streaming sessions already wait for their client")]
    Full(usize),
    /// The kernel gave no random bytes.
    #[error("random bytes for a token")]
    Random(#[source] getrandom::Error),
}

impl<T> Tokens<T> {
    pub(crate) fn new(capacity: usize, lifetime: Duration) -> Tokens<T> {
        Tokens {
            waiting: Vec::new(),
            capacity,
            lifetime,
        }
    }

    /// A new token for a value; values whose time is over make room.
    pub(crate) fn issue(&mut self, value: T, now: Instant) -> Result<String, TokenError> {
        self.expire(now);
        if self.waiting.len() >= self.capacity {
            return Err(TokenError::Full(self.waiting.len()));
        }
        let mut random = [0; BYTES];
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        let token = URL_SAFE_NO_PAD.encode(random);
        let deadline = now + self.lifetime;
        self.waiting.push(Waiting {
            token: token.clone(),
            deadline,
            value,
        });
        Ok(token)
    }

    /// The value behind a token, which is void from then on.
    ///
    /// All tokens are compared, in full, so that the time taken says nothing about any.
    pub(crate) fn redeem(&mut self, token: &str, now: Instant) -> Option<T> {
        self.expire(now);
        let mut found = None;
        for (index, waiting) in self.waiting.iter().enumerate() {
            if equal(waiting.token.as_bytes(), token.as_bytes()) {
                found = Some(index);
            }
        }
        found.map(|index| self.waiting.swap_remove(index).value)
    }

    fn expire(&mut self, now: Instant) {
        self.waiting.retain(|waiting| now < waiting.deadline);
    }
}

/// Tells how many wait and never a token: whoever reads a log must not get in.
impl<T> fmt::Debug for Tokens<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("waiting", &self.waiting.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// Compares without stopping at the first difference; only the length shows.
fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let pairs = left.iter().zip(right);
    black_box(pairs.fold(0, |difference, (a, b)| black_box(difference | (a ^ b)))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_works_once() {
        let (mut tokens, now) = (Tokens::new(10, MINUTE), Instant::now());
        let first = tokens.issue("first", now).expect("room");
        let second = tokens.issue("second", now).expect("room");
        assert_ne!(first, second);
        assert!(first.len() >= 43, "at least 256 bits: {first}");
        assert!(!format!("{tokens:?}").contains(&first), "{tokens:?}");
        assert_eq!(tokens.redeem(&first, now), Some("first"));
        assert_eq!(tokens.redeem(&first, now), None);
        assert_eq!(tokens.redeem(&second, now), Some("second"));
    }

    #[test]
    fn nothing_but_the_whole_token_opens() {
        let (mut tokens, now) = (Tokens::new(10, MINUTE), Instant::now());
        let token = tokens.issue((), now).expect("room");
        let prefix = token.get(..42).expect("prefix");
        for wrong in [
            "",
            prefix,
            &format!("{token}A"),
            &token.to_lowercase(),
            &"A".repeat(43),
        ] {
            assert_eq!(tokens.redeem(wrong, now), None, "{wrong}");
        }
        assert_eq!(tokens.redeem(&token, now), Some(()));
    }

    #[test]
    fn a_token_dies_with_its_time_and_makes_room() {
        let (mut tokens, now) = (Tokens::new(1, MINUTE), Instant::now());
        let old = tokens.issue(1, now).expect("room");
        assert!(matches!(tokens.issue(2, now), Err(TokenError::Full(1))));
        let later = now + MINUTE;
        let new = tokens.issue(2, later).expect("room again");
        assert_eq!(tokens.redeem(&old, later), None);
        assert_eq!(tokens.redeem(&new, later), Some(2));
    }
}
