//! What the programs cost that every runtime starts: the OCI runtime and the CNI plugins, called by this program itself
//! with the specification and the network of a real pod. No runtime can be quicker than they are.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use husk_tests::command::command;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use super::Bench;
use crate::report::{Runtime, Series};
use crate::target::{Network, WORKLOAD, sleeper};

const PLUGINS: &str = "/usr/lib/cni";

pub(super) async fn measure(bench: &Bench<'_>, runtime: &mut Runtime) -> Result<()> {
    // The programs are the same for all runtimes, so that one measurement of them is enough.
    let Some(place) = bench.target.directory() else {
        return Ok(());
    };
    let pod = bench.pod(Network::Host, 0).await?;
    let id = bench
        .client
        .create(&pod.id, &pod.config, sleeper(0))
        .await?;
    let bundle = bundle(&place.join("run"), &id).context("the container's bundle")?;
    let (rounds, program) = (bench.plan.rounds, bench.plan.oci_runtime.clone());
    let parent = bench.target.cgroup();
    bench.progress.show("floors", 0, 1);
    let network = place.join("cni/10-test.conflist");
    runtime.floors = inside(bench.target.daemon, move || {
        let mut series = oci(&program, &bundle, &parent, rounds)?;
        series.extend(cni(&network, rounds)?);
        Ok(series)
    })?;
    Ok(())
}

/// The directory below `top` that is called `id` and holds a specification.
fn bundle(top: &Path, id: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(top).ok()?.flatten().map(|entry| entry.path());
    let directories: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    let found = directories
        .iter()
        .find(|path| path.ends_with(id) && path.join("config.json").exists());
    found
        .cloned()
        .or_else(|| directories.iter().find_map(|path| bundle(path, id)))
}

/// Runs `work` on a thread of its own in the mount and network namespaces of `pid`.
fn inside<T: Send + 'static>(
    pid: u32,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
    let (mount, net) = (open("mnt")?, open("net")?);
    let thread = std::thread::spawn(move || {
        // A thread enters a mount namespace only with a working directory of its own (setns(2)).
        unshare(CloneFlags::CLONE_FS)?;
        setns(net, CloneFlags::CLONE_NEWNET)?;
        setns(mount, CloneFlags::CLONE_NEWNS)?;
        work()
    });
    thread
        .join()
        .map_err(|_panic| anyhow!("a thread in the runtime's namespaces panicked"))?
}

fn oci(program: &str, bundle: &Path, parent: &str, rounds: usize) -> Result<Vec<Series>> {
    let place = tempfile::Builder::new().prefix("ht-").tempdir_in("/tmp")?;
    let mut spec: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    let root = spec["root"]["path"].as_str().unwrap_or("rootfs");
    spec["root"]["path"] = json!(bundle.join(root));
    spec["process"]["args"] = json!(["/bin/sleep", WORKLOAD]);
    let steps = ["create", "start", "exec", "delete"];
    let mut series = steps.map(|step| {
        let what = if step == "exec" { "exec of true" } else { step };
        Series::new(&format!("floor: {program} {what}"))
    });
    for round in 0..rounds {
        let id = format!("floor{round}");
        spec["linux"]["cgroupsPath"] = json!(format!("/{parent}/{id}"));
        fs::write(place.path().join("config.json"), spec.to_string())?;
        for (step, series) in steps.iter().zip(&mut series) {
            let mut call = command(program);
            call.arg("--root").arg(place.path().join("state")).arg(step);
            match *step {
                "create" => call.arg("--bundle").arg(place.path()).arg(&id),
                "exec" => call.args([&id, "/bin/true"]),
                "delete" => call.args(["--force", &id]),
                _ => call.arg(&id),
            };
            timed(series, call.stdin(Stdio::null()).stdout(Stdio::null()))?;
        }
    }
    Ok(series.into())
}

fn timed(series: &mut Series, call: &mut Command) -> Result<()> {
    let began = Instant::now();
    let status = call.status().with_context(|| format!("start {call:?}"))?;
    ensure!(status.success(), "{call:?}: {status}");
    series.add(began.elapsed(), 0.0);
    Ok(())
}

/// A process that holds an empty network namespace open, for as long as this value lives.
#[derive(Debug)]
struct Space(Child);

impl Space {
    fn new() -> Result<Self> {
        let mut hold = command("unshare");
        hold.args(["--net", "sh", "-c", "echo; read -r _end"]);
        let mut child = hold
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().context("its output")?);
        std::io::BufRead::read_line(&mut output, &mut line)?;
        Ok(Self(child))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _status = self.0.wait();
    }
}

fn cni(network: &Path, rounds: usize) -> Result<Vec<Series>> {
    let list: Value = serde_json::from_slice(&fs::read(network)?)?;
    let mut plugins = list["plugins"].as_array().context("plugins")?.clone();
    for plugin in &mut plugins {
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
    }
    let (mut add, mut delete) = (
        Series::new("floor: CNI plugins, ADD"),
        Series::new("floor: CNI plugins, DEL"),
    );
    for round in 0..rounds {
        let space = Space::new()?;
        let call = |plugin: &Value, what: &str| {
            invoke(plugin, what, &format!("floor{round}"), space.0.id())
        };
        let began = Instant::now();
        let mut result = Value::Null;
        for plugin in &mut plugins {
            plugin["prevResult"] = result;
            result = call(plugin, "ADD")?;
        }
        add.add(began.elapsed(), 0.0);
        let began = Instant::now();
        for plugin in plugins.iter_mut().rev() {
            plugin["prevResult"] = result.clone();
            call(plugin, "DEL")?;
        }
        delete.add(began.elapsed(), 0.0);
    }
    Ok(vec![add, delete])
}

fn invoke(plugin: &Value, what: &str, container: &str, pid: u32) -> Result<Value> {
    let kind = plugin["type"].as_str().context("a plugin's type")?;
    let mut call = command(Path::new(PLUGINS).join(kind));
    call.env("CNI_COMMAND", what)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", format!("/proc/{pid}/ns/net"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = call.spawn().with_context(|| format!("start {kind}"))?;
    let mut input = child.stdin.take().context("its input")?;
    let mut conf = plugin.clone();
    if conf["prevResult"].is_null()
        && let Some(fields) = conf.as_object_mut()
    {
        fields.remove("prevResult");
    }
    input.write_all(conf.to_string().as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{kind} {what}: {text}");
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_found_by_its_container() {
        let top = tempfile::tempdir().unwrap();
        let wanted = top.path().join("pods/p/containers/abc");
        fs::create_dir_all(&wanted).unwrap();
        fs::create_dir_all(top.path().join("other/abc")).unwrap();
        assert_eq!(bundle(top.path(), "abc"), None);
        fs::write(wanted.join("config.json"), "{}").unwrap();
        assert_eq!(bundle(top.path(), "abc"), Some(wanted));
    }
}
