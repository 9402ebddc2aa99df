//! One WebSocket to one sandbox. A writer task owns the sending half and a
//! reader task the receiving half; calls and streams talk to them by bounded
//! queues. Both tasks end when the connection does, and then every call in
//! flight and every stream learns of it.
//!
//! A connection lives as long as something that uses it: a sandbox, a process,
//! an open file, a stream. Dropping the last closes it.

mod tasks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::{AbortParams, HandleParams, methods};
use tombolo_ids::SandboxId;

use crate::frame::{self, Fault, Incoming};
use crate::handshake::{self, ConnectError, Opened};
use crate::stream::{Event, InboundTable, OutboundTable, ReadStream, SendError, WriteStream};
use crate::{CallError, Client, EndReason};

/// How many frames wait for the socket.
const FRAMES_WAITING_MAX: usize = 8;
/// How long to wait for the server's half of a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many programs that watch their files may tell of restarts at once.
const WATCHERS_MAX: usize = 1024;

/// A connection to a sandbox, shared by all that use it.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Link>);

#[derive(Debug)]
struct Link {
    sandbox: SandboxId,
    warnings: Vec<String>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outgoing: mpsc::Sender<Message>,
    calls: Mutex<Calls>,
    inbound: InboundTable,
    outbound: OutboundTable,
    /// Restarts of programs that watch their files, counted.
    watchers: Mutex<HashMap<String, watch::Sender<u64>>>,
    next_call: AtomicU64,
    next_stream: AtomicU64,
    /// Nobody here will read what still comes, as when a close is on its way.
    discarding: CancellationToken,
    /// This side wants no more.
    closing: CancellationToken,
    /// There is nothing more to be had.
    ended: CancellationToken,
}

/// The calls in flight, or why there can be no more.
#[derive(Debug)]
enum Calls {
    Open(HashMap<u64, oneshot::Sender<Result<Box<RawValue>, Fault>>>),
    Closed(EndReason),
}

/// A call on its way. Dropped before its answer, it is forgotten, and aborted
/// if the server can do that.
#[derive(Debug)]
pub(crate) struct PendingCall {
    id: u64,
    method: &'static str,
    reply: oneshot::Receiver<Result<Box<RawValue>, Fault>>,
    is_abortable: bool,
    is_answered: bool,
    connection: Connection,
}

impl PendingCall {
    /// Waits for the answer, for as long as the connection lasts. Dropping
    /// the future loses nothing; after an answer there is no other.
    pub(crate) async fn reply<R: DeserializeOwned>(&mut self) -> Result<R, CallError> {
        let method = self.method;
        if self.is_answered {
            // There was an answer, or the connection was lost; there is no other.
            return Err(self.connection.0.shared.lost());
        }
        let answer = (&mut self.reply).await;
        self.is_answered = true;
        match answer {
            Ok(Ok(value)) => serde_json::from_str(value.get())
                .map_err(|source| CallError::Decode { method, source }),
            Ok(Err(Fault::Application(error))) => Err(CallError::Failed { error }),
            Ok(Err(Fault::Protocol { code, message })) => Err(CallError::Refused {
                method,
                code,
                message,
            }),
            Err(_dropped) => Err(self.connection.0.shared.lost()),
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        // An answer may be here and nobody has looked at it.
        match self.reply.try_recv() {
            Ok(Ok(value)) => self.connection.0.shared.refuse_what_it_brings(&value),
            Ok(Err(_fault)) => {}
            Err(_) => self.connection.0.shared.forget(self.id),
        }
        if self.is_abortable {
            self.connection.abort(self.id);
        }
    }
}

/// What an answer may bring that somebody has to read or close.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Brought {
    #[serde(rename = "streamId")]
    stream: Option<u64>,
    #[serde(rename = "stdoutStreamId")]
    stdout: Option<u64>,
    #[serde(rename = "stderrStreamId")]
    stderr: Option<u64>,
    #[serde(rename = "bodyStreamId")]
    body: Option<u64>,
    #[serde(rename = "fileHandleId")]
    file: Option<u64>,
}

impl Brought {
    fn streams(&self) -> impl Iterator<Item = u64> {
        let all = [self.stream, self.stdout, self.stderr, self.body];
        all.into_iter().flatten()
    }
}

/// The parameters of a call that can be aborted by its own id.
#[derive(Serialize)]
struct Abortable<'a, P> {
    #[serde(flatten)]
    params: &'a P,
    #[serde(rename = "abortId")]
    abort_id: u64,
}

