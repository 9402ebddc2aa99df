//! A server of one route and a client that speaks to it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tombolo_ids::SandboxId;
use tombolo_testkit::{FakeNode, within};

use super::agent::TestAgent;
use crate::guest::{Dialect, GuestAgent};
use crate::rpc::{
    Budget, BudgetLimits, RpcLimits, RpcSession, SessionEnd, StreamIds, Upgrade, serve,
};

pub(super) const SANDBOX: &str = "sbx_loc_0123456789abcdefghjk";

/// A node with a [`TestAgent`] and a server in front of it.
pub(super) struct Harness {
    pub(super) node: FakeNode,
    pub(super) agent: TestAgent,
    pub(super) ending: CancellationToken,
    address: SocketAddr,
    ends: mpsc::UnboundedReceiver<SessionEnd>,
}

impl Harness {
    pub(super) async fn new(dialect: Dialect) -> Self {
        Self::with_limits(dialect, RpcLimits::default()).await
    }

    pub(super) async fn with_limits(dialect: Dialect, limits: RpcLimits) -> Self {
        Self::with_budget(dialect, limits, BudgetLimits::default()).await
    }

    pub(super) async fn with_budget(
        dialect: Dialect,
        limits: RpcLimits,
        budget: BudgetLimits,
    ) -> Self {
        let budget = Arc::new(Budget::new(budget));
        let agent = TestAgent::default();
        let node = FakeNode::with_agent(agent.clone()).unwrap();
        let ending = CancellationToken::new();
        let (ended, ends) = mpsc::unbounded_channel();
        let stream_ids = Arc::new(StreamIds::new(1000));
        let sandbox: SandboxId = SANDBOX.parse().unwrap();
        let socket = node.socket();
        let session_ending = ending.clone();
        let app = Router::new().route(
            "/",
            get(async move |upgrade: Upgrade| {
                let session = RpcSession {
                    agent: GuestAgent::new(&socket, &sandbox),
                    dialect,
                    stream_ids,
                    ending: session_ending.clone(),
                    sandbox,
                    exposures: None,
                    limits: limits.clone(),
                    budget: Arc::clone(&budget),
                };
                upgrade.accept(limits.frame_len_max, async move |socket| {
                    ended.send(serve(socket, session).await).unwrap();
                })
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            node,
            agent,
            ending,
            address,
            ends,
        }
    }

    pub(super) async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let url = format!("ws://{}/", self.address);
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Client {
            socket,
            unread: Vec::new(),
            next_id: 0,
        }
    }

    /// How the next connection to end ended.
    pub(super) async fn end(&mut self) -> SessionEnd {
        within("a connection to end", self.ends.recv())
            .await
            .unwrap()
    }
}

/// One connection's client.
pub(super) struct Client {
    pub(super) socket: WebSocketStream<TcpStream>,
    /// Messages that came before the one that was asked for.
    pub(super) unread: Vec<Value>,
    next_id: u64,
}

impl Client {
    pub(super) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(super) async fn notify(&mut self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.send_text(&message.to_string()).await;
    }

    /// Sends a request. Answers its id.
    pub(super) async fn request(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send_text(&message.to_string()).await;
        id
    }

    /// The next message of any kind, as it came.
    pub(super) async fn message(&mut self) -> Option<Message> {
        within("a message", async {
            loop {
                match self.socket.next().await? {
                    Ok(Message::Ping(_) | Message::Pong(_)) => {}
                    Ok(message) => return Some(message),
                    Err(_) => return None,
                }
            }
        })
        .await
    }

    /// The next JSON message from the wire.
    pub(super) async fn json(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("no text message but {other:?}"),
        }
    }

    /// The answer to a request, whole.
    pub(super) async fn answer(&mut self, id: u64) -> Value {
        let is_it = |message: &Value| message["id"] == json!(id);
        if let Some(place) = self.unread.iter().position(is_it) {
            return self.unread.remove(place);
        }
        loop {
            let message = self.json().await;
            if is_it(&message) {
                return message;
            }
            self.unread.push(message);
        }
    }

    /// Makes a call and answers the whole answer.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params).await;
        self.answer(id).await
    }

    /// Makes a call that succeeds.
    pub(super) async fn ok(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.call(method, params).await;
        let result = answer["result"].as_object_mut().unwrap();
        assert!(result.contains_key("ok"), "{method}: {result:?}");
        result["ok"].take()
    }

    /// Makes a call that fails in the sandbox.
    pub(super) async fn error(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.call(method, params).await;
        assert!(answer["result"]["error"].is_object(), "{method}: {answer}");
        answer["result"]["error"].take()
    }

    /// The next message about a stream.
    pub(super) async fn stream_message(&mut self, stream: u64) -> Value {
        let is_it = |message: &Value| message["params"]["streamId"] == json!(stream);
        if let Some(place) = self.unread.iter().position(is_it) {
            return self.unread.remove(place);
        }
        loop {
            let message = self.json().await;
            if is_it(&message) {
                return message;
            }
            self.unread.push(message);
        }
    }

    /// All data of a stream, checked to be one start, data, one end.
    pub(super) async fn stream(&mut self, stream: u64) -> Vec<u8> {
        use base64::Engine as _;
        let start = self.stream_message(stream).await;
        assert_eq!(start["method"], "$sandbox.stream.start");
        let mut bytes = Vec::new();
        loop {
            let message = self.stream_message(stream).await;
            match message["method"].as_str() {
                Some("$sandbox.stream.enqueue") => {
                    let data = message["params"]["data"].as_str().unwrap();
                    let data = base64::prelude::BASE64_STANDARD.decode(data).unwrap();
                    assert!(!data.is_empty() && data.len() <= 64 * 1024);
                    bytes.extend(data);
                }
                Some("$sandbox.stream.end") => return bytes,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything until the close frame: messages, code and reason.
    pub(super) async fn until_close(&mut self) -> (Vec<Value>, u16, String) {
        let mut messages = std::mem::take(&mut self.unread);
        loop {
            match self.message().await {
                Some(Message::Text(text)) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Message::Close(Some(frame))) => {
                    return (messages, frame.code.into(), frame.reason.to_string());
                }
                other => panic!("no close frame but {other:?}"),
            }
        }
    }

    /// Sends a client stream's data, with the keys in the SDKs' order.
    pub(super) async fn enqueue(&mut self, stream: u64, data: &[u8]) {
        use base64::Engine as _;
        let data = base64::prelude::BASE64_STANDARD.encode(data);
        self.enqueue_text(stream, &data).await;
    }

    /// The same with data that may not be base64.
    pub(super) async fn enqueue_text(&mut self, stream: u64, data: &str) {
        let params = format!(r#"{{"streamId":{stream},"data":"{data}"}}"#);
        let method = r#""method":"$sandbox.stream.enqueue""#;
        self.send_text(&format!(
            r#"{{"jsonrpc":"2.0",{method},"params":{params}}}"#
        ))
        .await;
    }

    pub(super) async fn start(&mut self, stream: u64) {
        self.notify("$sandbox.stream.start", json!({"streamId": stream}))
            .await;
    }

    /// Gives a stream up.
    pub(super) async fn fail(&mut self, stream: u64) {
        self.notify("$sandbox.stream.error", json!({"streamId": stream}))
            .await;
    }

    pub(super) async fn finish(&mut self, stream: u64) {
        self.notify("$sandbox.stream.end", json!({"streamId": stream}))
            .await;
    }
}
