//! What runs: command, environment, working directory, user, limits.

use husk_cri_api::v1;
use oci_spec::runtime::{Process, User};

use super::error::{SpecError, Warning};
use super::facts::{HostFacts, ImageDefaults};
use super::mounts::clean;
use super::user::ResolvedUser;
use super::{ContainerInput, capabilities, resources_of, security};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's first process.
pub(super) fn container(
    input: &ContainerInput<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Process, SpecError> {
    let mut process = Process::default();
    process.set_terminal(Some(input.config.tty));
    process.set_user(user(input.user));
    process.set_args(Some(args(input.config, input.image)?));
    process.set_env(Some(environment(input, warnings)?));
    process.set_cwd(working_dir(input.config, input.image)?.into());
    process.set_capabilities(Some(capabilities::granted(input)?.into_spec(warnings)));
    process.set_rlimits(Some(input.host.rlimits.clone()).filter(|limits| !limits.is_empty()));
    process.set_no_new_privileges(Some(
        input.security().is_some_and(|context| context.no_new_privs),
    ));
    process.set_apparmor_profile(security::apparmor(input, warnings)?);
    process.set_oom_score_adj(Some(oom_score_adj(input.config, input.host, warnings)));
    Ok(process)
}

/// The process of an exec: everything of the container's own process but what it runs.
///
/// # Errors
/// An empty command, and a NUL in it.
pub fn exec(container: &Process, args: &[String], terminal: bool) -> Result<Process, SpecError> {
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::Missing { field: "cmd" });
    }
    refuse_nul("cmd", args)?;
    let mut process = container.clone();
    process.set_args(Some(args.to_vec()));
    process.set_terminal(Some(terminal));
    process.set_console_size(None);
    if terminal {
        let mut environment = process.env().clone().unwrap_or_default();
        if !environment.iter().any(|entry| entry.starts_with("TERM=")) {
            environment.push("TERM=xterm".to_owned());
        }
        process.set_env(Some(environment));
    }
    Ok(process)
}

/// The kubelet's command replaces the image's entrypoint and makes its arguments void; the
/// kubelet's arguments alone replace the image's arguments.
fn args(config: &v1::ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, SpecError> {
    let command = if config.command.is_empty() {
        &image.entrypoint
    } else {
        &config.command
    };
    let inherits_cmd = config.command.is_empty() && config.args.is_empty();
    let rest = if inherits_cmd {
        &image.cmd
    } else {
        &config.args
    };
    let args: Vec<String> = command.iter().chain(rest).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    refuse_nul("command", &args)?;
    Ok(args)
}

fn refuse_nul(field: &'static str, values: &[String]) -> Result<(), SpecError> {
    match values.iter().find(|value| value.contains('\0')) {
        Some(value) => Err(SpecError::invalid(
            field,
            value,
            "a NUL ends every string of a process",
        )),
        None => Ok(()),
    }
}

/// Later entries win: defaults, the image's, the kubelet's.
fn environment(
    input: &ContainerInput<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>, SpecError> {
    let mut environment = Environment::default();
    environment.set("PATH", PATH);
    environment.set("HOSTNAME", input.hostname);
    if input.config.tty {
        environment.set("TERM", "xterm");
    }
    let mut malformed = 0;
    for entry in &input.image.env {
        match entry.split_once('=') {
            Some((key, value)) if !key.is_empty() && !entry.contains('\0') => {
                environment.set(key, value)
            }
            Some(_) | None => malformed += 1,
        }
    }
    if malformed > 0 {
        warnings.push(Warning::ImageEnvironment { count: malformed });
    }
    for entry in &input.config.envs {
        let value = String::from_utf8(entry.value.clone())
            .map_err(|_| SpecError::invalid("envs", &entry.key, "the value is not UTF-8"))?;
        environment.set(&entry.key, &value);
    }
    // The OCI runtime would otherwise look the home up in the container's files by itself.
    environment.set_default("HOME", &input.user.home);
    Ok(environment.entries())
}

/// An environment in the order of first mention.
#[derive(Debug, Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
    }

    fn set_default(&mut self, key: &str, value: &str) {
        if self.0.iter().all(|(known, _)| known != key) {
            self.set(key, value);
        }
    }

    fn entries(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }
}

/// The kubelet's directory, else the image's, else the root.
///
/// A path through a process's open files would leave the container where the OCI runtime leaks one
/// (CVE-2024-21626), and no program has a use for it.
fn working_dir(config: &v1::ContainerConfig, image: &ImageDefaults) -> Result<String, SpecError> {
    let (field, wanted) = if config.working_dir.is_empty() {
        ("image.working_dir", &image.working_dir)
    } else {
        ("working_dir", &config.working_dir)
    };
    if wanted.contains('\0') {
        return Err(SpecError::invalid(field, wanted, "a NUL is in it"));
    }
    let cleaned = clean(wanted);
    let cleaned = cleaned.to_string_lossy().into_owned();
    if leads_to_open_files(&cleaned) {
        return Err(SpecError::invalid(
            field,
            wanted,
            "it leads through a process's open files",
        ));
    }
    Ok(cleaned)
}

fn leads_to_open_files(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    matches!(
        parts.as_slice(),
        ["proc", _, "fd" | "cwd" | "root" | "task", ..] | ["dev", "fd", ..]
    )
}

fn user(resolved: &ResolvedUser) -> User {
    let mut user = User::default();
    user.set_uid(resolved.uid);
    user.set_gid(resolved.gid);
    user.set_additional_gids(Some(resolved.additional_gids.clone()));
    user
}

/// Always written: a container must not inherit the daemon's own, protected value.
fn oom_score_adj(
    config: &v1::ContainerConfig,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> i32 {
    let wanted = resources_of(config).map_or(0, |resources| resources.oom_score_adj);
    possible_oom_score_adj(wanted, host, warnings)
}

/// The nearest value that the kernel has and this process may give.
pub(super) fn possible_oom_score_adj(
    wanted: i64,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> i32 {
    let possible = wanted.clamp(-1000, 1000);
    let used = i32::try_from(possible)
        .unwrap_or(0)
        .max(host.oom_score_adj_floor);
    if i64::from(used) != wanted && wanted != 0 {
        warnings.push(Warning::OomScoreAdj { wanted, used });
    }
    used
}
