//! The plugins, and the hooks that go to them: one hook at a time, plugins in the order of their
//! indices, so that what a plugin sees is an order that every other plugin sees too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};
use tokio::task::JoinSet;

use crate::api::{self, Event};
use crate::error::HookError;
use crate::merge::{Creation, Updates};
use crate::plugin::{Plugin, Subject};
use crate::{Config, Node};

/// How long a plugin may take to end when the runtime does.
const FAREWELL: Duration = Duration::from_millis(500);

/// The plugins of a node; clones share them.
#[derive(Debug, Clone)]
pub struct Nri {
    pub(crate) inner: Option<Arc<Inner>>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    /// Held for reading by whoever makes a pod or container, for writing by a synchronisation.
    pub(crate) gate: Arc<RwLock<()>>,
    pub(crate) plugins: Mutex<Vec<Plugin>>,
    /// How many plugins there are, the one being synchronised included.
    pub(crate) count: AtomicUsize,
    /// The listener, and a task for each plugin.
    tasks: std::sync::Mutex<JoinSet<()>>,
    /// There from when plugins are served.
    pub(crate) node: OnceLock<Arc<dyn Node>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// As long as it is held, no plugin is synchronised. Whoever makes a pod or container takes one before
/// its first hook, and gives it back when what was made is part of the node's state.
#[derive(Debug)]
pub struct Hold {
    _guard: Option<OwnedRwLockReadGuard<()>>,
}

/// Containers to stop, with the plugin that wants it.
type Evictions = Vec<(String, Vec<api::ContainerEviction>)>;

impl Nri {
    /// Without any plugins yet: see [`Nri::serve`].
    pub fn new(config: Config) -> Self {
        Self {
            inner: Some(Arc::new(Inner {
                config,
                gate: Arc::default(),
                plugins: Mutex::default(),
                count: AtomicUsize::new(0),
                tasks: std::sync::Mutex::default(),
                node: OnceLock::new(),
            })),
        }
    }

    /// Never with any plugins.
    pub fn disabled() -> Self {
        Self { inner: None }
    }

    /// Whether there is anybody to ask. Where there is not, hooks cost nothing.
    pub fn is_active(&self) -> bool {
        self.active().is_some()
    }

    fn active(&self) -> Option<&Arc<Inner>> {
        let inner = self.inner.as_ref()?;
        // Stored before the state is read for a synchronisation, so that a change which finds nobody
        // to tell was made before and is part of that state.
        (inner.count.load(Ordering::SeqCst) > 0).then_some(inner)
    }

    /// Keeps plugins from being synchronised.
    pub async fn hold(&self) -> Hold {
        let guard = match &self.inner {
            Some(inner) => Some(inner.gate.clone().read_owned().await),
            None => None,
        };
        Hold { _guard: guard }
    }

    /// Asks the plugins about a container in the making; answers how it is to be made. What they want
    /// of other containers is done.
    ///
    /// # Errors
    /// When one refuses, two want the same, or another container cannot be changed as they want: the
    /// container must not be made.
    pub async fn create_container(
        &self,
        pod: api::PodSandbox,
        container: api::Container,
    ) -> Result<api::ContainerAdjustment, HookError> {
        let Some(inner) = self.active() else {
            return Ok(api::ContainerAdjustment::default());
        };
        let (creation, evictions) = inner.create_container(pod, container).await?;
        let (_, updates) = creation.updates.finish();
        inner.carry_out(updates, evictions).await?;
        Ok(creation.adjust)
    }

    /// Asks the plugins about an update of a container; answers what it is to get. What they want of
    /// other containers is done.
    ///
    /// # Errors
    /// As [`Nri::create_container`]: the container must not be updated.
    pub async fn update_container(
        &self,
        pod: api::PodSandbox,
        container: api::Container,
        resources: api::LinuxResources,
    ) -> Result<api::LinuxResources, HookError> {
        let Some(inner) = self.active() else {
            return Ok(resources);
        };
        let (updates, evictions) = inner.update_container(pod, container, resources).await?;
        let (resources, updates) = updates.finish();
        inner.carry_out(updates, evictions).await?;
        Ok(resources)
    }

    /// Asks the plugins about an update of a pod's resources, which none can change.
    ///
    /// # Errors
    /// When one refuses: the pod must not be updated.
    pub async fn update_pod(&self, request: api::UpdatePodSandboxRequest) -> Result<(), HookError> {
        let Some(inner) = self.active() else {
            return Ok(());
        };
        for plugin in inner.plugins.lock().await.iter() {
            let event = Event::UpdatePodSandbox;
            let _: Option<api::UpdatePodSandboxResponse> = plugin.hook(event, &request).await?;
        }
        Ok(())
    }

    /// Tells the plugins of a pod, or of one of its containers. What they want of other containers,
    /// which only the end of one may bring, is done.
    ///
    /// # Errors
    /// The first refusal. [`Event::RunPodSandbox`] and [`Event::StartContainer`] end with it and must
    /// not go on; what is over already is told to the rest all the same.
    pub async fn tell(
        &self,
        event: Event,
        pod: api::PodSandbox,
        container: Option<api::Container>,
    ) -> Result<(), HookError> {
        let Some(inner) = self.active() else {
            return Ok(());
        };
        let pod = Some(pod);
        let subject = Subject { pod, container };
        let updates = inner.tell(event, &subject).await?;
        inner.carry_out(updates, Evictions::new()).await
    }

