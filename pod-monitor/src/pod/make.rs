//! Making and starting a container, or having it go on from a checkpoint.

use std::path::Path;
use std::rc::Rc;

use pod_monitor_schema::{
    ContainerConfig, ContainerPhase, Created, Error, ErrorCode, EventKind, Started,
};

use super::{Found, Pod};
use crate::console::Console;
use crate::container::Container;
use crate::errors;
use crate::fault;
use crate::log::writer::LogFile;
use crate::reaper::Ended;
use crate::runtime::{Call, CallError, Checkpoint, Made, Stdio, io_step};
use crate::say::say;
use crate::state::{Life, Request};
use crate::stdio::{Connection, Ends, Setup, Streams};
use crate::sys::{clock, pipe};

const CREATE: &str = "create";
const RESTORE: &str = "restore";

impl Pod {
    pub(crate) async fn create(self: Rc<Pod>, config: ContainerConfig) -> Result<Created, Error> {
        check(&config)?;
        fault::point("monitor.create.begin")?;
        let container = self.enter(config)?;
        let gate = container.gate.lock().await;
        let made = self.make(&container, None).await;
        if made.is_err() {
            self.containers.borrow_mut().remove(container.id());
        }
        drop(gate);
        made
    }

    /// A create and start in one.
    pub(crate) async fn restore(
        self: Rc<Pod>,
        config: ContainerConfig,
        checkpoint: Checkpoint,
    ) -> Result<Created, Error> {
        check(&config)?;
        errors::absolute(RESTORE, &checkpoint.images)?;
        errors::absolute(RESTORE, &checkpoint.work)?;
        let container = self.enter(config)?;
        let gate = container.gate.lock().await;
        let starting = container.starting.lock().await;
        let made = self.make(&container, Some(&checkpoint)).await;
        match &made {
            Ok(created) => {
                let started = Started { at: created.at };
                container.life.borrow_mut().run(started.at);
                let told = EventKind::Started(started);
                self.events.emit(container.id(), told);
            }
            Err(_) => drop(self.containers.borrow_mut().remove(container.id())),
        }
        drop((starting, gate));
        made
    }

    /// Takes the id.
    fn enter(&self, config: ContainerConfig) -> Result<Rc<Container>, Error> {
        if self.closing.get() {
            return Err(errors::not_now(
                CREATE,
                &config.id,
                "the pod is shutting down",
            ));
        }
        let mut containers = self.containers.borrow_mut();
        if containers.contains_key(&config.id) {
            let why = "a container has this id";
            return Err(Error::new(ErrorCode::AlreadyExists, CREATE, config.id, why));
        }
        let container = Rc::new(Container::new(config));
        containers.insert(container.id().to_owned(), Rc::clone(&container));
        Ok(container)
    }

    async fn make(
        self: &Rc<Pod>,
        container: &Rc<Container>,
        from: Option<&Checkpoint>,
    ) -> Result<Created, Error> {
        let operation = from.map_or(CREATE, |_| RESTORE);
        let config = &container.config;
        let log_is_new = config
            .log_path
            .as_deref()
            .is_some_and(|path| !path.exists());
        let log = Streams::open_log(config.log_path.as_deref())
            .map_err(|error| Error::io("open log", subject(config.log_path.as_deref()), &error))?;
        let result = match self.call_create(container, from).await {
            Ok((made, connection)) => self.adopt(container, made, connection, log),
            Err(error) => Err(errors::of_call(operation, container.id(), &error)),
        };
        if result.is_err() {
            self.undo(container.id()).await;
            if log_is_new && let Some(path) = &config.log_path {
                drop(std::fs::remove_file(path));
            }
        }
        result
    }

    async fn call_create(
        &self,
        container: &Container,
        from: Option<&Checkpoint>,
    ) -> Result<(Made, Connection), CallError> {
        if !container.config.terminal {
            let (ends, stdio) =
                Ends::pipes(container.config.stdin).map_err(io_step("make pipes"))?;
            let made = self.run_create(container, stdio, None, from).await;
            return match made {
                Ok(made) => {
                    // What is restored runs already: what is in its pipes may be its own.
                    if from.is_none() {
                        ends.discard();
                    }
                    Ok((made, Connection::Pipes(ends)))
                }
                Err(error) => Err(with_errors(error, &ends.errors())),
            };
        }
        let console = Console::bind(&self.runtime).map_err(io_step("bind the console socket"))?;
        let null = || pipe::null().map_err(io_step("open /dev/null"));
        let stdio = Stdio {
            stdin: null()?,
            stdout: null()?,
            stderr: null()?,
        };
        let made = self
            .run_create(container, stdio, Some(&console), from)
            .await?;
        let master = console
            .receive()
            .await
            .map_err(io_step("receive the terminal"))?;
        Ok((made, Connection::Terminal(master)))
    }

