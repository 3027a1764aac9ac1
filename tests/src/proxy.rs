//! A loopback HTTP proxy in front of a registry that misbehaves on demand and remembers what it was asked.
//!
//! It serves one request a connection, plain HTTP, bodies only in answers: what a pull needs.

use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

use crate::netns;

/// What happens to a request for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of the answer, headers included.
    Cut(usize),
    /// 429 with `Retry-After: 0`.
    TooManyRequests,
    /// Bytes that are no HTTP.
    Garbage,
    /// Nothing is answered until the client gives up or the proxy ends.
    Stall,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// How many requests the fault still hits.
    remaining: usize,
    requests: Vec<String>,
    stopping: bool,
}

/// The proxy; its threads end on drop.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: Option<u32>,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Listens inside the network namespace of `network` and forwards to `upstream`.
    pub fn start(network: Option<u32>, upstream: SocketAddr) -> Result<Self> {
        let listener = netns::listen(network)?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, network, upstream, &shared));
        Ok(Self {
            address,
            network,
            state,
        })
    }

    /// `host:port`, as an image reference begins.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Lets `fault` hit the next `times` requests for a blob.
    pub fn inject(&self, fault: Fault, times: usize) {
        let mut state = lock(&self.state);
        state.fault = Some(fault);
        state.remaining = times;
    }

    /// Every request so far: the request line, and ` range` behind it where only a part was asked.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// How many GETs of blobs were asked.
    pub fn blob_requests(&self) -> usize {
        self.requests()
            .iter()
            .filter(|line| line.starts_with("GET") && line.contains("/blobs/"))
            .count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.state).stopping = true;
        let _wakes_accept = netns::connect(self.network, self.address);
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(
    listener: &TcpListener,
    network: Option<u32>,
    upstream: SocketAddr,
    state: &Arc<Mutex<State>>,
) {
    for client in listener.incoming().flatten() {
        if lock(state).stopping {
            return;
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let _client_is_gone = serve(client, network, upstream, &state);
        });
    }
}

fn serve(
    mut client: TcpStream,
    network: Option<u32>,
    upstream: SocketAddr,
    state: &Mutex<State>,
) -> Result<()> {
    let head = read_head(&mut client)?;
    let fault = record(&head, state);
    match fault {
        None => forward(
            &head,
            client,
            netns::connect(network, upstream)?,
            usize::MAX,
        ),
        Some(Fault::Cut(limit)) => {
            forward(&head, client, netns::connect(network, upstream)?, limit)
        }
        Some(Fault::TooManyRequests) => {
            let answer = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            Ok(client.write_all(answer.as_bytes())?)
        }
        Some(Fault::Garbage) => Ok(client.write_all(&[0x16, 0x03, 0xff, 0x00, b'\n', b'?'])?),
        Some(Fault::Stall) => stall(&mut client, state),
    }
}

fn read_head(client: &mut TcpStream) -> Result<String> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 << 10 {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn record(head: &str, state: &Mutex<State>) -> Option<Fault> {
    let mut state = lock(state);
    let line = head.lines().next().unwrap_or_default();
    let part = head.to_ascii_lowercase().contains("\r\nrange:");
    state
        .requests
        .push(format!("{line}{}", if part { " range" } else { "" }));
    if !line.contains("/blobs/") || state.remaining == 0 {
        return None;
    }
    state.remaining -= 1;
    state.fault
}

fn forward(head: &str, mut client: TcpStream, mut server: TcpStream, limit: usize) -> Result<()> {
    let lines = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut request = lines.collect::<Vec<_>>().join("\r\n");
    request.push_str("\r\nConnection: close\r\n\r\n");
    server.write_all(request.as_bytes())?;
    let limit = u64::try_from(limit)?;
    std::io::copy(&mut Read::by_ref(&mut server).take(limit), &mut client)?;
    Ok(client.shutdown(Shutdown::Both)?)
}

fn stall(client: &mut TcpStream, state: &Mutex<State>) -> Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut byte = [0];
    while !lock(state).stopping && !matches!(client.read(&mut byte), Ok(0)) {}
    Ok(())
}
