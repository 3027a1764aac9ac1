//! The token server of a docker-registry: whoever brings the account's password or the refresh token gets a token for
//! what they ask (Distribution's "Token Authentication Specification" and its OAuth2 form).
//!
//! It serves one request at a time over plain HTTP and signs with `openssl`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::command::{command, output};
use crate::netns;
use crate::registry::{PASSWORD, USER};

/// What stands for the account instead of its password.
pub const REFRESH: &str = "refresh-me";

/// The name of the registry and of who signs, for each other.
const NAME: &str = "husk-test";

/// The server; its thread ends on drop.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    network: Option<u32>,
    directory: PathBuf,
    stopping: Arc<AtomicBool>,
}

impl TokenServer {
    /// Makes a key in the directory and listens inside the network namespace of the process `network`.
    pub fn start(network: Option<u32>, directory: &Path) -> Result<Self> {
        let words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout token.key -out token.pem";
        let mut openssl = command("openssl");
        output(openssl.args(words.split(' ')).current_dir(directory))?;
        let listener = netns::listen(network)?;
        let server = Self {
            address: listener.local_addr()?,
            network,
            directory: directory.to_owned(),
            stopping: Arc::default(),
        };
        let (stopping, directory) = (server.stopping.clone(), server.directory.clone());
        std::thread::spawn(move || accept(&listener, &stopping, &directory));
        Ok(server)
    }

    /// What the registry's configuration says of it.
    pub fn section(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: {NAME}\n    issuer: {NAME}\n    \
             rootcertbundle: {}/token.pem\n",
            self.address,
            self.directory.display()
        )
    }

    /// A token that lets its bearer pull from the repository.
    pub fn token(&self, repository: &str) -> Result<String> {
        sign(&self.directory, &format!("repository:{repository}:pull"))
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _wakes_accept = netns::connect(self.network, self.address);
    }
}

fn accept(listener: &TcpListener, stopping: &AtomicBool, directory: &Path) {
    for client in listener.incoming().flatten() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let _client_is_gone = serve(client, directory);
    }
}

fn serve(mut client: TcpStream, directory: &Path) -> Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = read(&mut client)?;
    let account = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let known = request.contains(&format!("Basic {account}\r\n"))
        || request.contains(&format!("refresh_token={REFRESH}"));
    let (status, body) = match known {
        true => (
            "200 OK",
            json!({"token": sign(directory, &scope(&request))?}),
        ),
        false => ("401 Unauthorized", json!({})),
    };
    let body = body.to_string();
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    Ok(client.write_all(answer.as_bytes())?)
}

/// The whole request: its head, and its form where it has one.
fn read(client: &mut TcpStream) -> Result<String> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") && bytes.len() < 64 << 10 {
        client.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut form = vec![0; length.unwrap_or("0").trim().parse()?];
    client.read_exact(&mut form)?;
    bytes.extend(form);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is asked for, in the query or in the form; nothing at a mere login.
fn scope(request: &str) -> String {
    let words = request.split(['?', '&', ' ', '\n']);
    let scope = words.filter_map(|word| word.strip_prefix("scope=")).next();
    let scope = scope.unwrap_or_default();
    let signs = [("%3A", ":"), ("%2F", "/"), ("%2C", ",")];
    let decode = |text: String, (code, sign)| text.replace(code, sign);
    signs.into_iter().fold(scope.to_owned(), decode)
}

/// A JSON web token for `scope`, which is `repository:NAME:ACTIONS`.
fn sign(directory: &Path, scope: &str) -> Result<String> {
    let pem = fs::read_to_string(directory.join("token.pem"))?;
    let certificate: String = pem.lines().filter(|line| !line.contains("--")).collect();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "iss": NAME, "sub": USER, "aud": NAME, "jti": "one",
        "iat": now, "nbf": now - 10, "exp": now + 600, "access": access(scope),
    });
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let place = tempfile::tempdir_in(directory)?;
    fs::write(place.path().join("text"), &text)?;
    let mut openssl = command("openssl");
    let words = "dgst -sha256 -sign ../token.key -out signature text";
    output(openssl.args(words.split(' ')).current_dir(place.path())).context("sign a token")?;
    let signature = fs::read(place.path().join("signature"))?;
    Ok(format!(
        "{text}.{}",
        BASE64_URL_SAFE_NO_PAD.encode(signature)
    ))
}

fn access(scope: &str) -> Value {
    let parts: Vec<_> = scope.split(':').collect();
    let [kind, name, actions] = parts[..] else {
        return json!([]);
    };
    let actions: Vec<_> = actions.split(',').collect();
    json!([{"type": kind, "name": name, "actions": actions}])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_from_queries_and_forms() {
        let scoped = "repository:a/b:pull,push";
        for request in [
            "GET /token?account=x&scope=repository%3Aa%2Fb%3Apull%2Cpush&service=s HTTP/1.1\r\n",
            "POST /token HTTP/1.1\r\n\r\nservice=s&scope=repository:a/b:pull,push",
        ] {
            assert_eq!(scope(request), scoped, "{request}");
        }
        let actions = json!([{"type": "repository", "name": "a/b", "actions": ["pull", "push"]}]);
        assert_eq!(access(scoped), actions);
        assert_eq!(access(&scope("GET /token HTTP/1.1\r\n")), json!([]));
    }
}
