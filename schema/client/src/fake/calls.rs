//! The calls: decoded, carried out on the pod, and answered.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pod_monitor_schema::wire::monitor;
use pod_monitor_schema::{
    AttachConfig, ContainerConfig, Error, ExecConfig, Hello, Message as _, TerminalSize,
    TraceContext, write_result,
};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::acts::{push, stop, stop_after_answer, welcome};
use super::attach::attach;
use super::exec::play;
use super::script::Call;
use super::server::Server;
use super::{Operation, Shared, now};

/// Events that wait for a subscriber; one that falls back further is dropped.
const EVENT_QUEUE: usize = 1024;

fn call(
    operation: Operation,
    id: &str,
    trace: capnp::Result<pod_monitor_schema::wire::trace_context::Reader<'_>>,
) -> capnp::Result<Call> {
    Ok(Call {
        operation,
        id: id.to_owned(),
        trace: TraceContext::read(trace?)?,
    })
}

impl monitor::Server for Server {
    async fn hello(
        self: Rc<Self>,
        params: monitor::HelloParams,
        mut results: monitor::HelloResults,
    ) -> capnp::Result<()> {
        let hello = Hello::read(params.get()?.get_client()?)?;
        let call = Call {
            operation: Operation::Hello,
            id: String::new(),
            trace: TraceContext::default(),
        };
        let welcome = async move |shared: &Arc<Shared>| welcome(shared, &hello);
        let result = self.carry(call, welcome).await;
        self.greeted.set(self.greeted.get() || result.is_ok());
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn subscribe(
        self: Rc<Self>,
        params: monitor::SubscribeParams,
        mut results: monitor::SubscribeResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let sink = params.get_sink()?;
        let call = call(Operation::Subscribe, "", params.get_trace())?;
        let gone = self.gone.clone();
        let subscribe = async move |shared: &Arc<Shared>| {
            let (subscriber, events) = mpsc::channel(EVENT_QUEUE);
            shared.subscribe(subscriber);
            spawn_local(async move {
                // A sink keeps its connection's objects alive, and they keep the subscriber.
                gone.run_until_cancelled(push(events, sink)).await;
            });
            Ok(())
        };
        let result = self.carry(call, subscribe).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn state(
        self: Rc<Self>,
        params: monitor::StateParams,
        mut results: monitor::StateResults,
    ) -> capnp::Result<()> {
        let call = call(Operation::State, "", params.get()?.get_trace())?;
        let result = self.change(call, |pod| Ok(pod.state())).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn create(
        self: Rc<Self>,
        params: monitor::CreateParams,
        mut results: monitor::CreateResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let container = ContainerConfig::read(params.get_container()?)?;
        let call = call(Operation::Create, &container.id, params.get_trace())?;
        let result = self.change(call, |pod| pod.create(container)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn start(
        self: Rc<Self>,
        params: monitor::StartParams,
        mut results: monitor::StartResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Start, &id, params.get_trace())?;
        let result = self.change(call, move |pod| pod.start(&id)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn kill(
        self: Rc<Self>,
        params: monitor::KillParams,
        mut results: monitor::KillResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Kill, &id, params.get_trace())?;
        let signal = params.get_signal();
        let result = self.change(call, move |pod| pod.signal(&id, signal)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn stop(
        self: Rc<Self>,
        params: monitor::StopParams,
        mut results: monitor::StopResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let signal = params.get_signal();
        let grace = Duration::from_millis(params.get_grace_ms());
        let call = call(Operation::Stop, &id, params.get_trace())?;
        let stop = async move |shared: &Arc<Shared>| stop(shared, &id, signal, grace).await;
        let result = self.carry(call, stop).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn delete(
        self: Rc<Self>,
        params: monitor::DeleteParams,
        mut results: monitor::DeleteResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Delete, &id, params.get_trace())?;
        let force = params.get_force();
        let result = self.change(call, move |pod| pod.delete(&id, force)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn exec(
        self: Rc<Self>,
        params: monitor::ExecParams,
        mut results: monitor::ExecResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let exec = ExecConfig::read(params.get_exec()?)?;
        let call = call(Operation::Exec, &exec.container_id, params.get_trace())?;
        let start = async move |shared: &Arc<Shared>| {
            let pid = shared.pod().exec(&exec.container_id)?;
            let script = shared.script().execs.pop_front().unwrap_or_default();
            let playing = play(shared, &exec, script)
                .map_err(|source| Error::io("exec", exec.container_id, &source))?;
            Ok((pid, playing))
        };
        match self.carry(call, start).await {
            Ok((pid, playing)) => {
                let mut started = results.get().init_result().init_value();
                started.set_token(&playing.token);
                started.set_pid(pid);
                started.set_process(playing.process);
                started.set_started_at(now());
            }
            Err(error) => error.write(results.get().init_result().init_error()),
        }
        Ok(())
    }

    async fn attach(
        self: Rc<Self>,
        params: monitor::AttachParams,
        mut results: monitor::AttachResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let config = AttachConfig::read(params.get_attach()?)?;
        let call = call(Operation::Attach, &config.container_id, params.get_trace())?;
        let start = async move |shared: &Arc<Shared>| attach(shared, &config);
        match self.carry(call, start).await {
            Ok(client) => {
                let mut attached = results.get().init_result().init_value();
                attached.set_token(&client.token);
                attached.set_attachment(client.end);
                attached.set_terminal(client.terminal);
            }
            Err(error) => error.write(results.get().init_result().init_error()),
        }
        Ok(())
    }

    async fn resize(
        self: Rc<Self>,
        params: monitor::ResizeParams,
        mut results: monitor::ResizeResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Resize, &id, params.get_trace())?;
        TerminalSize::read(params.get_size()?)?;
        let result = self.change(call, move |pod| pod.resize(&id)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn reopen_log(
        self: Rc<Self>,
        params: monitor::ReopenLogParams,
        mut results: monitor::ReopenLogResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::ReopenLog, &id, params.get_trace())?;
        let result = self.change(call, move |pod| pod.reopen_log(&id)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn update(
        self: Rc<Self>,
        params: monitor::UpdateParams,
        mut results: monitor::UpdateResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Update, &id, params.get_trace())?;
        let result = self.change(call, move |pod| pod.update(&id)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn pause(
        self: Rc<Self>,
        params: monitor::PauseParams,
        mut results: monitor::PauseResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Pause, &id, params.get_trace())?;
        let result = self.change(call, move |pod| pod.pause(&id)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn resume(
        self: Rc<Self>,
        params: monitor::ResumeParams,
        mut results: monitor::ResumeResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Resume, &id, params.get_trace())?;
        let result = self.change(call, move |pod| pod.resume(&id)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn checkpoint(
        self: Rc<Self>,
        params: monitor::CheckpointParams,
        mut results: monitor::CheckpointResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let id = params.get_id()?.to_string()?;
        let call = call(Operation::Checkpoint, &id, params.get_trace())?;
        // As with an exec, the container has to run.
        let result = self.change(call, move |pod| pod.exec(&id).map(drop)).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn restore(
        self: Rc<Self>,
        params: monitor::RestoreParams,
        mut results: monitor::RestoreResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let container = ContainerConfig::read(params.get_container()?)?;
        let id = container.id.clone();
        let call = call(Operation::Restore, &id, params.get_trace())?;
        let work = move |pod: &mut super::Pod| {
            let created = pod.create(container)?;
            pod.start(&id).map(|_| created)
        };
        let result = self.change(call, work).await;
        write_result(&result, results.get().init_result());
        Ok(())
    }

    async fn shutdown(
        self: Rc<Self>,
        params: monitor::ShutdownParams,
        mut results: monitor::ShutdownResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let force = params.get_force();
        let call = call(Operation::Shutdown, "", params.get_trace())?;
        let result = self.change(call, move |pod| pod.shutdown(force)).await;
        write_result(&result, results.get().init_result());
        if result.is_ok() {
            spawn_local(stop_after_answer(Arc::clone(&self.shared)));
        }
        Ok(())
    }
}
