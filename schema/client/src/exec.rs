//! Processes that run beside a container's first one, and attachments to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pod_monitor_schema::wire::{attachment, exec_started, monitor, process};
use pod_monitor_schema::{
    AttachConfig, AttachEnd, ErrorCode, ExecConfig, Exit, Message as _, TerminalSize, TraceContext,
};

use crate::connection::answer;
use crate::link::Link;
use crate::remote::Remote;
use crate::{Monitor, MonitorError, Streams, streams};

const SIGKILL: u8 = 9;

/// A process that runs in a container. Dropping the handle changes nothing for it, except that
/// its streams close, where they were not taken.
#[derive(Debug)]
pub struct Exec {
    /// Its number, as the host sees it.
    pub pid: u32,
    /// Since when it runs, in nanoseconds since the Unix epoch.
    pub started_at: i64,
    /// Our ends of its streams.
    pub streams: Streams,
    /// What to wait for and to signal, apart from the streams.
    pub process: Process,
}

/// A handle of an exec's process. Clones are of the same one.
#[derive(Clone, Debug)]
pub struct Process {
    pid: u32,
    held: Held<process::Client>,
}

/// A connection with the streams of a container's first process.
#[derive(Debug)]
pub struct Attachment {
    /// Our ends of the streams.
    pub streams: Streams,
    /// Whether the container has a terminal. Its output then comes as one stream, stdout.
    pub terminal: bool,
    /// What to wait for, apart from the streams.
    pub end: AttachmentEnd,
}

/// A handle to wait for an attachment's end with.
#[derive(Clone, Debug)]
pub struct AttachmentEnd {
    number: u32,
    held: Held<attachment::Client>,
}

impl Monitor {
    /// Runs a process in a container that runs. It runs when this answers.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn exec(
        &self,
        trace: &TraceContext,
        exec: &ExecConfig,
    ) -> Result<Exec, MonitorError> {
        let (trace, exec, this) = (trace.clone(), exec.clone(), self.clone());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.exec_request();
            trace.write(request.get().init_trace());
            exec.write(request.get().init_exec());
            let started = answer!("exec", request, |started| StartedExec::read(started));
            async move {
                let started = started.await?;
                let fetched = streams::fetch(this.run_directory(), &started.token).await;
                let streams = match fetched {
                    Ok(streams) => streams,
                    Err(error) => {
                        abandon(&started.process).await;
                        return Err(error);
                    }
                };
                Ok(Exec {
                    pid: started.pid,
                    started_at: started.at,
                    streams,
                    process: Process {
                        pid: started.pid,
                        held: Held::new(this, started.process),
                    },
                })
            }
        };
        self.call("exec", call).await
    }

    /// Connects with the streams of a container's first process.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn attach(
        &self,
        trace: &TraceContext,
        attach: &AttachConfig,
    ) -> Result<Attachment, MonitorError> {
        let (trace, attach, this) = (trace.clone(), attach.clone(), self.clone());
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.attach_request();
            trace.write(request.get().init_trace());
            attach.write(request.get().init_attach());
            let attached = answer!("attach", request, |attached| {
                let token = attached.get_token()?.to_vec();
                let end = attached.get_attachment()?;
                Ok((token, attached.get_terminal(), attached.get_number(), end))
            });
            async move {
                let (token, terminal, number, end) = attached.await?;
                let streams = streams::fetch(this.run_directory(), &token).await?;
                Ok(Attachment {
                    streams,
                    terminal,
                    end: AttachmentEnd {
                        number,
                        held: Held::new(this, end),
                    },
                })
            }
        };
        self.call("attach", call).await
    }
}

/// Kills a process whose streams nobody holds: its caller is told that there is none.
async fn abandon(process: &process::Client) {
    let mut request = process.kill_request();
    request.get().set_signal(SIGKILL);
    if let Err(error) = request.send().promise.await {
        tracing::debug!(%error, "cannot kill an exec without streams");
    }
}

/// The answer of an exec.
struct StartedExec {
    token: Vec<u8>,
    pid: u32,
    at: i64,
    process: process::Client,
}

impl StartedExec {
    fn read(reader: exec_started::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            token: reader.get_token()?.to_vec(),
            pid: reader.get_pid(),
            at: reader.get_started_at(),
            process: reader.get_process()?,
        })
    }
}

