//! The one place where ended children are taken from the kernel.
//!
//! Owns: the status of every child, own or inherited, from its end until the one who waits for it
//! has it. A child that nobody waits for is taken too, so no orphan stays a zombie.
//!
//! An OCI runtime writes a container's process id to a file, and that process may have ended
//! before the file is read. So while a `Hold` lives, the ends of unknown children are kept.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;

use tokio::sync::oneshot;

use crate::sys::clock;
use crate::sys::signal::{self, ChildSignals, Status};

/// The end of a child.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    pub(crate) status: Status,
    /// Nanoseconds since the Unix epoch.
    pub(crate) at: i64,
}

/// Takes ended children and gives each to the one who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    book: RefCell<Book>,
}

/// While it lives, the ends of children that nobody waits for are remembered.
#[derive(Debug)]
pub(crate) struct Hold(Rc<Reaper>);

impl Reaper {
    /// Serves until the signal descriptor fails, which it does not.
    pub(crate) async fn run(self: Rc<Reaper>, signals: ChildSignals) -> io::Result<()> {
        loop {
            // What ended before the signals were taken over is found by the first asking.
            self.collect();
            signals.wait().await?;
        }
    }

    fn collect(&self) {
        // The time is taken first: once its status is taken the process is seen to be gone, and must have ended before.
        let mut at = clock::now();
        while let Some((pid, status)) = signal::reap_any() {
            self.book.borrow_mut().end(pid, Ended { status, at });
            at = clock::now();
        }
    }

    /// The end of a child. `None` where the child was never one or its end was dropped.
    ///
    /// To be called right after the child was made, without an await in between, or under a hold.
    pub(crate) fn watch(&self, pid: i32) -> impl Future<Output = Option<Ended>> + use<> {
        let end = self.book.borrow_mut().watch(pid);
        async move { end.await.ok() }
    }

    /// Whether somebody waits for this child and it has not ended, as far as is known.
    pub(crate) fn awaits(&self, pid: i32) -> bool {
        let book = self.book.borrow();
        book.waiting.iter().any(|(waited, _)| *waited == pid)
    }

    /// Makes the reaper remember for as long as the result lives.
    pub(crate) fn hold(self: &Rc<Reaper>) -> Hold {
        self.book.borrow_mut().holds += 1;
        Hold(Rc::clone(self))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut book = self.0.book.borrow_mut();
        book.holds -= 1;
        if book.holds == 0 {
            book.unclaimed = Vec::new();
        }
    }
}

/// Who waits for whom, and who ended unawaited.
#[derive(Debug, Default)]
struct Book {
    waiting: Vec<(i32, oneshot::Sender<Ended>)>,
    unclaimed: Vec<(i32, Ended)>,
    holds: usize,
}

impl Book {
    fn watch(&mut self, pid: i32) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        match self.unclaimed.iter().position(|(ended, _)| *ended == pid) {
            Some(index) => {
                let (_, ended) = self.unclaimed.swap_remove(index);
                // The receiver is in our hand: it cannot be gone.
                let _ = sender.send(ended);
            }
            None => self.waiting.push((pid, sender)),
        }
        receiver
    }

    fn end(&mut self, pid: i32, ended: Ended) {
        match self.waiting.iter().position(|(waited, _)| *waited == pid) {
            Some(index) => {
                let (_, sender) = self.waiting.swap_remove(index);
                // Whoever stopped waiting does not want to know.
                let _ = sender.send(ended);
            }
            None if self.holds > 0 => {
                // A number that was used twice while nobody looked means its last user.
                self.unclaimed.retain(|(earlier, _)| *earlier != pid);
                self.unclaimed.push((pid, ended));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: u8) -> Ended {
        Ended {
            status: Status::Code(code),
            at: 1,
        }
    }

    #[test]
    fn an_end_goes_to_the_one_who_waits() {
        let mut book = Book::default();
        let mut one = book.watch(1);
        let mut two = book.watch(2);
        book.end(2, ended(7));
        assert_eq!(two.try_recv().unwrap(), ended(7));
        assert!(one.try_recv().is_err());
        book.end(1, ended(8));
        assert_eq!(one.try_recv().unwrap(), ended(8));
        assert!(book.waiting.is_empty());
    }

    #[test]
    fn unknown_ends_are_kept_only_while_held() {
        let reaper = Rc::new(Reaper::default());
        reaper.book.borrow_mut().end(5, ended(1));
        assert!(reaper.book.borrow_mut().watch(5).try_recv().is_err());
        let hold = reaper.hold();
        reaper.book.borrow_mut().end(6, ended(2));
        reaper.book.borrow_mut().end(6, ended(3));
        assert_eq!(
            reaper.book.borrow_mut().watch(6).try_recv().unwrap(),
            ended(3)
        );
        reaper.book.borrow_mut().end(7, ended(4));
        drop(hold);
        assert!(reaper.book.borrow().unclaimed.is_empty());
    }
}
