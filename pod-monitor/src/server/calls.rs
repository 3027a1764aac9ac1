//! The methods of the contract's `Monitor`.

use std::rc::Rc;
use std::time::Duration;

use capnp::Error as Fault;
use capnp_rpc::new_client;
use pod_monitor_schema::streams::Token;
use pod_monitor_schema::wire::monitor::*;
use pod_monitor_schema::{
    AttachConfig, ContainerConfig, Error, ErrorCode, ExecConfig, Exit, Hello, Message,
    OLDEST_VERSION, TerminalSize, TraceContext, VERSION, Welcome, capability, write_result,
};

use super::Connection;
use super::capabilities::{Attachment, Process};
use crate::pod::Pod;
use crate::runtime::Checkpoint;

type Answer = Result<(), Fault>;

impl Server for Connection {
    async fn hello(self: Rc<Self>, params: HelloParams, mut results: HelloResults) -> Answer {
        let hello = Hello::read(params.get()?.get_client()?)?;
        let answer = welcome(&self.pod, &hello);
        self.greeted.set(answer.is_ok());
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn subscribe(
        self: Rc<Self>,
        params: SubscribeParams,
        mut results: SubscribeResults,
    ) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let answer = self.admit("subscribe", &trace);
        if answer.is_ok() {
            let (sink, hang_up) = (params.get_sink()?, Rc::clone(&self.hang_up));
            self.pod.events.subscribe(sink, hang_up, trace.request_id);
        }
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn state(self: Rc<Self>, params: StateParams, mut results: StateResults) -> Answer {
        let trace = TraceContext::read(params.get()?.get_trace()?)?;
        let answer = self.answer("state", &trace, |pod| Ok(pod.state()));
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn create(self: Rc<Self>, params: CreateParams, mut results: CreateResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let config = ContainerConfig::read(params.get_container()?)?;
        let answer = self.carry("create", trace, |pod| pod.create(config)).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn start(self: Rc<Self>, params: StartParams, mut results: StartResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let answer = self.carry("start", trace, |pod| pod.start(id)).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn kill(self: Rc<Self>, params: KillParams, mut results: KillResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let (id, signal, all) = (
            params.get_id()?.to_string()?,
            params.get_signal(),
            params.get_all(),
        );
        let answer = self
            .carry("kill", trace, |pod| pod.kill(id, signal, all))
            .await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn stop(self: Rc<Self>, params: StopParams, mut results: StopResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let (id, signal) = (params.get_id()?.to_string()?, params.get_signal());
        let grace = Duration::from_millis(params.get_grace_ms());
        let answer = self
            .carry("stop", trace, |pod| pod.stop(id, signal, grace))
            .await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn delete(self: Rc<Self>, params: DeleteParams, mut results: DeleteResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let (id, force) = (params.get_id()?.to_string()?, params.get_force());
        let answer = self
            .carry("delete", trace, |pod| pod.delete(id, force))
            .await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn exec(self: Rc<Self>, params: ExecParams, mut results: ExecResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let config = ExecConfig::read(params.get_exec()?)?;
        let result = results.get().init_result();
        let connection = Rc::downgrade(&self.hang_up);
        let exec = async move |pod: Rc<Pod>| {
            let started = Rc::clone(&pod).exec(config).await?;
            // Here, for the connection may have ended meanwhile.
            pod.vault.bind(&started.token, connection);
            Ok(started)
        };
        match self.carry("exec", trace, exec).await {
            Err(error) => error.write(result.init_error()),
            Ok(started) => {
                let mut value = result.init_value();
                value.set_token(&started.token.0);
                value.set_pid(u32::try_from(started.process.pid()).unwrap_or(0));
                value.set_started_at(started.at);
                value.set_process(new_client(Process(started.process)));
            }
        }
        Ok(())
    }

    async fn attach(self: Rc<Self>, params: AttachParams, mut results: AttachResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let config = AttachConfig::read(params.get_attach()?)?;
        let result = results.get().init_result();
        match self.answer("attach", &trace, |pod| pod.attach(&config)) {
            Err(error) => error.write(result.init_error()),
            Ok(attached) => {
                self.bind(&attached.token);
                let mut value = result.init_value();
                value.set_token(&attached.token.0);
                value.set_terminal(attached.terminal);
                value.set_number(attached.client.number);
                value.set_attachment(new_client(Attachment(attached.client)));
            }
        }
        Ok(())
    }

    async fn resize(self: Rc<Self>, params: ResizeParams, mut results: ResizeResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let size = TerminalSize::read(params.get_size()?)?;
        let answer = self.answer("resize", &trace, |pod| pod.resize(&id, size));
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn reopen_log(
        self: Rc<Self>,
        params: ReopenLogParams,
        mut results: ReopenLogResults,
    ) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let answer = self.answer("reopen log", &trace, |pod| pod.reopen_log(&id));
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn update(self: Rc<Self>, params: UpdateParams, mut results: UpdateResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let resources = params.get_resources()?.to_vec();
        let work = |pod: Rc<Pod>| pod.update(id, resources);
        let answer = self.carry("update", trace, work).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn checkpoint(
        self: Rc<Self>,
        params: CheckpointParams,
        mut results: CheckpointResults,
    ) -> Answer {
        since(2, "checkpoint")?;
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let checkpoint = Checkpoint {
            images: params.get_images()?.to_string()?.into(),
            work: params.get_work()?.to_string()?.into(),
        };
        let limit = params.get_timeout_ms();
        let limit = (limit > 0).then(|| Duration::from_millis(limit));
        let asked = |pod: Rc<Pod>| async move { pod.checkpoint(&id, &checkpoint, limit).await };
        let answer = self.carry("checkpoint", trace, asked).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn restore(self: Rc<Self>, params: RestoreParams, mut results: RestoreResults) -> Answer {
        since(2, "restore")?;
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let config = ContainerConfig::read(params.get_container()?)?;
        let checkpoint = Checkpoint {
            images: params.get_images()?.to_string()?.into(),
            work: params.get_work()?.to_string()?.into(),
        };
        let work = |pod: Rc<Pod>| pod.restore(config, checkpoint);
        let answer = self.carry("restore", trace, work).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn shutdown(
        self: Rc<Self>,
        params: ShutdownParams,
        mut results: ShutdownResults,
    ) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let force = params.get_force();
        let answer = self
            .carry("shutdown", trace, |pod| pod.shutdown(force))
            .await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn pause(self: Rc<Self>, params: PauseParams, mut results: PauseResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let answer = self.carry("pause", trace, |pod| pod.pause(id)).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn resume(self: Rc<Self>, params: ResumeParams, mut results: ResumeResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let answer = self.carry("resume", trace, |pod| pod.resume(id)).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn escrow(self: Rc<Self>, params: EscrowParams, mut results: EscrowResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let result = results.get().init_result();
        match self.answer("escrow", &trace, |pod| pod.escrow(&id)) {
            Err(error) => error.write(result.init_error()),
            Ok(token) => {
                self.bind(&token);
                result.init_value().set_token(&token.0);
            }
        }
        Ok(())
    }

    async fn settle(self: Rc<Self>, params: SettleParams, mut results: SettleResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let id = params.get_id()?.to_string()?;
        let exit = Exit::read(params.get_exit()?)?;
        let answer = self.answer("settle", &trace, |pod| pod.settle(&id, exit));
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn upgrade(self: Rc<Self>, params: UpgradeParams, mut results: UpgradeResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let token = Token::from_slice(params.get_token()?);
        let calls = self.calls.clone();
        let work = |pod: Rc<Pod>| pod.upgrade(token, calls);
        let answer = self.carry("upgrade", trace, work).await;
        write_result(&answer, results.get().init_result());
        Ok(())
    }

    async fn process(self: Rc<Self>, params: ProcessParams, mut results: ProcessResults) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let pid = params.get_pid();
        let result = results.get().init_result();
        match self.answer("process", &trace, |pod| pod.process(pid)) {
            Err(error) => error.write(result.init_error()),
            Ok(process) => result
                .init_value()
                .set_process(new_client(Process(process))),
        }
        Ok(())
    }

    async fn attachment(
        self: Rc<Self>,
        params: AttachmentParams,
        mut results: AttachmentResults,
    ) -> Answer {
        let params = params.get()?;
        let trace = TraceContext::read(params.get_trace()?)?;
        let number = params.get_number();
        let result = results.get().init_result();
        match self.answer("attachment", &trace, |pod| pod.attachment(number)) {
            Err(error) => error.write(result.init_error()),
            Ok(client) => result
                .init_value()
                .set_attachment(new_client(Attachment(client))),
        }
        Ok(())
    }
}

/// The newest version that this program speaks: in test builds the first one may be all that it knows.
const NEWEST: u16 = if cfg!(feature = "first-version") {
    1
} else {
    VERSION
};

/// Answers a call that came with a version as a program from before it does.
fn since(version: u16, call: &str) -> capnp::Result<()> {
    match NEWEST < version {
        true => Err(capnp::Error::unimplemented(format!("no method {call}"))),
        false => Ok(()),
    }
}

fn welcome(pod: &Pod, hello: &Hello) -> Result<Welcome, Error> {
    let Some(version) = hello.common_version(OLDEST_VERSION, NEWEST) else {
        let why = format!("this monitor speaks {OLDEST_VERSION} to {NEWEST}");
        return Err(Error::new(
            ErrorCode::Incompatible,
            "hello",
            &hello.name,
            why,
        ));
    };
    if let Some(error) = pod.broken() {
        return Err(error.clone());
    }
    Ok(Welcome {
        version,
        capabilities: vec![
            capability::OOM_EVENTS.to_owned(),
            capability::PAUSE.to_owned(),
            capability::ESCROW.to_owned(),
            capability::UPGRADE.to_owned(),
        ],
        monitor_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        pod_id: pod.id.clone(),
        pod_pid: pod.init(),
    })
}
