//! A Go toolchain for what tests build from Go modules: the machine's own where it is new enough, else one from the Go
//! module proxy, which also serves toolchains (<https://go.dev/doc/toolchain>).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build::target_directory;
use crate::packages;
use crate::shell::{command, output, run};

/// From this minor version on Go fetches the version that a module asks for by itself.
const FETCHES_ITSELF: u32 = 21;

/// A release for x86_64, and the SHA-256 of its archive.
const RELEASE: &str = "v0.0.1-go1.26.8.linux-amd64";
const DIGEST: &str = "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7";

/// What fetches it into the working directory: the first proxy that Go itself would ask.
const FETCH: &str = r#"set -e
proxy=${GOPROXY%%[,|]*}
case "$proxy" in http*://*) ;; *) proxy=https://proxy.golang.org ;; esac
curl --fail --silent --show-error --location --output go.zip "$proxy/golang.org/toolchain/@v/$RELEASE.zip"
echo "$DIGEST  go.zip" | sha256sum --check --quiet
unzip -q go.zip
rm go.zip
chmod -R +x "golang.org/toolchain@$RELEASE/bin" "golang.org/toolchain@$RELEASE/pkg/tool"
"#;

/// Where `go` is; nothing where the one on the path will do.
fn install() -> Result<Option<PathBuf>> {
    let version = output(command("go").arg("version")).unwrap_or_default();
    if minor(&version).is_some_and(|minor| minor >= FETCHES_ITSELF) {
        return Ok(None);
    }
    ensure!(
        cfg!(target_arch = "x86_64"),
        "install Go 1.{FETCHES_ITSELF} or newer: tests build programs with it"
    );
    let place = target_directory()?.join("go");
    let programs = place
        .join("golang.org")
        .join(format!("toolchain@{RELEASE}"))
        .join("bin");
    if !programs.join("go").exists() {
        packages::install_for_download()?;
        fetch(&place)?;
    }
    Ok(Some(programs))
}

/// In a directory that gets its name when all is there.
fn fetch(place: &Path) -> Result<()> {
    let unfinished = place.with_extension("unfinished");
    for old in [&unfinished, place] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    std::fs::create_dir_all(&unfinished)
        .with_context(|| format!("make {}", unfinished.display()))?;
    let mut fetch = command("sh");
    fetch.args(["-c", FETCH]).current_dir(&unfinished);
    run(fetch.env("RELEASE", RELEASE).env("DIGEST", DIGEST)).context("fetch a Go toolchain")?;
    std::fs::rename(&unfinished, place).with_context(|| format!("make {}", place.display()))
}

/// A call of `go`, wherever that is.
pub(crate) fn go() -> Result<Command> {
    let mut go = command("go");
    if let Some(programs) = install()? {
        let path = output(command("sh").args(["-c", "echo \"$PATH\""]))?;
        go.env("PATH", format!("{}:{}", programs.display(), path.trim()));
    }
    Ok(go)
}

/// The minor version in what `go version` says.
fn minor(version: &str) -> Option<u32> {
    let (_, after) = version.split_once(" go1.")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_versions() {
        for (said, expect) in [
            ("go version go1.26.8 linux/amd64\n", Some(26)),
            ("go version go1.19 linux/amd64", Some(19)),
            ("go version go1.27rc1 linux/amd64", Some(27)),
            ("", None),
            ("sh: 1: go: not found", None),
        ] {
            assert_eq!(minor(said), expect, "{said}");
        }
    }
}
