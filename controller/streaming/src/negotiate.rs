//! Which protocol a request asks for and is answered with; pure.

use hyper::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::{Method, StatusCode};

use crate::status::StatusFormat;
use crate::websocket::{ChannelCodec, Encoding};

/// Header of SPDY requests that lists the versions the client speaks.
pub(crate) const STREAM_VERSION: &str = "x-stream-protocol-version";

/// Header of a refusal that lists the versions the server speaks.
pub(crate) const ACCEPTED_VERSIONS: &str = "x-accepted-stream-protocol-versions";

const PORT_FORWARD: &str = "portforward.k8s.io";

/// Prefix of protocols that run SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+";

/// Versions of exec and attach over SPDY, the best first.
const REMOTE_VERSIONS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Remote,
    Forward,
}

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Spdy,
    Tunnel,
    Channels(ChannelCodec),
}

/// What client and server will speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) carrier: Carrier,
    /// To be echoed; empty where the client named none.
    pub(crate) protocol: String,
    pub(crate) status: StatusFormat,
    /// The client sends terminal sizes.
    pub(crate) sizes: bool,
}

/// Why a request is not answered with an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) accepted: Vec<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: &'static str) -> Refusal {
        Refusal {
            status,
            reason,
            accepted: Vec::new(),
        }
    }
}

/// Agrees on the first protocol of the client that the server knows.
pub(crate) fn negotiate(
    purpose: Purpose,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Agreement, Refusal> {
    if !values(headers, CONNECTION.as_str()).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "not a request for an upgrade",
        ));
    }
    let asked = |name: &str| {
        values(headers, UPGRADE.as_str()).any(|value| value.eq_ignore_ascii_case(name))
    };
    if asked("websocket") {
        websocket(purpose, method, headers)
    } else if asked("SPDY/3.1") {
        spdy(purpose, headers)
    } else {
        Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "neither SPDY/3.1 nor WebSocket was asked for",
        ))
    }
}

fn spdy(purpose: Purpose, headers: &HeaderMap) -> Result<Agreement, Refusal> {
    let known: &[&str] = match purpose {
        Purpose::Remote => &REMOTE_VERSIONS,
        Purpose::Forward => &[PORT_FORWARD],
    };
    if values(headers, STREAM_VERSION).next().is_none() {
        let reason = "the request names no stream protocol version";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
    }
    let common = values(headers, STREAM_VERSION).find(|offered| known.contains(offered));
    let Some(protocol) = common else {
        return Err(no_common(known.to_vec()));
    };
    Ok(Agreement::new(Carrier::Spdy, protocol, protocol))
}

