//! One WebSocket to one sandbox. A writer task owns the sending half and a
//! reader task the receiving half; calls and streams talk to them by bounded
//! queues. Both tasks end when the connection does, and then every call in
//! flight and every stream learns of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tombolo_api::rpc::ErrorObject;

use super::frame::{self, Fault, Incoming};
use super::handshake::{self, ConnectError, Opened, Socket};
use super::stream::{Event, InboundStream, InboundTable, OutboundStream, OutboundTable, SendError};
use super::{Endpoint, NewSandbox, Token};

/// How many frames wait for the socket.
const FRAMES_WAITING_MAX: usize = 8;
/// How often to show the server that this side lives, even while the person
/// at the other end of our output reads nothing and so nothing is received.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long to wait for the server's half of a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a sandbox.
#[derive(Debug)]
pub struct Connection {
    sandbox: String,
    warnings: Vec<String>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    outgoing: mpsc::Sender<Message>,
    calls: Mutex<Calls>,
    inbound: InboundTable,
    outbound: Arc<OutboundTable>,
    next_call: AtomicU64,
    next_stream: AtomicU64,
}

/// The calls in flight, or why there can be no more.
#[derive(Debug)]
enum Calls {
    Open(HashMap<u64, oneshot::Sender<Result<Box<RawValue>, Fault>>>),
    Closed(EndReason),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The server said goodbye, with these words.
    Closed(String),
    /// The socket broke, or the server sent what makes no sense.
    Broken(String),
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(reason) if reason.is_empty() => {
                formatter.write_str("the server closed the connection")
            }
            Self::Closed(reason) => write!(formatter, "the server closed the connection: {reason}"),
            Self::Broken(reason) => write!(formatter, "the connection broke: {reason}"),
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{reason}")]
    ConnectionLost { reason: EndReason },
    #[error("{}", error.message)]
    Failed { error: Box<ErrorObject> },
    #[error("the server refused the call {method}: {message} ({code})")]
    Refused {
        method: &'static str,
        code: i32,
        message: String,
    },
    #[error("the arguments of {method} cannot be written")]
    Encode {
        method: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the answer to {method} is not understood")]
    Decode {
        method: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

/// A call on its way.
#[derive(Debug)]
pub struct PendingCall {
    method: &'static str,
    reply: oneshot::Receiver<Result<Box<RawValue>, Fault>>,
    shared: Arc<Shared>,
}

impl PendingCall {
    /// Waits for the answer, for as long as the connection lasts.
    pub async fn reply<R: DeserializeOwned>(self) -> Result<R, CallError> {
        let method = self.method;
        match self.reply.await {
            Ok(Ok(value)) => serde_json::from_str(value.get())
                .map_err(|source| CallError::Decode { method, source }),
            Ok(Err(Fault::Application(error))) => Err(CallError::Failed { error }),
            Ok(Err(Fault::Protocol { code, message })) => Err(CallError::Refused {
                method,
                code,
                message,
            }),
            Err(_dropped) => Err(self.shared.lost()),
        }
    }
}

impl Connection {
    /// Makes a sandbox; this is its first connection.
    pub async fn create(
        endpoint: &Endpoint,
        token: &Token,
        config: &NewSandbox,
    ) -> Result<Self, ConnectError> {
        Ok(Self::start(
            handshake::create(endpoint, token, config).await?,
        ))
    }

    /// Connects to a sandbox that is there.
    pub async fn connect(
        endpoint: &Endpoint,
        token: &Token,
        sandbox: &str,
    ) -> Result<Self, ConnectError> {
        Ok(Self::start(
            handshake::connect(endpoint, token, sandbox).await?,
        ))
    }

    fn start(opened: Opened) -> Self {
        let Opened {
            socket,
            sandbox,
            warnings,
        } = opened;
        let (sink, stream) = socket.split();
        let (outgoing, queue) = mpsc::channel(FRAMES_WAITING_MAX);
        let shared = Arc::new(Shared {
            outgoing,
            calls: Mutex::new(Calls::Open(HashMap::new())),
            inbound: InboundTable::default(),
            outbound: Arc::default(),
            next_call: AtomicU64::new(1),
            next_stream: AtomicU64::new(1),
        });
        Self {
            sandbox,
            warnings,
            reader: tokio::spawn(read_all(stream, Arc::clone(&shared))),
            writer: tokio::spawn(write_all(sink, queue)),
            shared,
        }
    }

    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// What the server thinks is not meant in the new sandbox's policy.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Calls and waits for the answer.
    pub async fn call<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<R, CallError> {
        self.begin(method, params).await?.reply().await
    }

    /// Sends a call; the answer can be waited for later.
    pub async fn begin<P: Serialize + Sync>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<PendingCall, CallError> {
        let id = self.shared.next_call.fetch_add(1, Ordering::Relaxed);
        let frame = frame::request(id, method, params)
            .map_err(|source| CallError::Encode { method, source })?;
        let (sender, reply) = oneshot::channel();
        match &mut *self.shared.calls.lock() {
            Calls::Open(calls) => calls.insert(id, sender),
            Calls::Closed(reason) => {
                return Err(CallError::ConnectionLost {
                    reason: reason.clone(),
                });
            }
        };
        if self
            .shared
            .outgoing
            .send(Message::text(frame))
            .await
            .is_err()
        {
            return Err(self.shared.lost());
        }
        Ok(PendingCall {
            method,
            reply,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Starts a stream into the sandbox, to be named in a call.
    pub async fn outbound(&self) -> Result<OutboundStream, SendError> {
        let id = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        OutboundStream::start(
            id,
            self.shared.outgoing.clone(),
            Arc::clone(&self.shared.outbound),
        )
        .await
    }

    /// The stream that the server named in an answer.
    pub fn inbound(&self, id: u64) -> InboundStream {
        let events = match &*self.shared.calls.lock() {
            Calls::Open(_) => self.shared.inbound.claim(id),
            // Nothing will come any more; what was queued is still there if
            // the stream had been announced.
            Calls::Closed(_) => None,
        };
        InboundStream::new(id, events, self.shared.outgoing.clone())
    }

    /// Says goodbye. For a sandbox that lives as long as its session this is
    /// the end of the sandbox.
    pub async fn close(mut self) {
        let goodbye = Message::Close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        }));
        let farewell = async {
            if self.shared.outgoing.send(goodbye).await.is_ok()
                && let Err(error) = (&mut self.reader).await
            {
                tracing::debug!(%error, "the reader failed");
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
            tracing::debug!("the server did not answer the close");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl Shared {
    fn lost(&self) -> CallError {
        let reason = match &*self.calls.lock() {
            Calls::Closed(reason) => reason.clone(),
            Calls::Open(_) => EndReason::Broken("the socket takes no more".to_owned()),
        };
        CallError::ConnectionLost { reason }
    }

    fn end(&self, reason: EndReason) {
        *self.calls.lock() = Calls::Closed(reason);
        self.inbound.clear();
    }

    async fn accept(&self, incoming: Incoming) {
        match incoming {
            Incoming::Reply { id, outcome } => self.answer(id, outcome),
            Incoming::StreamStart(id) => drop(self.inbound.sender(id)),
            Incoming::StreamChunk(id, chunk) => self.deliver(id, Event::Chunk(chunk)).await,
            Incoming::StreamEnd(id) => {
                self.deliver(id, Event::End).await;
                self.inbound.finish(id);
            }
            Incoming::StreamError(id, error) => {
                self.deliver(id, Event::Failed(error)).await;
                self.inbound.finish(id);
            }
            Incoming::StreamCancel(id) => self.outbound.cancel(id),
            Incoming::Other => {}
        }
    }

    fn answer(&self, id: u64, outcome: Result<Box<RawValue>, Fault>) {
        let caller = match &mut *self.calls.lock() {
            Calls::Open(calls) => calls.remove(&id),
            Calls::Closed(_) => None,
        };
        let heard = caller.is_some_and(|caller| caller.send(outcome).is_ok());
        if !heard {
            tracing::debug!(id, "an answer that nobody waits for");
        }
    }

    /// Queues an event, and waits while the queue is full.
    async fn deliver(&self, id: u64, event: Event) {
        if let Some(sender) = self.inbound.sender(id)
            && sender.send(event).await.is_err()
        {
            tracing::trace!(stream = id, "nobody reads the stream any more");
        }
    }
}

async fn read_all(mut stream: SplitStream<Socket>, shared: Arc<Shared>) {
    let reason = loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|frame| frame.reason.to_string());
                break EndReason::Closed(reason.unwrap_or_default());
            }
            Some(Ok(_control)) => continue,
            Some(Err(error)) => break EndReason::Broken(error.to_string()),
            None => break EndReason::Closed(String::new()),
        };
        match frame::parse(&text) {
            Ok(incoming) => shared.accept(incoming).await,
            Err(error) => break EndReason::Broken(error.to_string()),
        }
    };
    shared.end(reason);
    // The answer to a close is sent by reading on; a server that ends a
    // sandbox waits for it.
    let farewell = async { while let Some(Ok(_late)) = stream.next().await {} };
    if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
        tracing::debug!("the server keeps the connection open");
    }
}

async fn write_all(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Message>) {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            // A pong that nobody asked for is a heartbeat (RFC 6455, 5.5.3).
            _ = heartbeat.tick() => Some(Message::Pong(bytes::Bytes::new())),
        };
        let Some(message) = message else { return };
        let is_last = message.is_close();
        if let Err(error) = sink.send(message).await {
            tracing::debug!(%error, "the socket takes no more");
            return;
        }
        if is_last {
            return;
        }
    }
}
