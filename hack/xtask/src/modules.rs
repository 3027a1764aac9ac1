//! Building what suites run beside Husk from Go modules: an NRI plugin with upstream's client code, and a current runc.

use anyhow::{Context as _, Result};

use crate::build::target_directory;
use crate::go::go;
use crate::shell::{root, run};

/// The suites that need them.
pub(crate) const SUITES: [&str; 2] = ["nri", "user_namespaces"];

const RUNC: &str = "github.com/opencontainers/runc@v1.5.2";

/// Builds both with Go's own cache, to where the harness looks for them. This runc has no libseccomp, so it refuses
/// seccomp profiles.
pub(crate) fn build() -> Result<()> {
    let target = target_directory()?;
    let mut plugin = go()?;
    plugin.current_dir(root().join("tests/nri-plugin"));
    plugin.args(["build", "-mod=readonly", "-buildvcs=false", "-o"]);
    run(plugin.arg(target.join("nri-plugin")).arg(".")).context("build an NRI plugin")?;
    let mut runc = go()?;
    runc.env("GOBIN", target.join("oci")).env("GOFLAGS", "");
    run(runc.args(["install", RUNC])).context("build a current runc")
}
