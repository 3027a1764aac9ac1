//! Checkpoints in suites: the call, what is in an archive, and an OCI runtime that stands in for one with CRIU.
//!
//! CRIU works on few test machines. What Husk does around it is tried with the stand-in, which answers `checkpoint` and
//! `restore` by itself, the latter by running the container anew, and hands everything else to runc.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use tonic::Status;

use crate::client::Client;
use crate::cri;
use crate::fixture::Pod;
use crate::node::{Node, NodeOptions};

const STAND_IN: &str = r#"#!/bin/sh
for word; do case "$word" in checkpoint | restore) mine=$word ;; esac; done
[ "$mine" ] || exec runc "$@"
while [ "$1" != "$mine" ]; do globals="$globals $1"; shift; done
while [ $# -gt 1 ]; do
    case "$1" in
    --image-path) images=$2; shift ;;
    --work-path) work=$2; shift ;;
    --bundle) bundle=$2; shift ;;
    --pid-file) pid=$2; shift ;;
    --leave-running) stays=1 ;;
    --detach) detaches=1 ;;
    esac
    shift
done
if [ -e "$0.hangs" ]; then exec sleep 600; fi
if [ -e "$0.fails" ]; then
    [ "$mine" = restore ] && log=restore.log || log=dump.log
    echo "(00.1) Error (criu/x.c:1): no such luck" > "$work/$log"
    exit 1
fi
if [ "$mine" = checkpoint ]; then
    [ "$stays" ] || exit 9
    echo memory > "$images/pages-1.img"
    exit
fi
[ "$detaches" ] && grep -q memory "$images/pages-1.img" || exit 9
runc $globals create --bundle "$bundle" --pid-file "$pid" "$1" && exec runc $globals start "$1"
"#;

/// A pod in the stand-in, and a switch for how that goes on; nothing on an endpoint of somebody else.
pub async fn pod(name: &str, restore: bool) -> Result<Option<(Pod, StandIn)>> {
    if crate::settings::skips("it needs a handler of the node's own") {
        return Ok(None);
    }
    let node = Arc::new(Node::start(NodeOptions::default()).await?);
    // Within the node's directory, so that it goes with the node.
    let kept = node.directory().join("stand-in");
    fs::create_dir(&kept)?;
    let program = kept.join("oci");
    fs::write(&program, STAND_IN)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let drop_in = node.directory().join("husk.toml.d/60-stand-in.toml");
    let handler = format!("[runtime.handlers.stand-in]\npath = {program:?}\nkind = \"runc\"\n");
    fs::write(
        drop_in,
        format!("[runtime]\nrestore = {restore}\n{handler}"),
    )?;
    node.restart().await?;
    let config = node.host_pod(name);
    let client = node.client().await?;
    let id = client.run_pod_with(&config, "stand-in").await?;
    let pod = Pod {
        node,
        client,
        config,
        id,
    };
    Ok(Some((pod, StandIn(program))))
}

/// The stand-in, which looks for files beside itself.
#[derive(Debug)]
pub struct StandIn(PathBuf);

impl StandIn {
    /// Lets it fail, as CRIU does.
    pub fn fail(&self, on: bool) -> Result<()> {
        self.switch("fails", on)
    }

    /// Lets it hang.
    pub fn hang(&self, on: bool) -> Result<()> {
        self.switch("hangs", on)
    }

    fn switch(&self, name: &str, on: bool) -> Result<()> {
        let path = self.0.with_extension(name);
        if on {
            fs::write(path, "")?;
        } else {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// CheckpointContainer.
pub async fn checkpoint(
    client: &Client,
    id: &str,
    location: &Path,
    timeout: i64,
) -> Result<(), Status> {
    let request = cri::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    let mut runtime = client.runtime.clone();
    runtime.checkpoint_container(request).await.map(drop)
}

/// Names and contents of an archive.
pub fn contents(archive: impl Read) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        found.insert(entry.path()?.display().to_string(), bytes);
    }
    Ok(found)
}