impl Connection {
    /// Makes a sandbox; this is its first connection.
    pub(crate) async fn create(
        client: &Client,
        config: &tombolo_api::config::NewSandbox,
    ) -> Result<Self, ConnectError> {
        Ok(Self::start(handshake::create(client, config).await?))
    }

    /// Connects to a sandbox that is there.
    pub(crate) async fn connect(
        client: &Client,
        sandbox: &SandboxId,
    ) -> Result<Self, ConnectError> {
        Ok(Self::start(handshake::connect(client, sandbox).await?))
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
            outbound: OutboundTable::default(),
            watchers: Mutex::default(),
            next_call: AtomicU64::new(1),
            next_stream: AtomicU64::new(1),
            discarding: CancellationToken::new(),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        // Both end by themselves once `closing` is told or the socket ends.
        tokio::spawn(tasks::read_all(stream, Arc::clone(&shared)));
        tokio::spawn(tasks::write_all(sink, queue, shared.closing.clone()));
        Self(Arc::new(Link {
            sandbox,
            warnings,
            shared,
        }))
    }

    pub(crate) fn sandbox(&self) -> &SandboxId {
        &self.0.sandbox
    }

    /// What the server thinks is not meant in the new sandbox's policy.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Calls and waits for the answer.
    pub(crate) async fn call<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<R, CallError> {
        self.begin(method, params).await?.reply().await
    }

    /// Sends a call; the answer can be waited for later.
    pub(crate) async fn begin<P: Serialize + Sync>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<PendingCall, CallError> {
        self.submit(self.next_call(), false, method, params).await
    }

    /// The same for a call that the server can abort, which it does when the
    /// pending call is dropped.
    pub(crate) async fn begin_abortable<P: Serialize + Sync>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<PendingCall, CallError> {
        let id = self.next_call();
        let params = Abortable {
            params,
            abort_id: id,
        };
        self.submit(id, true, method, &params).await
    }

    fn next_call(&self) -> u64 {
        self.0.shared.next_call()
    }

    async fn submit<P: Serialize + Sync>(
        &self,
        id: u64,
        is_abortable: bool,
        method: &'static str,
        params: &P,
    ) -> Result<PendingCall, CallError> {
        let frame = frame::request(id, method, params)
            .map_err(|source| CallError::Encode { method, source })?;
        let (sender, reply) = oneshot::channel();
        match &mut *self.0.shared.calls.lock() {
            Calls::Open(calls) => calls.insert(id, sender),
            Calls::Closed(reason) => {
                return Err(CallError::ConnectionLost {
                    reason: reason.clone(),
                });
            }
        };
        // From here on dropping it takes it out of the table again.
        let pending = PendingCall {
            id,
            method,
            reply,
            is_abortable,
            is_answered: false,
            connection: self.clone(),
        };
        match self.post(Message::text(frame)).await {
            Ok(()) => Ok(pending),
            Err(_closed) => Err(self.0.shared.lost()),
        }
    }

    fn abort(&self, abort_id: u64) {
        self.call_later(methods::ABORT, &AbortParams { abort_id });
    }

    /// Calls from where nothing can be waited for, and does not hear the
    /// answer.
    pub(crate) fn call_later<P: Serialize>(&self, method: &'static str, params: &P) {
        self.0.shared.call_later(method, params);
    }

    /// Queues a frame, and waits while the queue is full.
    pub(crate) async fn post(&self, frame: Message) -> Result<(), SendError> {
        let sent = self.0.shared.outgoing.send(frame).await;
        sent.map_err(|_closed| SendError::ConnectionLost)
    }

    /// Queues a frame from where nothing can be waited for. Each is for one
    /// thing that is dropped, which bounds them.
    pub(crate) fn post_later(&self, frame: Message) {
        self.0.shared.post_later(frame);
    }

    /// Starts a stream into the sandbox, to be named in a call.
    pub(crate) async fn outbound(&self) -> Result<WriteStream, SendError> {
        let id = self.0.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        WriteStream::start(id, self.clone()).await
    }

    /// The stream that the server named in an answer.
    pub(crate) fn inbound(&self, id: u64) -> ReadStream {
        let events = match &*self.0.shared.calls.lock() {
            Calls::Open(_) => self.0.shared.inbound.claim(id),
            // Nothing will come any more.
            Calls::Closed(_) => None,
        };
        ReadStream::new(id, events, self.clone())
    }

    pub(crate) fn inbound_table(&self) -> &InboundTable {
        &self.0.shared.inbound
    }

    pub(crate) fn outbound_table(&self) -> &OutboundTable {
        &self.0.shared.outbound
    }

