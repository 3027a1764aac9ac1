//! One plugin's connection: calls to it, and its calls to us, over the two logical connections.
//!
//! One task reads and one writes. A plugin that does not read fills the writer's queue; then calls
//! to it run into their time limit, and nobody else waits.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::error::CallError;
use crate::mux;
use crate::ttrpc::{Assembler, Message, Request, Response, TooLarge, code};

/// Messages that may wait to be written.
const OUTGOING: usize = 16;
/// Calls of a plugin that may wait for us.
const INCOMING: usize = 16;

/// Who waits for the answer on which stream; none when the connection has ended.
type Pending = Option<HashMap<u32, oneshot::Sender<Response>>>;

/// Our end of a plugin's connection. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Bytes>,
    pending: Arc<Mutex<Pending>>,
    next: AtomicU32,
    closed: Arc<watch::Sender<bool>>,
    _tasks: JoinSet<()>,
}

/// A plugin's call, to be answered.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) request: Request,
    stream: u32,
    outgoing: mpsc::Sender<Bytes>,
}

impl Incoming {
    /// Answers; a plugin that went away lost only the answer.
    pub(crate) async fn answer(self, response: Response) {
        if let Some(bytes) = encode_answer(self.stream, response) {
            let _ = self.outgoing.send(bytes).await;
        }
    }
}

fn encode_answer(stream: u32, response: Response) -> Option<Bytes> {
    let message = Message::Response { stream, response };
    let encoded = message.encode().ok()?;
    Some(mux::pieces(mux::RUNTIME, &encoded))
}

impl Connection {
    /// Takes over a connected socket.
    pub(crate) fn start(stream: UnixStream) -> (Self, mpsc::Receiver<Incoming>) {
        let (reader, writer) = stream.into_split();
        let (outgoing, to_write) = mpsc::channel(OUTGOING);
        let (calls, incoming) = mpsc::channel(INCOMING);
        let closed = Arc::new(watch::Sender::new(false));
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let reading = Reading {
            pending: pending.clone(),
            outgoing: outgoing.clone(),
            calls,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(reading.run(reader, closed.clone()));
        tasks.spawn(write(writer, to_write, closed.clone()));
        let connection = Self {
            outgoing,
            pending,
            next: AtomicU32::new(1),
            closed,
            _tasks: tasks,
        };
        (connection, incoming)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Becomes true when the connection has ended.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Ends the connection, as far as anybody here is concerned: no call goes out any more, and those
    /// under way fail. The socket goes with the connection itself.
    pub(crate) fn close(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.closed.send_replace(true);
    }

    /// Calls the plugin.
    pub(crate) async fn call(&self, request: Request, limit: Duration) -> Result<Bytes, CallError> {
        let stream = self.next.fetch_add(2, Ordering::Relaxed);
        let message = Message::Request { stream, request };
        let encoded = message.encode();
        let encoded = encoded.map_err(|TooLarge(length)| CallError::TooLarge(length))?;
        let (answered, answer) = oneshot::channel();
        self.register(stream, answered)?;
        let asking = async {
            let pieces = mux::pieces(mux::PLUGIN, &encoded);
            let sent = self.outgoing.send(pieces).await;
            sent.map_err(|_| CallError::Closed)?;
            answer.await.map_err(|_| CallError::Closed)
        };
        let answer = tokio::time::timeout(limit, asking).await;
        self.forget(stream);
        let response = answer.map_err(|_| CallError::Timeout(limit))??;
        match response.status {
            Some(status) if status.code != 0 => Err(CallError::Refused {
                code: status.code,
                message: status.message,
            }),
            _ => Ok(response.payload),
        }
    }

    fn register(&self, stream: u32, answered: oneshot::Sender<Response>) -> Result<(), CallError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = pending.as_mut().ok_or(CallError::Closed)?;
        pending.insert(stream, answered);
        Ok(())
    }

    fn forget(&self, stream: u32) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = pending.as_mut() {
            pending.remove(&stream);
        }
    }
}

/// What the reading task works with.
struct Reading {
    pending: Arc<Mutex<Pending>>,
    outgoing: mpsc::Sender<Bytes>,
    calls: mpsc::Sender<Incoming>,
}

impl Reading {
    async fn run(self, reader: OwnedReadHalf, ended: Arc<watch::Sender<bool>>) {
        if let Err(error) = self.read(reader).await {
            tracing::warn!(%error, "an NRI plugin's connection is cut");
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending = None;
        ended.send_replace(true);
    }

    async fn read(&self, mut reader: OwnedReadHalf) -> io::Result<()> {
        let (mut answers, mut calls) = (Assembler::default(), Assembler::default());
        let mut piece = Vec::new();
        loop {
            let mut head = [0; mux::PREFIX];
            match reader.read_exact(&mut head).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                other => other?,
            };
            let (connection, length) = mux::prefix(head).map_err(io::Error::other)?;
            piece.resize(length, 0);
            reader.read_exact(&mut piece).await?;
            let assembler = match connection {
                mux::PLUGIN => &mut answers,
                mux::RUNTIME => &mut calls,
                // A logical connection of a later protocol: nobody here listens on it.
                _ => continue,
            };
            assembler.push(&piece);
            while let Some(message) = assembler.next().map_err(io::Error::other)? {
                self.take(message);
            }
            if piece.capacity() > 2 * 4096 {
                piece = Vec::new();
            }
        }
    }