    async fn run_create(
        &self,
        container: &Container,
        stdio: Stdio,
        console: Option<&Console>,
        from: Option<&Checkpoint>,
    ) -> Result<Made, CallError> {
        let pid_file = self.runtime.scratch("pid");
        let (id, bundle) = (container.id(), &*container.config.bundle);
        let console_socket = console.map(Console::path);
        let call = match from {
            None => Call::Create {
                id,
                bundle,
                pid_file: pid_file.path(),
                console_socket,
            },
            Some(checkpoint) => Call::Restore {
                id,
                bundle,
                pid_file: pid_file.path(),
                console_socket,
                checkpoint,
            },
        };
        self.runtime.make(&call, pid_file.path(), stdio, None).await
    }

    /// Takes over the container that the runtime has made.
    fn adopt(
        self: &Rc<Pod>,
        container: &Rc<Container>,
        made: Made,
        connection: Connection,
        log: Option<LogFile>,
    ) -> Result<Created, Error> {
        fault::point("monitor.create.called")?;
        let setup = self.setup(container, log);
        let streams = Streams::new(setup, connection)
            .map_err(|error| Error::io("watch streams", container.id(), &error))?;
        *container.streams.borrow_mut() = Some(streams);
        fault::point("monitor.create.streams")?;
        let Made { pid, hold } = made;
        let ended = self.reaper.watch(pid);
        drop(hold);
        let created = Created {
            pid: u32::try_from(pid).unwrap_or(0),
            at: clock::now(),
        };
        *container.life.borrow_mut() = Life::Made {
            pid,
            created_at: created.at,
            phase: ContainerPhase::Created,
        };
        self.events
            .emit(container.id(), EventKind::Created(created));
        self.follow(Rc::clone(container), pid, ended);
        Ok(created)
    }

    /// Where the container's streams go.
    pub(super) fn setup(self: &Rc<Pod>, container: &Container, log: Option<LogFile>) -> Setup {
        let (pod, id) = (Rc::downgrade(self), container.id().to_owned());
        Setup {
            bounds: self.bounds.streams,
            log,
            stdin: container.config.stdin,
            tell: Box::new(move |kind| {
                if let Some(pod) = pod.upgrade() {
                    pod.events.emit(&id, kind);
                }
            }),
        }
    }

    /// Sees the container to its end.
    pub(super) fn follow(
        self: &Rc<Pod>,
        container: Rc<Container>,
        pid: i32,
        ended: impl Future<Output = Option<Ended>> + 'static,
    ) {
        let pod = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let on_oom = || pod.events.emit(container.id(), EventKind::Oom);
            let exit = container.supervise(pid, ended, on_oom).await;
            fault::mark("monitor.exit.seen");
            let starting = container.starting.lock().await;
            container.life.borrow_mut().end(exit);
            pod.events.emit(container.id(), EventKind::Exited(exit));
            container.has_ended(exit);
            drop(starting);
        });
    }

    /// Removes what a failed create may have left at the runtime.
    async fn undo(&self, id: &str) {
        let call = Call::Delete { id, force: true };
        if let Err(error) = self.runtime.call(&call).await {
            say(format_args!("undo the create of {id}: {error}"));
        }
    }

    pub(crate) async fn start(self: Rc<Pod>, id: String) -> Result<Started, Error> {
        let operation = "start";
        let (Found::ToDo(container) | Found::Done(container)) =
            self.find(operation, &id, Request::Start)?;
        let gate = container.gate.lock().await;
        let starting = container.starting.lock().await;
        // Another start may have come first.
        self.find(operation, &id, Request::Start)?;
        fault::point("monitor.start.begin")?;
        let called = self.runtime.call(&Call::Start { id: &id }).await;
        if let Err(error) = called {
            if error.is_cut_off() {
                // Whether its program runs cannot be known; that it does not shall be.
                drop(container.signal(9));
            }
            return Err(errors::of_call(operation, &id, &error));
        }
        fault::mark("monitor.start.called");
        let started = Started { at: clock::now() };
        container.life.borrow_mut().run(started.at);
        self.events.emit(&id, EventKind::Started(started));
        drop((starting, gate));
        Ok(started)
    }
}

fn subject(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}

/// A runtime that does not write its log says what is wrong where the container's errors go.
fn with_errors(mut error: CallError, bytes: &[u8]) -> CallError {
    if let CallError::Refused { said, .. } = &mut error
        && said.is_empty()
    {
        *said = crate::runtime::said(bytes);
    }
    error
}

fn check(config: &ContainerConfig) -> Result<(), Error> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "_+-.".contains(character);
    let id = &config.id;
    if id.is_empty() || id.len() > 1024 || id.starts_with('.') || !id.chars().all(fits) {
        return Err(errors::invalid(CREATE, id, "not a container's id"));
    }
    errors::absolute(CREATE, &config.bundle)?;
    match &config.log_path {
        Some(path) => errors::absolute(CREATE, path),
        None => Ok(()),
    }
}