    /// Ends the plugins, and listening for them.
    pub async fn stop(&self) {
        let Some(inner) = &self.inner else { return };
        let mut tasks = {
            let mut tasks = inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
        let plugins = std::mem::take(&mut *inner.plugins.lock().await);
        inner.count.store(0, Ordering::SeqCst);
        let farewells = plugins.into_iter().map(|mut plugin| async move {
            plugin.limit = plugin.limit.min(FAREWELL);
            let _ = plugin.call::<api::Empty>("Shutdown", &api::Empty {}).await;
            plugin.end().await;
        });
        futures::future::join_all(farewells).await;
        if let Some(socket) = &inner.config.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Inner {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that ended are of no interest any more.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    async fn create_container(
        &self,
        pod: api::PodSandbox,
        container: api::Container,
    ) -> Result<(Creation, Evictions), HookError> {
        let plugins = self.plugins.lock().await;
        let pristine = container.clone();
        let mut request = api::CreateContainerRequest {
            pod: Some(pod),
            container: Some(container),
        };
        let (mut creation, mut evictions) = (Creation::default(), Evictions::new());
        for plugin in plugins.iter() {
            let answer = plugin.hook(Event::CreateContainer, &request).await?;
            let Some(mut answer): Option<api::CreateContainerResponse> = answer else {
                continue;
            };
            evictions.push((plugin.name(), std::mem::take(&mut answer.evict)));
            let container = request.container.get_or_insert_default();
            creation.apply(container, &plugin.name(), answer)?;
        }
        let asked = api::ValidateContainerAdjustmentRequest {
            pod: request.pod,
            container: Some(pristine),
            adjust: Some(creation.adjust.clone()),
            update: creation.updates.list().to_vec(),
            owners: Some(creation.owners().to_api()),
            plugins: plugins.iter().map(instance).collect(),
        };
        validate(&plugins, &asked).await?;
        Ok((creation, evictions))
    }

    async fn update_container(
        &self,
        pod: api::PodSandbox,
        container: api::Container,
        resources: api::LinuxResources,
    ) -> Result<(Updates, Evictions), HookError> {
        let plugins = self.plugins.lock().await;
        let mut updates = Updates::of(container.id.clone(), resources);
        let mut evictions = Evictions::new();
        let mut request = api::UpdateContainerRequest {
            pod: Some(pod),
            container: Some(container),
            linux_resources: None,
        };
        for plugin in plugins.iter() {
            request.linux_resources = updates.resources().cloned();
            let answer = plugin.hook(Event::UpdateContainer, &request).await?;
            let Some(answer): Option<api::UpdateContainerResponse> = answer else {
                continue;
            };
            evictions.push((plugin.name(), answer.evict));
            updates.apply(&plugin.name(), answer.update)?;
        }
        Ok((updates, evictions))
    }

    async fn tell(
        &self,
        event: Event,
        subject: &Subject,
    ) -> Result<Vec<api::ContainerUpdate>, HookError> {
        let plugins = self.plugins.lock().await;
        let mut updates = Updates::default();
        let mut failed = None;
        for plugin in plugins.iter() {
            let told = plugin.tell(event, subject).await;
            let applied = told.and_then(|asked| Ok(updates.apply(&plugin.name(), asked)?));
            let Err(error) = applied else { continue };
            if matches!(event, Event::RunPodSandbox | Event::StartContainer) {
                return Err(error);
            }
            failed.get_or_insert(error);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(updates.finish().1),
        }
    }

    /// Does what plugins want of containers beside the one that they were asked about. No lock is held:
    /// the plugins may be asked about others meanwhile.
    async fn carry_out(
        &self,
        updates: Vec<api::ContainerUpdate>,
        evictions: Evictions,
    ) -> Result<(), HookError> {
        let Some(node) = self.node.get() else {
            return Ok(());
        };
        for (plugin, evictions) in evictions {
            if !evictions.is_empty() {
                // Whoever makes a container does not wait for another one to end.
                self.spawn(node.evict(plugin, evictions));
            }
        }
        if updates.is_empty() {
            return Ok(());
        }
        let failed = node.update(updates).await.into_iter();
        match failed.into_iter().find(|failed| !failed.ignore_failure) {
            Some(failed) => Err(HookError::Update {
                id: failed.container_id,
            }),
            None => Ok(()),
        }
    }
}

fn instance(plugin: &Plugin) -> api::PluginInstance {
    api::PluginInstance {
        name: plugin.identity.name.clone(),
        index: plugin.identity.index.clone(),
    }
}

/// Asks those who judge what the others want. One that does not answer refuses.
async fn validate(
    plugins: &[Plugin],
    asked: &api::ValidateContainerAdjustmentRequest,
) -> Result<(), HookError> {
    let event = Event::ValidateContainerAdjustment;
    // One that is gone was dropped for something else before, and its part is over.
    let judges = plugins
        .iter()
        .filter(|plugin| !plugin.connection.is_closed());
    for plugin in judges.filter(|plugin| plugin.wants(event)) {
        let answer: api::ValidateContainerAdjustmentResponse = plugin.insist(event, asked).await?;
        if answer.reject {
            return Err(HookError::Rejected {
                plugin: plugin.name(),
                reason: answer.reason,
            });
        }
    }
    Ok(())
}