    fn take(&self, message: Message) {
        match message {
            Message::Response { stream, response } => {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                let waiting = pending.as_mut().and_then(|pending| pending.remove(&stream));
                // An answer that comes too late has nobody waiting for it.
                if let Some(waiting) = waiting {
                    let _ = waiting.send(response);
                }
            }
            Message::Request { stream, request } => {
                let outgoing = self.outgoing.clone();
                let call = Incoming {
                    request,
                    stream,
                    outgoing,
                };
                let Err(refused) = self.calls.try_send(call) else {
                    return;
                };
                let response = Response::error(code::RESOURCE_EXHAUSTED, "too many calls at once");
                if let Some(bytes) = encode_answer(refused.into_inner().stream, response) {
                    let _ = self.outgoing.try_send(bytes);
                }
            }
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    ended: Arc<watch::Sender<bool>>,
) {
    while let Some(bytes) = queue.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    ended.send_replace(true);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::api;

    const LIMIT: Duration = Duration::from_secs(10);

    fn pair() -> (Connection, mpsc::Receiver<Incoming>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (connection, incoming) = Connection::start(ours);
        (connection, incoming, theirs)
    }

    async fn receive(peer: &mut UnixStream, assembler: &mut Assembler) -> (u32, Message) {
        loop {
            let mut head = [0; mux::PREFIX];
            peer.read_exact(&mut head).await.unwrap();
            let (connection, length) = mux::prefix(head).unwrap();
            let mut piece = vec![0; length];
            peer.read_exact(&mut piece).await.unwrap();
            assembler.push(&piece);
            if let Some(message) = assembler.next().unwrap() {
                return (connection, message);
            }
        }
    }

    async fn send(peer: &mut UnixStream, connection: u32, message: &Message) {
        let encoded = message.encode().unwrap();
        let pieces = mux::pieces(connection, &encoded);
        peer.write_all(&pieces).await.unwrap();
    }

    fn ask(payload: &str) -> Request {
        let payload = api::ConfigureRequest {
            config: payload.into(),
            ..Default::default()
        };
        Request::new("service", "Method", &payload, LIMIT)
    }

    #[tokio::test]
    async fn a_large_call_arrives_whole_and_is_answered() {
        let (connection, _incoming, mut peer) = pair();
        let text = "x".repeat(1 << 20);
        let (answer, ()) = tokio::join!(connection.call(ask(&text), LIMIT), async {
            let (id, message) = receive(&mut peer, &mut Assembler::default()).await;
            let Message::Request { stream, request } = message else {
                panic!("no request");
            };
            assert_eq!((id, stream, request.method.as_str()), (1, 1, "Method"));
            let payload = api::ConfigureRequest::decode(request.payload).unwrap();
            let response = Response::ok(&payload);
            send(
                &mut peer,
                mux::PLUGIN,
                &Message::Response { stream, response },
            )
            .await;
        });
        let payload = api::ConfigureRequest::decode(answer.unwrap()).unwrap();
        assert_eq!(payload.config, text);
    }

    #[tokio::test]
    async fn a_refusal_a_silence_and_an_end() {
        let (connection, _incoming, mut peer) = pair();
        let mut assembler = Assembler::default();
        let (answer, ()) = tokio::join!(connection.call(ask(""), LIMIT), async {
            receive(&mut peer, &mut assembler).await;
            let response = Response::error(2, "no");
            let stream = 1;
            send(
                &mut peer,
                mux::PLUGIN,
                &Message::Response { stream, response },
            )
            .await;
        });
        assert!(
            matches!(&answer, Err(CallError::Refused { code: 2, message }) if message == "no"),
            "{answer:?}"
        );
        let answer = connection.call(ask(""), Duration::from_millis(1)).await;
        assert!(matches!(answer, Err(CallError::Timeout(_))), "{answer:?}");
        let (answer, ()) = tokio::join!(connection.call(ask(""), LIMIT), async { drop(peer) });
        assert!(matches!(answer, Err(CallError::Closed)), "{answer:?}");
        let answer = connection.call(ask(""), LIMIT).await;
        assert!(matches!(answer, Err(CallError::Closed)), "{answer:?}");
        assert!(connection.is_closed());
    }

    #[tokio::test]
    async fn calls_of_the_plugin_are_answered_or_refused_when_too_many() {
        let (_connection, mut incoming, mut peer) = pair();
        let mut assembler = Assembler::default();
        let calls = u32::try_from(INCOMING).unwrap() + 1;
        for number in 0..calls {
            let (stream, request) = (number * 2 + 1, ask(""));
            send(
                &mut peer,
                mux::RUNTIME,
                &Message::Request { stream, request },
            )
            .await;
        }
        let (id, refused) = receive(&mut peer, &mut assembler).await;
        let Message::Response { stream, response } = refused else {
            panic!("no answer");
        };
        assert_eq!((id, stream), (mux::RUNTIME, calls * 2 - 1));
        assert_eq!(response.status.unwrap().code, code::RESOURCE_EXHAUSTED);
        let first = incoming.recv().await.unwrap();
        first.answer(Response::ok(&api::Empty {})).await;
        let (_, answered) = receive(&mut peer, &mut assembler).await;
        let expected = Response::ok(&api::Empty {});
        assert_eq!(
            answered,
            Message::Response {
                stream: 1,
                response: expected
            }
        );
    }

    #[tokio::test]
    async fn garbage_ends_the_connection() {
        let (connection, _incoming, mut peer) = pair();
        peer.write_all(&[0xff; 64]).await.unwrap();
        let mut closed = connection.closed();
        closed.wait_for(|closed| *closed).await.unwrap();
        let answer = connection.call(ask(""), LIMIT).await;
        assert!(matches!(answer, Err(CallError::Closed)), "{answer:?}");
    }
}