impl Process {
    /// Waits until it has ended.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn wait(&self) -> Result<Exit, MonitorError> {
        let call = |process: process::Client| answer!("wait for exec", process.wait_request());
        loop {
            let (link, remote) = self.held.current();
            let answer = remote.watch("wait for exec", call).await;
            let Some(next) = self.held.next(&link, cut_off(&answer)).await else {
                return answer;
            };
            self.held.replace(&link, next, self.find().await?);
        }
    }

    /// Sends a signal to it and to all that descend from it.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn kill(&self, signal: u8) -> Result<(), MonitorError> {
        let call = move |process: process::Client| {
            let mut request = process.kill_request();
            request.get().set_signal(signal);
            answer!("kill exec", request)
        };
        loop {
            let (link, remote) = self.held.current();
            let answer = remote.call("kill exec", call).await;
            let Some(next) = self.held.next(&link, cut_off(&answer)).await else {
                return answer;
            };
            self.held.replace(&link, next, self.find().await?);
        }
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn resize(&self, size: TerminalSize) -> Result<(), MonitorError> {
        let call = move |process: process::Client| {
            let mut request = process.resize_request();
            size.write(request.get().init_size());
            answer!("resize exec", request)
        };
        loop {
            let (link, remote) = self.held.current();
            let answer = remote.call("resize exec", call).await;
            let Some(next) = self.held.next(&link, cut_off(&answer)).await else {
                return answer;
            };
            self.held.replace(&link, next, self.find().await?);
        }
    }

    /// Asks for it anew.
    async fn find(&self) -> Result<Remote<process::Client>, MonitorError> {
        let (pid, monitor) = (self.pid, self.held.monitor.clone());
        let call = move |client: monitor::Client| {
            let mut request = client.process_request();
            TraceContext::default().write(request.get().init_trace());
            request.get().set_pid(pid);
            let found = answer!("find exec", request, |found| found.get_process());
            async move { Ok(remote(&monitor, found.await?)) }
        };
        self.held.monitor.call("find exec", call).await
    }
}

impl AttachmentEnd {
    /// Waits until the attachment has ended, and says why.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn wait(&self) -> Result<AttachEnd, MonitorError> {
        let call = |attachment: attachment::Client| async move {
            let read = async {
                let response = attachment.wait_request().send().promise.await?;
                Ok(response.get()?.get_end()?.into())
            };
            read.await
                .map_err(|error| MonitorError::from_capnp("wait for attach", error))
        };
        loop {
            let (link, remote) = self.held.current();
            let answer = remote.watch("wait for attach", call).await;
            let Some(next) = self.held.next(&link, cut_off(&answer)).await else {
                return answer;
            };
            match self.find().await {
                Ok(found) => self.held.replace(&link, next, found),
                // It ended in the moment of an upgrade, and nobody remembers why.
                Err(error) if error.code() == Some(ErrorCode::NotFound) => {
                    return Ok(AttachEnd::Detached);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for it anew.
    async fn find(&self) -> Result<Remote<attachment::Client>, MonitorError> {
        let (number, monitor) = (self.number, self.held.monitor.clone());
        let call = move |client: monitor::Client| {
            let mut request = client.attachment_request();
            TraceContext::default().write(request.get().init_trace());
            request.get().set_number(number);
            let found = answer!("find attachment", request, |found| found.get_attachment());
            async move { Ok(remote(&monitor, found.await?)) }
        };
        self.held.monitor.call("find attachment", call).await
    }
}

/// A capability that is asked for anew when its connection was replaced. Clones share it.
struct Held<C> {
    /// Keeps the connection open.
    monitor: Monitor,
    current: Arc<Mutex<(Arc<Link>, Remote<C>)>>,
}

impl<C> Clone for Held<C> {
    fn clone(&self) -> Self {
        Self {
            monitor: self.monitor.clone(),
            current: Arc::clone(&self.current),
        }
    }
}

impl<C> std::fmt::Debug for Held<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held(..)")
    }
}

impl<C: Clone + 'static> Held<C> {
    /// Runs on the RPC thread.
    fn new(monitor: Monitor, client: C) -> Self {
        let current = (monitor.link(), remote(&monitor, client));
        Self {
            monitor,
            current: Arc::new(Mutex::new(current)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<Link>, Remote<C>)> {
        // Nothing panics while it holds the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> (Arc<Link>, Remote<C>) {
        self.lock().clone()
    }

    /// The connection to ask on again, where the one before was replaced under a call.
    async fn next(&self, link: &Arc<Link>, cut_off: bool) -> Option<Arc<Link>> {
        if !cut_off {
            return None;
        }
        self.monitor.next_link(link).await
    }

    /// Others that share it may have been faster.
    fn replace(&self, before: &Arc<Link>, link: Arc<Link>, found: Remote<C>) {
        let mut current = self.lock();
        if Arc::ptr_eq(&current.0, before) {
            *current = (link, found);
        }
    }
}

fn cut_off<T>(answer: &Result<T, MonitorError>) -> bool {
    matches!(answer, Err(MonitorError::Disconnected { .. }))
}

/// Runs on the RPC thread.
fn remote<C: Clone + 'static>(monitor: &Monitor, client: C) -> Remote<C> {
    Remote::new(client, monitor.link().closed.clone(), async {})
}
