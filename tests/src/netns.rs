//! Reaching into the network namespace of another process.

use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread of its own inside the network namespace of `pid`, or right here without one.
///
/// A socket belongs to the namespace it was made in, so what `work` returns can be used from anywhere.
pub fn within<T: Send + 'static>(
    pid: Option<u32>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let Some(pid) = pid else { return work() };
    let namespace = File::open(format!("/proc/{pid}/ns/net"))
        .with_context(|| format!("network namespace of {pid}"))?;
    let thread = std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
        work()
    });
    thread
        .join()
        .map_err(|_panic| anyhow!("the thread inside the network namespace of {pid} panicked"))?
}

/// A listener on a free loopback port.
pub fn listen(pid: Option<u32>) -> Result<TcpListener> {
    within(pid, || {
        TcpListener::bind(("127.0.0.1", 0)).context("listen on loopback")
    })
}

/// A connection to `address`.
pub fn connect(pid: Option<u32>, address: SocketAddr) -> Result<TcpStream> {
    within(pid, move || {
        TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("connect to {address}"))
    })
}

/// Everything that a server at `address` sends until it closes.
pub fn read_all(pid: Option<u32>, address: SocketAddr) -> Result<String> {
    let mut stream = connect(pid, address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .with_context(|| format!("read from {address}"))?;
    Ok(text)
}
