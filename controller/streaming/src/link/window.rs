//! Flow control towards a SPDY peer.
//!
//! The clients of Kubernetes never send WINDOW_UPDATE, so a sender that obeyed the
//! draft would stop for good after 64 KiB. A window therefore binds only once the
//! peer has shown that it keeps one; until then TCP alone holds the sender back.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Gone;
use crate::spdy::INITIAL_WINDOW;

/// The windows that a write has to pass: its stream's and the connection's.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    pub(crate) stream: Arc<Window>,
    pub(crate) connection: Arc<Window>,
}

impl Windows {
    /// Waits until at least one byte may be sent; nothing is asked for an empty write.
    pub(crate) async fn take(&self, wanted: usize) -> Result<usize, Gone> {
        if wanted == 0 {
            return Ok(0);
        }
        let here = self.stream.take(wanted).await?;
        let there = self.connection.take(here).await?;
        self.stream.give_back(here - there);
        Ok(there)
    }
}

/// Bytes sent against bytes allowed.
#[derive(Debug)]
pub(crate) struct Window {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    sent: u64,
    allowed: u64,
    binding: bool,
    reset: bool,
}

impl State {
    fn available(&self) -> usize {
        if !self.binding {
            return usize::MAX;
        }
        usize::try_from(self.allowed.saturating_sub(self.sent)).unwrap_or(usize::MAX)
    }
}

impl Window {
    /// A window that binds from the start where the peer has named its size.
    pub(crate) fn new(named: Option<u32>) -> Arc<Window> {
        let state = State {
            sent: 0,
            allowed: u64::from(named.unwrap_or(INITIAL_WINDOW)),
            binding: named.is_some(),
            reset: false,
        };
        Arc::new(Window {
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    pub(crate) fn grow(&self, delta: u32) {
        let mut state = self.state();
        state.binding = true;
        state.allowed = state.allowed.saturating_add(u64::from(delta));
        drop(state);
        self.changed.notify_waiters();
    }

    /// The peer wants no more: every write fails from now on.
    pub(crate) fn reset(&self) {
        self.state().reset = true;
        self.changed.notify_waiters();
    }

    fn give_back(&self, bytes: usize) {
        let mut state = self.state();
        state.sent = state.sent.saturating_sub(bytes as u64);
    }

    async fn take(&self, wanted: usize) -> Result<usize, Gone> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if state.reset {
                    return Err(Gone);
                }
                let granted = wanted.min(state.available());
                if granted > 0 {
                    state.sent += granted as u64;
                    return Ok(granted);
                }
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_peer_that_keeps_no_window_is_not_waited_for() {
        let window = Window::new(None);
        for _ in 0..10 {
            let taken = window.take(1 << 20).now_or_never();
            assert_eq!(taken.expect("no wait").expect("no reset"), 1 << 20);
        }
    }

    #[test]
    fn a_window_binds_from_the_first_update_and_counts_what_was_sent_before() {
        let window = Window::new(None);
        let sent = window.take(60_000).now_or_never().expect("no wait");
        assert_eq!(sent.expect("no reset"), 60_000);
        window.grow(1);
        let rest = window.take(100_000).now_or_never().expect("some is left");
        assert_eq!(rest.expect("no reset"), 64 * 1024 - 60_000 + 1);
        assert!(
            window.take(1).now_or_never().is_none(),
            "the window is used up"
        );
        window.reset();
        assert!(window.take(1).now_or_never().expect("ends").is_err());
    }

    #[test]
    fn what_the_connection_refuses_goes_back_to_the_stream() {
        let windows = Windows {
            stream: Window::new(Some(100)),
            connection: Window::new(Some(30)),
        };
        let first = windows.take(80).now_or_never().expect("no wait");
        assert_eq!(first.expect("no reset"), 30);
        windows.connection.grow(1000);
        let second = windows.take(80).now_or_never().expect("no wait");
        assert_eq!(second.expect("no reset"), 70);
    }
}
