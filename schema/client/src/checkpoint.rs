//! Checkpoints: writing one of a container that runs, and having a container go on from one.

use std::path::Path;
use std::time::Duration;

use pod_monitor_schema::{ContainerConfig, Created, Message as _, TraceContext, wire::monitor};

use crate::connection::answer;
use crate::{Monitor, MonitorError};

impl Monitor {
    /// Writes a running container's processes to `images`, and what CRIU says of it to `work`; both
    /// are existing directories. The container runs on. The OCI runtime is given `limit`, or its
    /// usual time where there is none.
    ///
    /// # Errors
    /// See [`MonitorError`]; `Unimplemented` from a monitor that speaks version 1 only.
    pub async fn checkpoint(
        &self,
        trace: &TraceContext,
        id: &str,
        (images, work): (&Path, &Path),
        limit: Option<Duration>,
    ) -> Result<(), MonitorError> {
        let (trace, id) = (trace.clone(), id.to_owned());
        let (images, work) = (text(images), text(work));
        let limit = limit.map_or(0, |limit| {
            u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
        });
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.checkpoint_request();
            trace.write(request.get().init_trace());
            request.get().set_id(id);
            request.get().set_images(images);
            request.get().set_work(work);
            request.get().set_timeout_ms(limit);
            answer!("checkpoint", request)
        };
        self.call("checkpoint", call).await
    }

    /// Makes a container that goes on from the checkpoint in `images`, in place of
    /// [`Self::create`] and [`Self::start`]: it runs since the time in the answer. What CRIU says goes
    /// to `work`; both are existing directories.
    ///
    /// # Errors
    /// See [`MonitorError`]; `Unimplemented` from a monitor that speaks version 1 only.
    pub async fn restore(
        &self,
        trace: &TraceContext,
        container: &ContainerConfig,
        (images, work): (&Path, &Path),
    ) -> Result<Created, MonitorError> {
        let (trace, container) = (trace.clone(), container.clone());
        let (images, work) = (text(images), text(work));
        let call = move |monitor: monitor::Client| {
            let mut request = monitor.restore_request();
            trace.write(request.get().init_trace());
            container.write(request.get().init_container());
            request.get().set_images(images);
            request.get().set_work(work);
            answer!("restore", request)
        };
        self.call("restore", call).await
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
