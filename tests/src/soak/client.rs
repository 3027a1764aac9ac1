//! One client: pods from their begin to their end, with the oracle of what they must have done.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tonic::Status;

use super::World;
use super::dice::Dice;
use super::lines::counted;
use crate::config::namespaces;
use crate::cri::{self, ContainerState, NamespaceMode};
use crate::{Client, container, logs, process};

/// The code that a container ends with when it is stopped gently.
const STOPPED: i32 = 50;
/// How long a call may be repeated: a daemon comes back within that, and a killed program is not killed for ever.
const PATIENCE: Duration = Duration::from_secs(40);

/// Makes pods one after another until the soak is over.
pub(super) async fn run(world: &World, number: u64, mut dice: Dice) -> Result<()> {
    let mut turn = 0;
    while !world.is_over() {
        turn += 1;
        let name = format!("soak-{number}-{turn}");
        let pod = SoakPod::new(world, &name, &mut dice);
        pod.live(world, &mut dice)
            .await
            .with_context(|| format!("pod {name}"))?;
        world.count("pods");
    }
    Ok(())
}

/// Asks until there is an answer. The daemon may be away, and what it starts may be killed.
async fn insist<T>(
    world: &World,
    what: &'static str,
    call: impl AsyncFn(&Client) -> Result<T, Status>,
) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        let failed = match world.node.client().await {
            Ok(client) => match call(&client).await {
                Ok(answer) => {
                    world.count(what);
                    return Ok(answer);
                }
                Err(status) => anyhow!("{:?}: {}", status.code(), status.message()),
            },
            Err(error) => error,
        };
        if Instant::now() >= end {
            return Err(failed).with_context(|| format!("{what} does not succeed"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct SoakPod {
    config: cri::PodSandboxConfig,
}

/// A container, and what it is bound to do.
struct Task {
    name: String,
    id: String,
    pod: String,
    /// Lines that it writes: 1, 2, 3 and so on.
    lines: u64,
    /// The code that it ends with by itself; none where it waits to be stopped.
    code: Option<i32>,
    /// The files that its log had, oldest first.
    rotated: Vec<PathBuf>,
    log: PathBuf,
    stopped: bool,
}

impl SoakPod {
    fn new(world: &World, name: &str, dice: &mut Dice) -> Self {
        let mut config = match dice.percent(30) {
            true => world.node.pod(name),
            false => world.node.host_pod(name),
        };
        if dice.percent(30) {
            namespaces(&mut config).pid = NamespaceMode::Pod.into();
        }
        Self { config }
    }

    async fn live(&self, world: &World, dice: &mut Dice) -> Result<()> {
        let run = async |client: &Client| client.run_pod(&self.config).await;
        let pod = insist(world, "run", run).await?;
        let mut tasks = Vec::new();
        for number in 0..1 + dice.below(3) {
            if let Some(task) = self.launch(world, &pod, number, dice).await? {
                tasks.push(task);
            }
        }
        for _ in 0..dice.below(6) {
            let at = usize::try_from(dice.below(tasks.len() as u64))?;
            if let Some(task) = tasks.get_mut(at) {
                task.something(world, dice)
                    .await
                    .with_context(|| task.name.clone())?;
            }
        }
        for task in tasks {
            let name = task.name.clone();
            task.finish(world, dice).await.context(name)?;
        }
        if dice.percent(80) {
            insist(world, "stop pod", async |client| {
                client.stop_pod(&pod).await
            })
            .await?;
        }
        insist(world, "remove pod", async |client| {
            client.remove_pod(&pod).await
        })
        .await
    }

    /// A container that runs; none where the OCI runtime was killed while it started it.
    async fn launch(
        &self,
        world: &World,
        pod: &str,
        number: u64,
        dice: &mut Dice,
    ) -> Result<Option<Task>> {
        let name = format!("task-{number}");
        let lines = 1 + dice.below(3000);
        let code = dice
            .percent(50)
            .then(|| i32::try_from(dice.below(40)).unwrap_or_default());
        let ends = match code {
            Some(code) => format!("exit {code}"),
            None => "while :; do sleep 0.05; done".to_owned(),
        };
        let pause = if dice.percent(50) { "; sleep 0.01" } else { "" };
        let slow = lines.min(200);
        let script = format!(
            "trap 'exit {STOPPED}' TERM; i=0; while [ $i -lt {slow} ]; do i=$((i+1)); echo $i{pause}; done; \
             [ {lines} -le {slow} ] || seq {} {lines}; {ends}",
            slow + 1
        );
        let config = container(&name, &script);
        let create = async |client: &Client| client.create(pod, &self.config, config.clone()).await;
        let id = insist(world, "create", create).await?;
        let refused = Cell::new(false);
        insist(world, "start", async |client| {
            let started = start(client, &id).await;
            refused.set(refused.get() || started.is_err());
            started
        })
        .await?;
        let log = Path::new(&self.config.log_directory).join(format!("{name}.log"));
        let task = Task {
            name,
            id,
            pod: pod.to_owned(),
            lines,
            code,
            rotated: Vec::new(),
            log,
            stopped: false,
        };
        let status = task.status(world).await?;
        let ended = status.state() == ContainerState::ContainerExited;
        if refused.get() && ended && Some(status.exit_code) != code {
            task.written(world)?;
            insist(world, "remove", async |client| {
                client.remove(&task.id).await
            })
            .await?;
            return Ok(None);
        }
        Ok(Some(task))
    }
}

/// A start whose answer was lost is not repeated; one that has failed for good is seen in the status.
async fn start(client: &Client, id: &str) -> Result<(), Status> {
    if client.container_status(id).await?.state() != ContainerState::ContainerCreated {
        return Ok(());
    }
    client.start(id).await
}

async fn has_exited(client: &Client, id: &str) -> Result<bool, Status> {
    Ok(client.container_status(id).await?.state() == ContainerState::ContainerExited)
}

impl Task {
    async fn status(&self, world: &World) -> Result<cri::ContainerStatus> {
        insist(world, "status", async |client| {
            client.container_status(&self.id).await
        })
        .await
    }

    async fn has_exited(&self, world: &World) -> Result<bool> {
        Ok(self.status(world).await?.state() == ContainerState::ContainerExited)
    }

    async fn something(&mut self, world: &World, dice: &mut Dice) -> Result<()> {
        match dice.below(4) {
            0 => self.exec(world, dice.below(1_000_000)).await,
            1 => self.rotate(world).await,
            2 => self.stop(world, dice.percent(80)).await,
            _ => self.status(world).await.map(drop),
        }
    }

    /// A command answers what it was told, unless the container ends meanwhile.
    async fn exec(&self, world: &World, token: u64) -> Result<()> {
        let (word, command) = (token.to_string(), format!("echo {token}; exit 3"));
        let told = insist(world, "exec", async |client| {
            match client
                .exec(&self.id, &["/bin/sh", "-c", &command], 10)
                .await
            {
                Ok(answer) => Ok(Some(answer)),
                Err(_) if has_exited(client, &self.id).await? => Ok(None),
                Err(status) => Err(status),
            }
        });
        let Some(answer) = told.await? else {
            return Ok(());
        };
        let out = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        let whole = answer.exit_code == 3 && out == word;
        // The end of the container is the end of its commands.
        ensure!(
            whole || self.has_exited(world).await?,
            "exec answered {answer:?}"
        );
        Ok(())
    }

    async fn rotate(&mut self, world: &World) -> Result<()> {
        if self.has_exited(world).await? {
            return Ok(());
        }
        let old = self
            .log
            .with_extension(format!("log.{}", self.rotated.len()));
        fs::rename(&self.log, &old).context("rotate")?;
        self.rotated.push(old);
        insist(world, "reopen", async |client| {
            let request = cri::ReopenContainerLogRequest {
                container_id: self.id.clone(),
            };
            let reopened = client.runtime.clone().reopen_container_log(request).await;
            match reopened {
                Ok(_) => Ok(()),
                Err(_) if has_exited(client, &self.id).await? => Ok(()),
                Err(status) => Err(status),
            }
        })
        .await
    }

    async fn stop(&mut self, world: &World, gently: bool) -> Result<()> {
        let grace = if gently { 20 } else { 0 };
        self.stopped = true;
        insist(world, "stop", async |client| {
            client.stop(&self.id, grace).await
        })
        .await
    }

    /// Brings it to its end and asks the oracle.
    async fn finish(mut self, world: &World, dice: &mut Dice) -> Result<()> {
        if self.code.is_none() {
            self.stop(world, dice.percent(80)).await?;
        }
        let end = Instant::now() + PATIENCE;
        while !self.has_exited(world).await? {
            ensure!(Instant::now() < end, "it does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let status = self.status(world).await?;
        let code = status.exit_code;
        let deaths = world.deaths(&self.pod);
        let own = Some(code) == self.code;
        let unknown = deaths > 0 && code == 255 && !process::ends_are_kept();
        ensure!(
            own || unknown || self.stopped && matches!(code, STOPPED | 137),
            "it should end with {:?}: {status:?}",
            self.code
        );
        let written = self.written(world)?;
        // What was lost with a monitor may have been the last.
        ensure!(
            !own || self.stopped || deaths > 0 || written == self.lines,
            "{written} of {} lines",
            self.lines
        );
        if dice.percent(50) {
            insist(world, "remove", async |client| {
                client.remove(&self.id).await
            })
            .await?;
        }
        Ok(())
    }

    /// How far the lines go in all files of the log, which are as they should be.
    fn written(&self, world: &World) -> Result<u64> {
        let mut lines = Vec::new();
        let files = self.rotated.iter().chain([&self.log]);
        for file in files.filter(|file| file.exists()) {
            lines.extend(logs::text(&logs::read(file)?, "stdout"));
        }
        let written = counted(&lines, world.deaths(&self.pod))
            .with_context(|| format!("log {}", self.log.display()))?;
        ensure!(written <= self.lines, "{written} of {} lines", self.lines);
        Ok(written)
    }
}
