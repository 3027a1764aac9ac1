//! Reading answers of bounded size.

use reqwest::Response;
use serde::Deserialize;

use super::RegistryError;

/// Reads an answer into memory, up to a limit.
pub(super) async fn body(
    host: &str,
    mut response: Response,
    what: &str,
    limit: u64,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        host: host.to_owned(),
        what: what.to_owned(),
        limit,
    };
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|source| unreachable(host, source))?
    {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(bytes)
}

pub(super) fn unreachable(host: &str, source: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable {
        host: host.to_owned(),
        // Redirects carry signatures in their addresses.
        source: source.without_url(),
    }
}

/// What a registry says about a failure, for people: the first message of its error list, or nothing.
pub(super) async fn detail(host: &str, response: Response) -> String {
    #[derive(Deserialize)]
    struct List {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        message: String,
    }
    let Ok(bytes) = body(host, response, "an error", 64 << 10).await else {
        return String::new();
    };
    let list: Option<List> = serde_json::from_slice(&bytes).ok();
    let message = list
        .and_then(|list| list.errors.into_iter().next())
        .map(|item| item.message);
    message.map_or_else(String::new, |message| {
        let clean = message.chars().filter(|c| !c.is_control()).take(200);
        format!(": {}", clean.collect::<String>())
    })
}
