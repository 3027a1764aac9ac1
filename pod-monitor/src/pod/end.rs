//! Signals, stops, removals, and the end of the pod.

use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use pod_monitor_schema::{ContainerPhase, Error, ErrorCode, EventKind, Exit, layout};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Found, Pod};
use crate::container::Container;
use crate::errors;
use crate::fault;
use crate::runtime::Call;
use crate::say::say;
use crate::state::{Request, Verdict};

/// How long a container may take to end after SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(30);
/// The longest grace period: for ever, but a moment that can be computed.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SIGKILL: u8 = 9;

impl Pod {
    pub(crate) async fn kill(
        self: Rc<Pod>,
        id: String,
        number: u8,
        all: bool,
    ) -> Result<(), Error> {
        let operation = "kill";
        let (Found::ToDo(container) | Found::Done(container)) =
            self.find(operation, &id, Request::Signal)?;
        if number == 0 || number > 64 {
            return Err(errors::invalid(operation, &id, "no such signal"));
        }
        let call = Call::Kill {
            id: &id,
            signal: number,
            all,
        };
        let called = self.runtime.call(&call).await;
        if number == SIGKILL {
            self.thaw(&container).await;
        }
        match called {
            Err(error) if container.live_pid().is_some() => {
                Err(errors::of_call(operation, &id, &error))
            }
            _ => Ok(()),
        }
    }

    /// Answers when the container has ended.
    pub(crate) async fn stop(
        self: Rc<Pod>,
        id: String,
        number: u8,
        grace: Duration,
    ) -> Result<Exit, Error> {
        let operation = "stop";
        let container = match self.find(operation, &id, Request::Stop)? {
            Found::ToDo(container) => container,
            Found::Done(container) => {
                let exit = container.life.borrow().exit();
                return exit.ok_or_else(|| errors::not_found(operation, &id));
            }
        };
        let deadline = Instant::now() + grace.min(LONGEST_GRACE);
        if !join(&container, deadline) {
            let (sender, receiver) = watch::channel(deadline);
            *container.deadline.borrow_mut() = Some(sender);
            let (pod, container) = (Rc::clone(&self), Rc::clone(&container));
            tokio::task::spawn_local(async move {
                pod.carry_stop(&container, number, receiver).await;
                container.deadline.take();
            });
        }
        self.ended(operation, &container).await
    }

    /// The exit; or an error when nothing came of a stop.
    async fn ended(&self, operation: &str, container: &Container) -> Result<Exit, Error> {
        let given_up = async {
            let deadline = container
                .deadline
                .borrow()
                .as_ref()
                .map(watch::Sender::subscribe);
            if let Some(mut deadline) = deadline {
                // The stop has ended when nobody can change its deadline any more.
                while deadline.changed().await.is_ok() {}
            }
        };
        tokio::select! {
            biased;
            exit = container.ended.wait() => Ok(exit),
            () = given_up => match container.life.borrow().exit() {
                Some(exit) => Ok(exit),
                None => {
                    let why = "it does not end, not even by SIGKILL";
                    Err(Error::new(ErrorCode::DeadlineExceeded, operation, container.id(), why))
                }
            }
        }
    }

    async fn carry_stop(
        &self,
        container: &Container,
        number: u8,
        mut deadline: watch::Receiver<Instant>,
    ) {
        fault::mark("monitor.stop.begin");
        if *deadline.borrow() > Instant::now() {
            self.signal(container, number).await;
            fault::mark("monitor.stop.signalled");
            self.thaw(container).await;
            loop {
                let until = *deadline.borrow_and_update();
                tokio::select! {
                    _ = container.ended.wait() => return,
                    () = tokio::time::sleep_until(until) => break,
                    Ok(()) = deadline.changed() => {}
                }
            }
        }
        self.kill_now(container).await;
    }

    /// SIGKILL, and the wait for its effect.
    async fn kill_now(&self, container: &Container) -> bool {
        self.signal(container, SIGKILL).await;
        self.thaw(container).await;
        let ended = tokio::time::timeout(KILL_TIME, container.ended.wait()).await;
        ended.is_ok()
    }