    /// How many times the program with this watcher has started anew.
    pub(crate) fn restarts(&self, watcher: &str) -> watch::Receiver<u64> {
        self.0.shared.watcher(watcher, watch::Sender::subscribe)
    }

    /// Ends when the connection has, whoever ended it.
    pub(crate) async fn ended(&self) -> EndReason {
        self.0.shared.ended.cancelled().await;
        match &*self.0.shared.calls.lock() {
            Calls::Closed(reason) => reason.clone(),
            Calls::Open(_) => EndReason::Closed(String::new()),
        }
    }

    /// Says goodbye after all that is queued, and waits for the other half.
    pub(crate) async fn close(&self) {
        let shared = &self.0.shared;
        shared.discarding.cancel();
        let farewell = async {
            if self.post(tasks::goodbye()).await.is_ok() {
                shared.ended.cancelled().await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
            tracing::debug!("the server did not answer the close");
        }
        shared.closing.cancel();
        shared.ended.cancelled().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The tasks say goodbye by themselves.
        self.shared.closing.cancel();
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

    fn next_call(&self) -> u64 {
        self.next_call.fetch_add(1, Ordering::Relaxed)
    }

    fn call_later<P: Serialize>(&self, method: &'static str, params: &P) {
        if let Ok(frame) = frame::request(self.next_call(), method, params) {
            self.post_later(Message::text(frame));
        }
    }

    fn post_later(&self, frame: Message) {
        let outgoing = &self.outgoing;
        let Err(mpsc::error::TrySendError::Full(frame)) = outgoing.try_send(frame) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let outgoing = outgoing.clone();
        runtime.spawn(async move {
            if outgoing.send(frame).await.is_err() {
                tracing::trace!("the connection ended before it could be told");
            }
        });
    }

    /// Nobody waits for an answer any more. What it brings is refused when it comes.
    fn forget(&self, id: u64) {
        if let Calls::Open(calls) = &mut *self.calls.lock() {
            calls.remove(&id);
        }
    }

    /// Streams and files that an answer brought, which nobody will read or close.
    fn refuse_what_it_brings(&self, answer: &RawValue) {
        let Ok(brought) = serde_json::from_str::<Brought>(answer.get()) else {
            return;
        };
        for id in brought.streams() {
            drop(self.inbound.claim(id));
            self.inbound.forget(id);
            self.post_later(Message::text(frame::stream_cancel(id)));
        }
        if let Some(file_handle_id) = brought.file {
            self.call_later(methods::FILE_CLOSE, &HandleParams { file_handle_id });
        }
    }

    fn end(&self, reason: EndReason) {
        *self.calls.lock() = Calls::Closed(reason);
        self.inbound.clear();
        self.watchers.lock().clear();
        self.ended.cancel();
    }

    fn watcher<T>(&self, id: &str, with: impl FnOnce(&watch::Sender<u64>) -> T) -> T {
        let mut watchers = self.watchers.lock();
        // One of a program that has ended, and is not asked about.
        if watchers.len() >= WATCHERS_MAX {
            watchers.retain(|_, sender| sender.receiver_count() > 0);
        }
        with(
            watchers
                .entry(id.to_owned())
                .or_insert_with(|| watch::Sender::new(0)),
        )
    }

    async fn accept(&self, incoming: Incoming) {
        match incoming {
            Incoming::Reply { id, outcome } => self.answer(id, outcome),
            Incoming::StreamStart(id) => self.inbound.announce(id),
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
            Incoming::Restart(watcher) => {
                self.watcher(&watcher, |count| count.send_modify(|count| *count += 1));
            }
            Incoming::Other => {}
        }
    }

    fn answer(&self, id: u64, outcome: Result<Box<RawValue>, Fault>) {
        let caller = match &mut *self.calls.lock() {
            Calls::Open(calls) => calls.remove(&id),
            Calls::Closed(_) => None,
        };
        let unheard = match caller {
            Some(caller) => caller.send(outcome).err(),
            None => Some(outcome),
        };
        if let Some(unheard) = unheard {
            tracing::debug!(id, "an answer that nobody waits for");
            if let Ok(value) = unheard {
                self.refuse_what_it_brings(&value);
            }
        }
    }

    /// Queues an event, and waits while the queue is full.
    async fn deliver(&self, id: u64, event: Event) {
        let Some(sender) = self.inbound.sender(id) else {
            return;
        };
        tokio::select! {
            biased;
            sent = sender.send(event) => if sent.is_err() {
                tracing::trace!(stream = id, "nobody reads the stream any more");
            },
            () = self.discarding.cancelled() => {}
        }
    }
}
