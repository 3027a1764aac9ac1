//! Credential helper programs: `docker-credential-NAME get`, the server on stdin, JSON on stdout.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::Credentials;

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper; `None` if it has nothing for the server.
pub(crate) async fn ask(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    // The name is part of a program's name and must not become a path.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let answer = tokio::time::timeout(PATIENCE, run(&program, server)).await;
    let answer = answer
        .map_err(|_| format!("{program} did not answer in {} seconds", PATIENCE.as_secs()))??;
    // Helpers say in text, and all in the same one, that they know nothing of a server.
    if String::from_utf8_lossy(&answer).contains("credentials not found") {
        return Ok(None);
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| format!("{program} does not answer with Username and Secret"))?;
    Ok(Some(if answer.username == "<token>" {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Basic {
            username: answer.username,
            password: answer.secret,
        }
    }))
}

async fn run(program: &str, server: &str) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let mut child = start(program).map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes()).await.map_err(failed)?;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(ANSWER_LIMIT)
            .read_to_end(&mut answer)
            .await
            .map_err(failed)?;
    }
    // The answer counts, not the status, which another reaper of this process may have taken.
    let _ = child.wait().await;
    Ok(answer)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this crate that starts programs"
)]
fn start(program: &str) -> std::io::Result<Child> {
    Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_are_paths_are_refused() {
        for name in ["", "../x", "a/b", "a b"] {
            assert!(ask(name, "r.io").await.is_err(), "{name}");
        }
        let missing = ask("there-is-no-such-helper", "r.io").await.unwrap_err();
        assert!(
            missing.contains("docker-credential-there-is-no-such-helper"),
            "{missing}"
        );
    }
}