    /// Through the runtime, which may know better than the monitor what a signal is to go to; and
    /// by the monitor itself where the runtime fails.
    async fn signal(&self, container: &Container, number: u8) {
        let call = Call::Kill {
            id: container.id(),
            signal: number,
            all: false,
        };
        if let Err(error) = self.runtime.call(&call).await
            && container.live_pid().is_some()
        {
            say(format_args!("signal {}: {error}", container.id()));
            drop(container.signal(number));
        }
    }

    /// A frozen process does not act on a signal.
    async fn thaw(&self, container: &Container) {
        let phase = container.life.borrow().phase();
        if !matches!(phase, Some(ContainerPhase::Paused { .. })) {
            return;
        }
        let id = container.id();
        match self.runtime.call(&Call::Resume { id }).await {
            Ok(()) => container.life.borrow_mut().run(0),
            Err(error) => say(format_args!("resume {id}: {error}")),
        }
    }

    pub(crate) async fn delete(self: Rc<Pod>, id: String, force: bool) -> Result<(), Error> {
        let operation = "delete";
        let Some(container) = self.containers.borrow().get(&id).cloned() else {
            return Ok(());
        };
        let gate = container.gate.lock().await;
        let still = self.containers.borrow().get(&id).cloned();
        if !still.is_some_and(|still| Rc::ptr_eq(&still, &container)) {
            return Ok(());
        }
        if let Verdict::Denied(why) = container.judge(Request::Delete { force }) {
            return Err(errors::not_now(operation, &id, why));
        }
        if container.life.borrow().exit().is_none() && !self.kill_now(&container).await {
            let why = "it does not end, not even by SIGKILL";
            return Err(Error::new(ErrorCode::DeadlineExceeded, operation, id, why));
        }
        fault::point("monitor.delete.begin")?;
        self.call_delete(&id)
            .await
            .map_err(|error| errors::of_call(operation, &id, &error))?;
        fault::point("monitor.delete.called")?;
        self.containers.borrow_mut().remove(&id);
        self.events.emit(&id, EventKind::Deleted);
        drop(gate);
        Ok(())
    }

    /// The gentle way first; then the one that also succeeds where the container is half gone.
    async fn call_delete(&self, id: &str) -> Result<(), crate::runtime::CallError> {
        if self
            .runtime
            .call(&Call::Delete { id, force: false })
            .await
            .is_ok()
        {
            return Ok(());
        }
        self.runtime.call(&Call::Delete { id, force: true }).await
    }

    pub(crate) async fn shutdown(self: Rc<Pod>, force: bool) -> Result<(), Error> {
        let operation = "shutdown";
        if !force && !self.containers.borrow().is_empty() {
            return Err(errors::not_now(operation, &self.id, "containers are left"));
        }
        fault::point("monitor.shutdown.begin")?;
        self.closing.set(true);
        let ids: Vec<String> = self.containers.borrow().keys().cloned().collect();
        // At once: each may take its time to end, and whoever waits for the pod waits for all.
        let deletes = ids.into_iter().map(|id| Rc::clone(&self).delete(id, true));
        let failed = join_all(deletes).await.into_iter().filter_map(Result::err);
        if let Some(error) = failed.reduce(both) {
            // So that it can be tried again.
            self.closing.set(false);
            return Err(error);
        }
        fault::mark("monitor.shutdown.deleted");
        self.tear_down()
            .map_err(|error| Error::io(operation, &self.id, &error))?;
        fault::mark("monitor.shutdown.end");
        self.over.notify_one();
        Ok(())
    }

    /// Unpins the namespaces and removes the sockets.
    fn tear_down(&self) -> std::io::Result<()> {
        self.namespaces
            .borrow_mut()
            .tear_down(&self.run_directory)?;
        for socket in [layout::RPC_SOCKET, layout::STREAMS_SOCKET] {
            // They may have been bound elsewhere.
            drop(std::fs::remove_file(self.run_directory.join(socket)));
        }
        Ok(())
    }
}

/// One error that tells of two.
fn both(mut first: Error, second: Error) -> Error {
    first.detail = format!("{}; {second}", first.detail);
    first
}

/// Joins a stop that is under way: the shortest deadline wins.
fn join(container: &Container, deadline: Instant) -> bool {
    let current = container.deadline.borrow();
    let Some(current) = current.as_ref() else {
        return false;
    };
    current.send_if_modified(|until| {
        let sooner = deadline < *until;
        *until = deadline.min(*until);
        sooner
    });
    true
}
