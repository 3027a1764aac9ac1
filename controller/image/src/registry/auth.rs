//! From a 401 to a request that is accepted: Basic, and Bearer tokens from a token server.
//!
//! Protocol: distribution project, "Token Authentication Specification" and its OAuth2 form, which is
//! used for identity tokens.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Client, Url};
use serde::Deserialize;

use super::RegistryError;
use super::challenge::{self, Challenge};
use super::http::body;
use crate::credentials::Credentials;

/// A token server's answer is a few kilobytes.
const ANSWER_LIMIT: u64 = 1 << 20;

/// Who asks for what.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) client: &'a Client,
    /// The registry, for errors.
    pub(super) host: &'a str,
    /// The path of the repository.
    pub(super) repository: &'a str,
    pub(super) credentials: Option<&'a Credentials>,
    /// Credentials may go to a plain HTTP server.
    pub(super) insecure: bool,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The header that answers a challenge; an error if nothing we have does.
pub(super) async fn answer(
    request: &Request<'_>,
    headers: &[String],
) -> Result<String, RegistryError> {
    let challenges: Vec<Challenge> = headers
        .iter()
        .flat_map(|header| challenge::parse(header))
        .collect();
    let offered = |scheme: &str| {
        challenges
            .iter()
            .find(|challenge| challenge.scheme == scheme)
    };
    if let Some(Credentials::RegistryToken(token)) = request.credentials {
        return Ok(format!("Bearer {token}"));
    }
    if let Some(challenge) = offered("bearer") {
        let token = fetch(request, challenge).await?;
        return Ok(format!("Bearer {token}"));
    }
    match (offered("basic"), request.credentials) {
        (Some(_), Some(Credentials::Basic { username, password })) => Ok(basic(username, password)),
        (Some(_), None) => Err(refused(request, ": it wants a user name and password")),
        (Some(_), Some(_)) => Err(refused(request, ": it wants a password, not a token")),
        (None, _) => Err(refused(request, ": it offers no known way to authenticate")),
    }
}

fn refused(request: &Request<'_>, detail: impl Into<String>) -> RegistryError {
    RegistryError::Unauthorized {
        host: request.host.to_owned(),
        detail: detail.into(),
    }
}

fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{username}:{password}"))
    )
}

async fn fetch(request: &Request<'_>, challenge: &Challenge) -> Result<String, RegistryError> {
    let url = token_url(request, challenge)?;
    let scope = format!("repository:{}:pull", request.repository);
    let service = challenge.parameter("service").unwrap_or_default();
    let prepared = match request.credentials {
        Some(Credentials::IdentityToken(token)) => {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", "husk"),
                ("service", service),
                ("scope", &scope),
                ("refresh_token", token),
            ];
            let content = "application/x-www-form-urlencoded";
            request
                .client
                .post(url)
                .header("content-type", content)
                .body(encode(&form))
        }
        credentials => {
            let mut url = url;
            {
                let mut query = url.query_pairs_mut();
                query.append_pair("scope", &scope);
                if !service.is_empty() {
                    query.append_pair("service", service);
                }
            }
            let prepared = request.client.get(url);
            match credentials {
                Some(Credentials::Basic { username, password }) => {
                    prepared.header("authorization", basic(username, password))
                }
                Some(Credentials::IdentityToken(_) | Credentials::RegistryToken(_)) | None => {
                    prepared
                }
            }
        }
    };
    let host = request.host.to_owned();
    let response = prepared
        .send()
        .await
        .map_err(|source| RegistryError::Unreachable {
            host,
            source: source.without_url(),
        })?;
    read_token(request, response).await
}

async fn read_token(
    request: &Request<'_>,
    response: reqwest::Response,
) -> Result<String, RegistryError> {
    let status = response.status().as_u16();
    if matches!(status, 400 | 401 | 403) {
        let detail = match request.credentials {
            Some(_) => ": its token server does not accept the credentials",
            None => ": its token server gives no token without credentials",
        };
        return Err(refused(request, detail));
    }
    if status != 200 {
        return Err(RegistryError::Status {
            host: request.host.to_owned(),
            status,
            detail: ", from its token server".to_owned(),
        });
    }
    let bytes = body(request.host, response, "a token", ANSWER_LIMIT).await?;
    let token: Option<Token> = serde_json::from_slice(&bytes).ok();
    let token = token.and_then(|token| token.token.or(token.access_token));
    // It becomes a header, so it must fit in one.
    token
        .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| RegistryError::Garbage {
            host: request.host.to_owned(),
            what: "a token request without a token".to_owned(),
        })
}

fn token_url(request: &Request<'_>, challenge: &Challenge) -> Result<Url, RegistryError> {
    let realm = challenge.parameter("realm").unwrap_or_default();
    let garbage = |what: String| RegistryError::Garbage {
        host: request.host.to_owned(),
        what,
    };
    let url = Url::parse(realm).map_err(|_| garbage(format!("with the token server {realm:?}")))?;
    let allowed = url.scheme() == "https" || (url.scheme() == "http" && request.insecure);
    if allowed && url.has_host() {
        Ok(url)
    } else {
        Err(garbage(format!(
            "with the token server {realm:?}, which is not https"
        )))
    }
}

/// Encodes a form (WHATWG URL standard, `application/x-www-form-urlencoded`).
fn encode(form: &[(&str, &str)]) -> String {
    let Ok(mut scratch) = Url::parse("http://form.invalid/") else {
        return String::new();
    };
    scratch.query_pairs_mut().extend_pairs(form);
    scratch.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let form = [("scope", "repository:a/b:pull"), ("t", "a+b&c=d é")];
        assert_eq!(
            encode(&form),
            "scope=repository%3Aa%2Fb%3Apull&t=a%2Bb%26c%3Dd+%C3%A9"
        );
    }

    #[test]
    fn passwords_do_not_travel_in_the_clear() {
        let client = Client::new();
        for (realm, insecure, expect) in [
            ("https://a.b/t", false, true),
            ("http://a.b/t", false, false),
            ("http://a.b/t", true, true),
            ("file:///etc/passwd", true, false),
            ("nonsense", true, false),
        ] {
            let request = Request {
                client: &client,
                host: "r.io",
                repository: "a",
                credentials: None,
                insecure,
            };
            let challenge = &challenge::parse(&format!("Bearer realm=\"{realm}\""))[0];
            assert_eq!(token_url(&request, challenge).is_ok(), expect, "{realm}");
        }
    }
}
