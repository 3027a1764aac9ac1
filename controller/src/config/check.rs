//! What no key can be refused for alone: values that must agree with one another.

use super::{AUTO, Config, Problem};

/// Every disagreement in `config`.
pub(super) fn together(config: &Config) -> Vec<Problem> {
    [
        default_handler(config),
        directories(config),
        tls(config),
        handler_names(config),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn default_handler(config: &Config) -> Option<Problem> {
    let runtime = &config.runtime;
    if runtime.default == AUTO || runtime.handlers.0.contains_key(&runtime.default) {
        return None;
    }
    let names: Vec<&str> = runtime.handlers.0.keys().map(String::as_str).collect();
    Some(problem(
        "runtime.default",
        format!(
            "no handler is called \"{}\"; there are {}, and \"{AUTO}\"",
            runtime.default,
            names.join(", ")
        ),
    ))
}

/// "auto" would name both a handler and the choice between handlers.
fn handler_names(config: &Config) -> Option<Problem> {
    config.runtime.handlers.0.contains_key(AUTO).then(|| {
        problem(
            "runtime.handlers.auto",
            "this name stands for the choice between crun and runc; take another",
        )
    })
}

/// State that survives a reboot and state that must not: one inside the other would mix them.
fn directories(config: &Config) -> Option<Problem> {
    let (root, run) = (&config.root, &config.run);
    let overlap = root.starts_with(run) || run.starts_with(root);
    overlap.then(|| problem("root, run", "neither directory may be inside the other"))
}

fn tls(config: &Config) -> Option<Problem> {
    let streaming = &config.streaming;
    if streaming.tls_cert.is_some() != streaming.tls_key.is_some() {
        let reason = "a certificate and its key are set together";
        return Some(problem("streaming.tls_cert, streaming.tls_key", reason));
    }
    let open = !streaming.address.ip().is_loopback() && streaming.tls_cert.is_none();
    open.then(|| {
        let reason = format!(
            "{} is not a loopback address: whoever reaches it could take over a session, so it needs TLS",
            streaming.address
        );
        problem("streaming.address, streaming.tls_cert", reason)
    })
}

fn problem(keys: &str, reason: impl Into<String>) -> Problem {
    Problem::Together {
        keys: keys.to_owned(),
        reason: reason.into(),
    }
}