fn websocket(purpose: Purpose, method: &Method, headers: &HeaderMap) -> Result<Agreement, Refusal> {
    if method != Method::GET {
        let reason = "a WebSocket is opened with GET";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    let mut offered = values(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).peekable();
    if offered.peek().is_none() {
        let codec = ChannelCodec {
            encoding: Encoding::Binary,
            close_signal: false,
        };
        return Ok(Agreement::new(
            Carrier::Channels(codec),
            "",
            "channel.k8s.io",
        ));
    }
    let mut agreed = offered.filter_map(|protocol| websocket_protocol(purpose, protocol));
    agreed.next().ok_or_else(|| no_common(Vec::new()))
}

fn websocket_protocol(purpose: Purpose, protocol: &str) -> Option<Agreement> {
    if let Some(inner) = protocol.strip_prefix(TUNNEL) {
        let known = match purpose {
            Purpose::Remote => REMOTE_VERSIONS.contains(&inner),
            Purpose::Forward => inner == PORT_FORWARD,
        };
        return known.then(|| Agreement::new(Carrier::Tunnel, protocol, inner));
    }
    let (encoding, close_signal) = match (purpose, protocol) {
        (Purpose::Remote, "v5.channel.k8s.io") => (Encoding::Binary, true),
        (_, "v4.channel.k8s.io")
        | (Purpose::Remote, "v3.channel.k8s.io" | "v2.channel.k8s.io" | "channel.k8s.io") => {
            (Encoding::Binary, false)
        }
        (_, "v4.base64.channel.k8s.io") | (Purpose::Remote, "base64.channel.k8s.io") => {
            (Encoding::Base64, false)
        }
        _ => return None,
    };
    let carrier = Carrier::Channels(ChannelCodec {
        encoding,
        close_signal,
    });
    Some(Agreement::new(carrier, protocol, protocol))
}

impl Agreement {
    fn new(carrier: Carrier, protocol: &str, version: &str) -> Agreement {
        let json = version.starts_with("v4.") || version.starts_with("v5.");
        Agreement {
            carrier,
            protocol: protocol.to_owned(),
            status: if json {
                StatusFormat::Json
            } else {
                StatusFormat::Text
            },
            sizes: json || version.starts_with("v3."),
        }
    }
}

fn no_common(accepted: Vec<&'static str>) -> Refusal {
    let reason = "client and server have no protocol in common";
    Refusal {
        accepted,
        ..Refusal::new(StatusCode::FORBIDDEN, reason)
    }
}

/// The comma-separated values of all headers of a name.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            let name = HeaderName::try_from(*name).expect("name");
            (name, HeaderValue::try_from(*value).expect("value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            headers.append(name, value);
        }
        headers
    }

    fn spdy_with(purpose: Purpose, versions: &[&str]) -> Result<Agreement, Refusal> {
        let mut lines = vec![("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
        lines.extend(
            versions
                .iter()
                .map(|version| ("X-Stream-Protocol-Version", *version)),
        );
        negotiate(purpose, &Method::POST, &headers(&lines))
    }

    fn websocket_with(purpose: Purpose, protocols: &str) -> Result<Agreement, Refusal> {
        let mut lines = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        if !protocols.is_empty() {
            lines.push(("Sec-WebSocket-Protocol", protocols));
        }
        negotiate(purpose, &Method::GET, &headers(&lines))
    }

    #[test]
    fn the_clients_first_known_version_wins() {
        let rows = [
            (
                Purpose::Remote,
                "v4.channel.k8s.io",
                StatusFormat::Json,
                true,
            ),
            (
                Purpose::Remote,
                "v3.channel.k8s.io",
                StatusFormat::Text,
                true,
            ),
            (
                Purpose::Remote,
                "v2.channel.k8s.io",
                StatusFormat::Text,
                false,
            ),
            (Purpose::Remote, "channel.k8s.io", StatusFormat::Text, false),
            (
                Purpose::Forward,
                "portforward.k8s.io",
                StatusFormat::Text,
                false,
            ),
        ];
        for (purpose, version, status, sizes) in rows {
            let found = spdy_with(purpose, &["v9.channel.k8s.io", version]).expect(version);
            let protocol = version.to_owned();
            assert_eq!(
                found,
                Agreement {
                    carrier: Carrier::Spdy,
                    protocol,
                    status,
                    sizes
                }
            );
        }
        let several = spdy_with(Purpose::Remote, &["v3.channel.k8s.io,v4.channel.k8s.io"]);
        assert_eq!(several.expect("common").protocol, "v3.channel.k8s.io");
    }

    #[test]
    fn websocket_protocols_are_told_apart() {
        let (binary, closing) = (
            codec(Encoding::Binary, false),
            codec(Encoding::Binary, true),
        );
        let base64 = codec(Encoding::Base64, false);
        let (json, text) = (StatusFormat::Json, StatusFormat::Text);
        let tunnel = Carrier::Tunnel;
        for (purpose, protocol, carrier, status) in [
            (Purpose::Remote, "v5.channel.k8s.io", closing, json),
            (Purpose::Remote, "v4.channel.k8s.io", binary, json),
            (Purpose::Remote, "v4.base64.channel.k8s.io", base64, json),
            (Purpose::Remote, "base64.channel.k8s.io", base64, text),
            (Purpose::Remote, "channel.k8s.io", binary, text),
            (Purpose::Remote, "", binary, text),
            (Purpose::Remote, "SPDY/3.1+v4.channel.k8s.io", tunnel, json),
            (Purpose::Forward, "v4.channel.k8s.io", binary, json),
            (Purpose::Forward, "v4.base64.channel.k8s.io", base64, json),
            (
                Purpose::Forward,
                "SPDY/3.1+portforward.k8s.io",
                tunnel,
                text,
            ),
        ] {
            let found = websocket_with(purpose, protocol).expect(protocol);
            assert_eq!(
                (found.carrier, found.status),
                (carrier, status),
                "{protocol}"
            );
            assert_eq!(found.protocol, protocol);
        }
    }

    fn codec(encoding: Encoding, close_signal: bool) -> Carrier {
        Carrier::Channels(ChannelCodec {
            encoding,
            close_signal,
        })
    }

    #[test]
    fn what_cannot_be_spoken_is_refused_with_a_fitting_status() {
        let status = |result: Result<Agreement, Refusal>| result.expect_err("refused").status;
        assert_eq!(
            status(spdy_with(Purpose::Remote, &[])),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            status(spdy_with(Purpose::Remote, &["v9"])),
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            status(spdy_with(Purpose::Forward, &["channel.k8s.io"])),
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            status(websocket_with(Purpose::Remote, "chat")),
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            status(websocket_with(Purpose::Forward, "v5.channel.k8s.io")),
            StatusCode::FORBIDDEN
        );
        let plain = negotiate(Purpose::Remote, &Method::GET, &HeaderMap::new());
        assert_eq!(status(plain), StatusCode::BAD_REQUEST);
        let post = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        let post = negotiate(Purpose::Remote, &Method::POST, &post);
        assert_eq!(status(post), StatusCode::METHOD_NOT_ALLOWED);
        let refusal = spdy_with(Purpose::Remote, &["v9"]).expect_err("refused");
        assert_eq!(refusal.accepted, REMOTE_VERSIONS);
    }
}
