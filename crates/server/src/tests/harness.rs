//! A server, a fake node, and clients that speak as the official ones do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tombolo_api::native::{CreatedToken, TOKENS_PATH};
use tombolo_testkit::{CarriedSandbox, FakeEgress, FakeNode, WAIT_MAX, eventually, within};

use super::ingress::TestIngress;
use crate::config::{Limits, ServerConfig};
use crate::serve::Server;
use crate::token::TokenHash;

pub(super) const ADMIN: &str = "admin-token-of-the-tests";
pub(super) const CREATE: &str = "/api/v3/sandboxes/create";

/// Limits under which nothing takes long, and no busy machine is too slow.
pub(super) fn quick() -> Limits {
    Limits {
        grace: Duration::from_millis(300),
        node_wait: Duration::from_secs(5),
        usage_timeout: WAIT_MAX,
        shutdown_grace: Duration::from_secs(2),
        ..Limits::STANDARD
    }
}

pub(super) struct World {
    pub(super) node: FakeNode,
    /// Carries the network of sandboxes, in a world that has one.
    pub(super) egress: Option<FakeEgress>,
    pub(super) config: ServerConfig,
    pub(super) server: Option<Server>,
    pub(super) address: SocketAddr,
    /// What clients of the ingress believe.
    pub(super) trust: Arc<rustls::ClientConfig>,
    /// Opens the default organisation.
    pub(super) token: String,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(quick()).await
    }

    pub(super) async fn with(limits: Limits) -> Self {
        Self::on(FakeNode::start().unwrap(), limits).await
    }

    /// With an egress process.
    pub(super) async fn networked() -> Self {
        Self::networked_with(quick()).await
    }

    pub(super) async fn networked_with(limits: Limits) -> Self {
        let (node, egress) = (FakeNode::start().unwrap(), FakeEgress::start().unwrap());
        node.attach_to(&egress);
        Self::of(node, Some(egress), limits).await
    }

    pub(super) async fn on(node: FakeNode, limits: Limits) -> Self {
        Self::of(node, None, limits).await
    }

    async fn of(node: FakeNode, egress: Option<FakeEgress>, limits: Limits) -> Self {
        let ingress = TestIngress::new(node.directory());
        let mut config = ServerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            base_url: None,
            node_socket: node.socket(),
            egress_socket: egress.as_ref().map(FakeEgress::socket),
            database: node.directory().join("server.db"),
            admin_token: Some(TokenHash::of(ADMIN)),
            region: tombolo_ids::Region::DEFAULT,
            limits,
            ingress: Some(ingress.options),
            ssh: Some(super::ssh::options(node.directory())),
            retires: false,
        };
        let server = Server::start(config.clone()).await.unwrap();
        let address = server.address();
        // Started again, it comes back where its exposures are.
        if let (Some(options), Some(listens)) = (&mut config.ingress, server.addresses().ingress) {
            options.listen = listens;
        }
        let mut world = Self {
            node,
            egress,
            config,
            server: Some(server),
            address,
            trust: ingress.trust,
            token: String::new(),
        };
        world.token = world.new_token("default").await;
        world.followed().await;
        world
    }

    /// Waits until the server hears what happens on the node.
    pub(super) async fn followed(&self) {
        eventually("the server follows the node", async || {
            let health = self.get_with("", "/healthz").await;
            (health.json["node"] == true).then_some(())
        })
        .await;
    }

    #[track_caller]
    pub(super) fn egress(&self) -> &FakeEgress {
        self.egress.as_ref().expect("this world has no network")
    }

    /// What the egress process was told of a sandbox.
    #[track_caller]
    pub(super) fn carried(&self, id: &str) -> CarriedSandbox {
        self.egress().sandbox(id).expect("it is not carried")
    }

    pub(super) async fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            within("the server to stop", server.stop()).await;
        }
    }

    pub(super) async fn start_server(&mut self) {
        let server = Server::start(self.config.clone()).await.unwrap();
        self.address = server.address();
        self.server = Some(server);
    }

    pub(super) async fn new_token(&self, organisation: &str) -> String {
        let body = serde_json::json!({ "name": "test", "organisation": organisation });
        let answer = self
            .send(Method::POST, TOKENS_PATH, ADMIN, Some(body))
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.json);
        let created: CreatedToken = serde_json::from_value(answer.json).unwrap();
        created.token
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.get_with(&self.token, path).await
    }

    pub(super) async fn get_with(&self, token: &str, path: &str) -> Answer {
        self.send(Method::GET, path, token, None).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &self.token, None).await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, &self.token, Some(body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, &self.token, Some(body))
            .await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            let bearer = format!("Bearer {token}");
            headers.insert("authorization", bearer.parse().unwrap());
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send_raw(method, path, headers, body.into_bytes())
            .await
    }

    pub(super) async fn send_raw(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Answer {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::new(Full::new(bytes::Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{}{path}", self.address).parse().unwrap();
        *request.headers_mut() = headers;
        let response = within("an answer", client.request(request)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// Begins to read an answer that does not end by itself.
    pub(super) async fn open(&self, path: &str, token: &str) -> Result<Events, Answer> {
        self.open_with(path, token, &[]).await
    }

    pub(super) async fn open_with(
        &self,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
    ) -> Result<Events, Answer> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::get(format!("http://{}{path}", self.address))
            .header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(bytes::Bytes::new())).unwrap();
        let response = within("an answer", client.request(request)).await.unwrap();
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            assert_eq!(head.headers["content-type"], "text/event-stream");
            return Ok(Events {
                body,
                text: String::new(),
                id: String::new(),
            });
        }
        let body = body.collect().await.unwrap().to_bytes();
        Err(Answer {
            status: head.status,
            headers: head.headers,
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// A WebSocket handshake as a client makes it.
    pub(super) async fn handshake(
        &self,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, Answer> {
        let mut request = format!("ws://{}{path}", self.address)
            .into_client_request()
            .unwrap();
        let bearer = format!("Bearer {token}");
        let authorization = ("authorization", bearer.as_str());
        for (name, value) in [authorization].iter().chain(headers) {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        let opened = tokio_tungstenite::client_async(request, stream);
        match within("a handshake", opened).await {
            Ok((stream, response)) => Ok(Socket {
                stream,
                headers: response.headers().clone(),
            }),
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(Answer {
                    status: response.status(),
                    headers: response.headers().clone(),
                    json: serde_json::from_slice(body).unwrap_or(Value::Null),
                    text: String::from_utf8_lossy(body).into_owned(),
                })
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub(super) async fn create(&self, config: &str) -> Result<Socket, Answer> {
        self.create_with(&self.token, config).await
    }

    pub(super) async fn create_with(&self, token: &str, config: &str) -> Result<Socket, Answer> {
        let header = base64(config.as_bytes());
        let headers = [("x-deno-sandbox-config", header.as_str())];
        self.handshake(CREATE, token, &headers).await
    }

    pub(super) async fn connect(&self, id: &str) -> Result<Socket, Answer> {
        let path = format!("/api/v3/sandbox/{id}/connect");
        self.handshake(&path, &self.token, &[]).await
    }

    /// The row of one sandbox in the native listing.
    pub(super) async fn row(&self, id: &str) -> Value {
        let answer = self.get("/api/tombolo/v1/sandboxes").await;
        let rows = answer.json.as_array().unwrap();
        let row = rows.iter().find(|row| row["id"] == id);
        row.cloned().unwrap_or(Value::Null)
    }

    pub(super) async fn until_state(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{id} is {state}"), async || {
            let row = self.row(id).await;
            (row["state"] == state).then_some(row)
        })
        .await
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) json: Value,
    pub(super) text: String,
}

/// Server-sent events as they come.
#[derive(Debug)]
pub(super) struct Events {
    body: hyper::body::Incoming,
    text: String,
    id: String,
}

impl Events {
    /// Of the event that came last, if it had one.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The next event as its name, which may be empty, and its data; none when
    /// there are no more. Comments are no events.
    pub(super) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let start = format!("{name}: ");
                    let line = event.lines().find_map(|line| line.strip_prefix(&start));
                    line.map(str::to_owned)
                };
                let found = field("data").map(|data| {
                    let data = serde_json::from_str(&data).unwrap();
                    (field("event").unwrap_or_default(), data)
                });
                let id = field("id").unwrap_or_default();
                self.text = rest.to_owned();
                if found.is_some() {
                    self.id = id;
                    return found;
                }
                continue;
            }
            let frame = within("an event", self.body.frame()).await?.unwrap();
            let data = frame.into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

impl Answer {
    pub(super) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// Checks the contract of every refusal.
    #[track_caller]
    pub(super) fn refuses(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), self.code()),
            (status, code),
            "{self:?}"
        );
        assert!(self.json["message"].is_string(), "{self:?}");
        assert!(self.headers.contains_key("x-deno-trace-id"), "{self:?}");
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) stream: WebSocketStream<TcpStream>,
    pub(super) headers: HeaderMap,
}

impl Socket {
    pub(super) fn id(&self) -> String {
        let id = self.headers.get("x-deno-sandbox-id").unwrap();
        id.to_str().unwrap().to_owned()
    }

    /// One call, and the outcome it is answered with.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Value {
        let request = serde_json::json!({
            "jsonrpc": "2.0", "id": 1, "method": method, "params": params,
        });
        let text = Message::text(request.to_string());
        self.stream.send(text).await.unwrap();
        loop {
            let message = within("an answer", self.stream.next())
                .await
                .unwrap()
                .unwrap();
            if let Message::Text(text) = message {
                let json: Value = serde_json::from_str(&text).unwrap();
                if json["id"] == 1 {
                    return json["result"].clone();
                }
            }
        }
    }

    /// Breaks the connection. A call before makes sure that the server has
    /// seen it open: a handshake that is broken off is another matter.
    pub(super) async fn lose(mut self) {
        let answer = self.call("envGet", serde_json::json!({ "key": "A" })).await;
        assert_eq!(answer, serde_json::json!({ "ok": null }));
        drop(self.stream);
    }

    /// Closes as the Python SDK does.
    pub(super) async fn close_normally(mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        self.stream.close(Some(frame)).await.unwrap();
        self.end().await;
    }

    /// Closes as the JavaScript SDK does.
    pub(super) async fn close_without_code(mut self) {
        self.stream.close(None).await.unwrap();
        self.end().await;
    }

    /// Reads to the end; answers the close code the server sent.
    pub(super) async fn end(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(message) = within("the end", self.stream.next()).await {
            match message {
                Ok(Message::Close(frame)) => code = frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        code
    }
}

/// Labels as a JSON object.
pub(super) fn labelled(pairs: &[(&str, &str)]) -> String {
    let labels: BTreeMap<_, _> = pairs.iter().copied().collect();
    serde_json::json!({ "labels": labels }).to_string()
}
