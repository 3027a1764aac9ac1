//! Processes that run beside a container's first one, and attachments to it.

use pod_monitor_schema::wire::{attachment, exec_started, monitor, process};
use pod_monitor_schema::{
    AttachConfig, AttachEnd, ExecConfig, Exit, Message as _, TerminalSize, TraceContext,
};

use crate::connection::answer;
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
    remote: Remote<process::Client>,
    /// Keeps the connection open.
    _monitor: Monitor,
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
    remote: Remote<attachment::Client>,
    /// Keeps the connection open.
    _monitor: Monitor,
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
                        remote: Remote::new(started.process, this.closed(), async {}),
                        _monitor: this,
                    },
                })
            }
        };
        self.remote().call("exec", call).await
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
                Ok((token, attached.get_terminal(), attached.get_attachment()?))
            });
            async move {
                let (token, terminal, end) = attached.await?;
                let streams = streams::fetch(this.run_directory(), &token).await?;
                Ok(Attachment {
                    streams,
                    terminal,
                    end: AttachmentEnd {
                        remote: Remote::new(end, this.closed(), async {}),
                        _monitor: this,
                    },
                })
            }
        };
        self.remote().call("attach", call).await
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
        self.remote.watch("wait for exec", call).await
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
        self.remote.call("kill exec", call).await
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
        self.remote.call("resize exec", call).await
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
        self.remote.watch("wait for attach", call).await
    }
}
