//! A registry that misbehaves on request: plain HTTP on loopback, scripted per path.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use husk_image::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::TestImage;

/// What a request gets instead of its answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A status with headers and no body.
    Status(u16, Vec<(&'static str, String)>),
    /// The answer, but the connection ends after so many bytes of the body.
    Cut(usize),
    /// The answer from its beginning, whatever part was asked for.
    Whole,
    /// Another body under the same name.
    Body(Vec<u8>),
    /// Headers, then silence.
    Stall,
    /// The answer, once this path was asked for too.
    After(String),
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

#[derive(Default)]
pub(crate) struct Script {
    content: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    /// Accepted `Authorization` headers and the challenge for everything else.
    gate: Option<(Vec<String>, String)>,
    pub(crate) seen: Vec<Seen>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) script: Arc<Mutex<Script>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let script: Arc<Mutex<Script>> = Arc::default();
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { host, script }
    }

    /// Puts an image under a name, and returns its manifest's digest.
    pub(crate) fn add(&self, repository: &str, tag: &str, image: &TestImage) -> Digest {
        let manifest = image.manifest();
        for (blob, _) in &image.blobs {
            self.put(
                &format!("/v2/{repository}/blobs/{}", Digest::of(blob)),
                blob,
            );
        }
        self.put(
            &format!("/v2/{repository}/blobs/{}", Digest::of(&image.config)),
            &image.config,
        );
        self.put(
            &format!("/v2/{repository}/manifests/{}", Digest::of(&manifest)),
            &manifest,
        );
        self.put(&format!("/v2/{repository}/manifests/{tag}"), &manifest);
        Digest::of(&manifest)
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) {
        self.script
            .lock()
            .unwrap()
            .content
            .insert(path.to_owned(), content.to_vec());
    }

    /// The next requests of a path meet these faults, one after the other.
    pub(crate) fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut script = self.script.lock().unwrap();
        script
            .faults
            .entry(path.to_owned())
            .or_default()
            .extend(faults);
    }

    pub(crate) fn guard(&self, accepted: &[&str], challenge: &str) {
        let accepted = accepted.iter().map(ToString::to_string).collect();
        self.script.lock().unwrap().gate = Some((accepted, challenge.to_owned()));
    }

    pub(crate) fn seen(&self, part: &str) -> Vec<Seen> {
        let script = self.script.lock().unwrap();
        script
            .seen
            .iter()
            .filter(|seen| seen.path.contains(part))
            .cloned()
            .collect()
    }
}

/// Answers requests until the client or a fault ends the connection.
async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer).await {
        let (fault, content, refused) = {
            let mut script = script.lock().unwrap();
            script.seen.push(seen.clone());
            let path = seen.path.split('?').next().unwrap().to_owned();
            let refused = script.refusal(&seen);
            let fault = match refused {
                None => script.faults.get_mut(&path).and_then(VecDeque::pop_front),
                Some(_) => None,
            };
            (fault, script.content.get(&path).cloned(), refused)
        };
        let alive = match refused {
            Some(challenge) => {
                respond(
                    &mut stream,
                    401,
                    &[("WWW-Authenticate", challenge)],
                    b"",
                    usize::MAX,
                )
                .await
            }
            None => {
                let fault = wait_out(fault, &script).await;
                answer(&mut stream, &seen, fault, content).await
            }
        };
        if !alive {
            return;
        }
    }
}

/// Waits until a fault that only delays is over.
async fn wait_out(fault: Option<Fault>, script: &Mutex<Script>) -> Option<Fault> {
    let Some(Fault::After(path)) = &fault else {
        return fault;
    };
    let asked = || {
        let script = script.lock().unwrap();
        script.seen.iter().any(|seen| seen.path == *path)
    };
    while !asked() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

impl Script {
    fn refusal(&self, seen: &Seen) -> Option<String> {
        let (accepted, challenge) = self.gate.as_ref()?;
        let let_in = seen
            .authorization
            .as_ref()
            .is_some_and(|header| accepted.contains(header));
        (seen.path.starts_with("/v2/") && !let_in).then(|| challenge.clone())
    }
}

async fn answer(
    stream: &mut TcpStream,
    seen: &Seen,
    fault: Option<Fault>,
    content: Option<Vec<u8>>,
) -> bool {
    let mut cut = usize::MAX;
    let mut ranged = true;
    let mut content = content;
    match fault {
        None | Some(Fault::After(_)) => {}
        Some(Fault::Status(status, headers)) => {
            return respond(stream, status, &headers, b"", cut).await;
        }
        Some(Fault::Cut(bytes)) => cut = bytes,
        Some(Fault::Whole) => ranged = false,
        Some(Fault::Body(body)) => content = Some(body),
        Some(Fault::Stall) => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
                .await;
            // Until the client hangs up.
            let mut rest = [0; 64];
            while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
            return false;
        }
    }
    let Some(content) = content else {
        return respond(stream, 404, &[], b"", cut).await;
    };
    let offset = seen.range.as_ref().filter(|_| ranged).map(|range| {
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse::<usize>()
            .unwrap()
    });
    match offset {
        Some(offset) if offset >= content.len() => respond(stream, 416, &[], b"", cut).await,
        Some(offset) => {
            let range = format!("bytes {offset}-{}/{}", content.len() - 1, content.len());
            respond(
                stream,
                206,
                &[("Content-Range", range)],
                &content[offset..],
                cut,
            )
            .await
        }
        None => respond(stream, 200, &[], &content, cut).await,
    }
}

/// Sends an answer; false when the connection is to end.
async fn respond(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
    cut: usize,
) -> bool {
    let mut head = format!(
        "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let whole = cut >= body.len();
    let sent = &body[..cut.min(body.len())];
    stream.write_all(head.as_bytes()).await.is_ok() && stream.write_all(sent).await.is_ok() && whole
}

/// Reads one request; nothing at the end of the connection or where a client speaks something else.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if buffer
            .first()
            .is_some_and(|byte| !byte.is_ascii_uppercase())
        {
            return None;
        }
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
    buffer.drain(..end);
    let header = |name: &str| {
        let lines = head.lines().skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let length: usize = header("content-length").map_or(0, |text| text.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(buffer.drain(..length).collect()).ok()?;
    let mut words = head.split(' ');
    Some(Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        range: header("range"),
        authorization: header("authorization"),
        body,
    })
}
