//! AppArmor: the profile of containers that ask for the runtime's default, and which profiles the
//! kernel has.
//!
//! The profile is text in this directory, given to `apparmor_parser` when the daemon starts. A node
//! without that program runs on without the profile and says so. Deliberately absent: which profile
//! a container gets (`spec/security.rs`), and removing the profile: containers outlive the daemon.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

/// The name of our profile.
pub const DEFAULT: &str = "husk-default";
const TEXT: &str = include_str!("husk-default.profile");

/// Lists the loaded profiles, one a line with its mode (kernel documentation, `LSM/apparmor.rst`).
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Where the parser may be; the daemon's own search path is nobody's business.
const PARSERS: [&str; 3] = [
    "/usr/sbin/apparmor_parser",
    "/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
];

/// Compiling a profile takes a few hundred milliseconds at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the default profile is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The package `apparmor` is not installed.
    #[error("there is no apparmor_parser on this node")]
    NoParser,
    /// The parser cannot be started or spoken with.
    #[error("running {program}")]
    Run {
        /// Its path.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not end.
    #[error("{program} did not end within {} s", PATIENCE.as_secs())]
    Hung {
        /// Its path.
        program: &'static str,
    },
    /// It, or the kernel, did not accept the profile.
    #[error("{program} refuses the profile {DEFAULT}: {said}")]
    Refused {
        /// Its path.
        program: &'static str,
        /// What it wrote.
        said: String,
    },
}

/// Loads the default profile, in place of an older one of the same name.
///
/// # Errors
/// As [`LoadError`].
pub async fn load() -> Result<(), LoadError> {
    let program = PARSERS.into_iter().find(|path| Path::new(path).exists());
    let program = program.ok_or(LoadError::NoParser)?;
    let run = tokio::time::timeout(PATIENCE, feed(program));
    let output = run
        .await
        .map_err(|_| LoadError::Hung { program })?
        .map_err(|source| LoadError::Run { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LoadError::Refused { program, said })
}

async fn feed(program: &'static str) -> io::Result<std::process::Output> {
    #[expect(
        clippy::disallowed_methods,
        reason = "gives the kernel our profile by the one program that can: bounded time, killed when dropped"
    )]
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--replace", "--skip-cache"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(TEXT.as_bytes()).await?;
    }
    child.wait_with_output().await
}

/// Whether the kernel has a profile; `None` where it does not tell. Blocks on a small file.
pub fn is_loaded(name: &str) -> Option<bool> {
    let list = std::fs::read_to_string(LOADED).ok()?;
    Some(lists(&list, name))
}

/// A line is the profile's name, which may have blanks, and its mode in parentheses.
fn lists(list: &str, name: &str) -> bool {
    let names = list.lines().filter_map(|line| line.rsplit_once(" ("));
    names.into_iter().any(|(listed, _)| listed == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_profiles_are_found_by_their_whole_name() {
        let list = "husk-default (enforce)\n/usr/bin/man (enforce)\nwith a blank (complain)\n";
        for (name, expect) in [
            ("husk-default", true),
            ("with a blank", true),
            ("/usr/bin/man", true),
            ("husk", false),
            ("enforce", false),
            ("", false),
        ] {
            assert_eq!(lists(list, name), expect, "{name:?}");
        }
    }

    #[test]
    fn the_profile_has_the_name_that_containers_get_and_is_closed() {
        let header = format!("profile {DEFAULT} flags=");
        assert_eq!(TEXT.matches(&header).count(), 1);
        let code: Vec<_> = TEXT
            .lines()
            .filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
            .collect();
        assert_eq!(code.last(), Some(&"}"));
        let rules = &code[1..code.len() - 1];
        assert!(rules.iter().all(|rule| rule.ends_with(',')), "{rules:?}");
        for rule in ["deny mount,", "deny /proc/sysrq-trigger rwlk,"] {
            assert!(rules.iter().any(|line| line.trim() == rule), "{rule}");
        }
    }
}
