//! The client against a server that does exactly what each test says.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use tombolo_api::query::RowsQuery;

use crate::deno::EvalError;
use crate::fs::FsCause;
use crate::{
    CallError, Client, Command, ConnectError, Endpoint, RequestError, Sandbox, SendError, Signal,
    SpawnError, Stdio, StreamError, Token, USER_AGENT,
};

const ID: &str = "sbx_ord_0123456789abcdefghjk";
/// Long enough for a busy machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(20);

type WebSocket = WebSocketStream<TokioIo<Upgraded>>;
type Script = Arc<dyn Fn(WebSocket) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Listens on a free port for as long as the test runs.
async fn listen(router: Router) -> Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Endpoint::parse(&format!("http://{address}")).unwrap()
}

/// Answers a request for a WebSocket, and hands over what it becomes.
fn upgrade<F>(mut request: Request, run: impl FnOnce(WebSocket) -> F + Send + 'static) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes();
    let headers = [
        (header::UPGRADE, "websocket".to_owned()),
        (header::CONNECTION, "upgrade".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key)),
    ];
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await.unwrap());
        run(WebSocketStream::from_raw_socket(stream, Role::Server, None).await).await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// A server that takes every WebSocket and then follows the script.
async fn scripted<F>(script: impl Fn(WebSocket) -> F + Send + Sync + 'static) -> Endpoint
where
    F: Future<Output = ()> + Send + 'static,
{
    let script: Script = Arc::new(move |socket| Box::pin(script(socket)));
    let take = move |request: Request| {
        let script = Arc::clone(&script);
        async move {
            let response = upgrade(request, move |socket| script(socket));
            ([("x-deno-sandbox-id", ID)], response)
        }
    };
    listen(Router::new().fallback(any(take))).await
}

fn client(endpoint: &Endpoint) -> Client {
    Client::new(endpoint.clone(), Token::new("ddo_t"))
}

async fn connect(endpoint: &Endpoint) -> Sandbox {
    Sandbox::connect(&client(endpoint), ID).await.unwrap()
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// The next JSON from the client; control frames are nobody's business.
async fn receive(socket: &mut WebSocket) -> Value {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The next message of this kind; others are passed over.
async fn receive_only(socket: &mut WebSocket, method: &str) -> Value {
    loop {
        let message = receive(socket).await;
        if message["method"] == method {
            return message;
        }
    }
}

async fn send(socket: &mut WebSocket, message: &Value) {
    let text = Message::text(message.to_string());
    socket.send(text).await.unwrap();
}

async fn reply(socket: &mut WebSocket, request: &Value, result: Value) {
    let reply = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
    send(socket, &reply).await;
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better")]
fn stream(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": format!("$sandbox.stream.{method}"), "params": params})
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it hangs")
}

fn cat(sandbox: &Sandbox) -> Command {
    let piped = Stdio::Piped;
    let command = sandbox.command("cat").arg("-").env("A", "b");
    let command = command.current_dir("/tmp").stdin(piped);
    command.stdout(piped).stderr(piped)
}

#[tokio::test]
async fn the_handshake_names_the_client_the_token_and_the_configuration() {
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let headers_of = Arc::clone(&seen);
    let create = move |request: Request| {
        headers_of.lock().unwrap().clone_from(request.headers());
        let response = upgrade(request, |_socket| async {});
        async { ([("x-deno-sandbox-id", ID)], response) }
    };
    let router = Router::new().route("/api/v3/sandboxes/create", get(create));
    let endpoint = listen(router).await;
    let asked = Sandbox::builder()
        .memory_mib(2048)
        .timeout(Duration::from_millis(59_001))
        .label("k", "v");
    let sandbox = asked.create(&client(&endpoint)).await.unwrap();
    assert_eq!(sandbox.id().as_str(), ID);
    let seen = seen.lock().unwrap();
    assert_eq!(seen["authorization"], "Bearer ddo_t");
    assert_eq!(seen["user-agent"], USER_AGENT);
    let config = STANDARD.decode(&seen["x-deno-sandbox-config"]).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&config).unwrap(),
        json!({"memory_mb": 2048, "timeout": "60s", "labels": {"k": "v"}})
    );
}

#[tokio::test]
async fn a_refused_handshake_is_told_in_the_servers_words() {
    async fn refuse() -> Response {
        let body = r#"{"code":"LIMIT_EXCEEDED","message":"too many"}"#;
        (
            StatusCode::TOO_MANY_REQUESTS,
            [("x-deno-trace-id", "t1")],
            body,
        )
            .into_response()
    }
    let endpoint = listen(Router::new().fallback(any(refuse))).await;
    let error = Sandbox::create(&client(&endpoint)).await.unwrap_err();
    assert_eq!(error.to_string(), "too many (LIMIT_EXCEEDED, trace t1)");
    assert!(error.next_step().is_some());
    assert_eq!(error.refusal().unwrap().status, 429);
}

#[tokio::test]
async fn what_is_no_sandbox_server_is_not_taken_for_one() {
    let unnamed = any(|request: Request| async { upgrade(request, |_socket| async {}) });
    let endpoint = listen(Router::new().fallback(unnamed)).await;
    let connect = async |endpoint: &Endpoint| Sandbox::connect(&client(endpoint), ID).await;
    let error = connect(&endpoint).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotAServer { .. }), "{error}");

    let page = any(|| async { (StatusCode::OK, "<html>\u{1b}[2J") });
    let endpoint = listen(Router::new().fallback(page)).await;
    let error = connect(&endpoint).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("200") && !text.contains('\u{1b}'), "{text}");

    let nobody = Endpoint::parse("http://127.0.0.1:1").unwrap();
    let error = connect(&nobody).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    let error = Sandbox::connect(&client(&nobody), "../x")
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Id { .. }), "{error}");
}

#[tokio::test]
async fn a_process_is_fed_read_and_waited_for() {
    let endpoint = scripted(|mut socket| async move {
        let start = receive(&mut socket).await;
        assert_eq!(start["method"], "$sandbox.stream.start");
        let spawn = receive(&mut socket).await;
        assert_eq!(spawn["method"], "spawn");
        assert_eq!(
            spawn["params"],
            json!({"command": "cat", "args": ["-"], "env": {"A": "b"}, "cwd": "/tmp",
                "stdinStreamId": start["params"]["streamId"], "stdout": "piped", "stderr": "piped"})
        );
        let spawned = json!({"ok": {"pid": 7, "stdoutStreamId": 70, "stderrStreamId": 71}});
        reply(&mut socket, &spawn, spawned).await;
        let wait = receive(&mut socket).await;
        assert_eq!((&wait["method"], &wait["params"]), (&json!("processWait"), &json!({"pid": 7})));
        let chunk = receive(&mut socket).await;
        assert_eq!(chunk["method"], "$sandbox.stream.enqueue");
        let end = receive(&mut socket).await;
        assert_eq!(end["method"], "$sandbox.stream.end");
        for id in [70, 71] {
            send(&mut socket, &stream("start", json!({"streamId": id}))).await;
        }
        let echo = json!({"streamId": 70, "data": chunk["params"]["data"]});
        send(&mut socket, &stream("enqueue", echo)).await;
        for id in [71, 70] {
            send(&mut socket, &stream("end", json!({"streamId": id}))).await;
        }
        let exit = json!({"ok": {"success": false, "code": 137, "signal": "SIGKILL", "oom": "high-confidence"}});
        reply(&mut socket, &wait, exit).await;
        while socket.next().await.is_some() {}
    })
    .await;
    in_time(async {
        let sandbox = connect(&endpoint).await;
        let mut process = cat(&sandbox).spawn().await.unwrap();
        let stdin = process.stdin.take().unwrap();
        stdin.write(b"hello").await.unwrap();
        stdin.finish().await.unwrap();
        let mut stdout = process.stdout.take().unwrap();
        assert_eq!(stdout.chunk().await.unwrap().unwrap(), "hello");
        assert!(stdout.chunk().await.unwrap().is_none());
        assert!(stdout.chunk().await.unwrap().is_none());
        let mut stderr = process.stderr.take().unwrap();
        assert!(stderr.chunk().await.unwrap().is_none());
        // As often as it is asked.
        for _ in 0..2 {
            let exit = process.status().await.unwrap();
            assert_eq!((exit.code, exit.signal.as_deref()), (137, Some("SIGKILL")));
        }
        sandbox.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_failed_call_says_what_failed() {
    let endpoint = scripted(|mut socket| async move {
        let failures = [
            json!({"result": {"error": {"constructorName": "NotFound", "message": "no such file"}}}),
            json!({"error": {"code": -32601, "message": "Method not found"}}),
            json!({"result": {"ok": 5}}),
        ];
        for failure in failures {
            let request = receive(&mut socket).await;
            let mut message = failure.clone();
            message["id"] = request["id"].clone();
            message["jsonrpc"] = json!("2.0");
            send(&mut socket, &message).await;
        }
        while socket.next().await.is_some() {}
    })
    .await;
    in_time(async {
        let fs = connect(&endpoint).await.fs();
        let error = fs.read_link("/a").await.unwrap_err();
        assert_eq!(chain(&error), "cannot read the link /a: no such file");
        assert!(error.is_not_found());
        let error = fs.read_link("/a").await.unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot read the link /a: the server refused the call readLink: \
             Method not found (-32601)"
        );
        let error = fs.read_link("/a").await.unwrap_err();
        let FsCause::Call(CallError::Decode { .. }) = error.cause() else {
            panic!("{error:?}")
        };
    })
    .await;
}

#[tokio::test]
async fn a_signal_for_a_process_that_has_gone_is_no_error() {
    let endpoint = scripted(|mut socket| async move {
        for code in ["ENOENT", "EPERM"] {
            let request = receive(&mut socket).await;
            let error = json!({"constructorName": "TypeError", "message": "m", "code": code});
            reply(&mut socket, &request, json!({"error": error})).await;
        }
        while socket.next().await.is_some() {}
    })
    .await;
    in_time(async {
        let process = connect(&endpoint).await.process(7);
        process.kill(Signal::Int).await.unwrap();
        assert!(process.kill(Signal::Int).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn when_the_connection_ends_nothing_hangs() {
    type End = fn(WebSocket) -> Pin<Box<dyn Future<Output = ()> + Send>>;
    let ends: [(End, &str); 3] = [
        (
            |mut socket| {
                Box::pin(async move {
                    let frame = CloseFrame {
                        code: CloseCode::Away,
                        reason: "the sandbox has ended".into(),
                    };
                    socket.send(Message::Close(Some(frame))).await.unwrap();
                })
            },
            "the server closed the connection: the sandbox has ended",
        ),
        (
            |mut socket| Box::pin(async move { socket.send(Message::text("{]")).await.unwrap() }),
            "the connection broke: a frame is not the JSON that was expected",
        ),
        (
            |socket| Box::pin(async move { drop(socket) }),
            "the connection broke: ",
        ),
    ];
    for (end, expected) in ends {
        let endpoint = scripted(move |mut socket| async move {
            let walk = receive(&mut socket).await;
            reply(&mut socket, &walk, json!({"ok": {"streamId": 5}})).await;
            send(&mut socket, &stream("start", json!({"streamId": 5}))).await;
            let _unanswered = receive(&mut socket).await;
            end(socket).await;
        })
        .await;
        in_time(async {
            let sandbox = connect(&endpoint).await;
            let fs = sandbox.fs();
            let mut walk = fs.walk("/").await.unwrap();
            let error = fs.read_link("/a").await.unwrap_err();
            let expected = format!("cannot read the link /a: {expected}");
            assert!(
                chain(&error).starts_with(&expected),
                "{error:?}\n{expected}"
            );
            let error = walk.next().await.unwrap_err();
            let FsCause::Stream(StreamError::ConnectionLost) = error.cause() else {
                panic!("{error:?}")
            };
            // What comes later learns it at once.
            let error = fs.read_link("/a").await.unwrap_err();
            let FsCause::Call(CallError::ConnectionLost { .. }) = error.cause() else {
                panic!("{error:?}")
            };
            let error = cat(&sandbox).spawn().await.unwrap_err();
            let (SpawnError::Refused { .. } | SpawnError::Stdin { .. }) = error;
            assert!(sandbox.connection().inbound(6).chunk().await.is_err());
            sandbox.closed().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_may_come_before_it_is_asked_for_and_may_break() {
    let endpoint = scripted(|mut socket| async move {
        let walk = receive(&mut socket).await;
        send(&mut socket, &stream("start", json!({"streamId": 5}))).await;
        let entry = json!({"path": "/a", "name": "a", "isFile": true, "isDirectory": false, "isSymlink": false});
        let data = STANDARD.encode(entry.to_string());
        send(&mut socket, &stream("enqueue", json!({"streamId": 5, "data": data}))).await;
        let error = json!({"constructorName": "PermissionDenied", "message": "not yours"});
        send(&mut socket, &stream("error", json!({"streamId": 5, "error": error}))).await;
        // Some servers end what they have broken.
        send(&mut socket, &stream("end", json!({"streamId": 5}))).await;
        reply(&mut socket, &walk, json!({"ok": {"streamId": 5}})).await;
        while socket.next().await.is_some() {}
    })
    .await;
    in_time(async {
        let mut walk = connect(&endpoint).await.fs().walk("/").await.unwrap();
        assert_eq!(walk.next().await.unwrap().unwrap().path, "/a");
        let error = walk.next().await.unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot walk /: the stream broke off: not yours"
        );
    })
    .await;
}

#[tokio::test]
async fn both_sides_can_say_that_they_read_no_more() {
    let (told, mut tell) = tokio::sync::mpsc::channel(1);
    let endpoint = scripted(move |mut socket| {
        let told = told.clone();
        async move {
            let start = receive(&mut socket).await;
            let write = receive(&mut socket).await;
            send(&mut socket, &stream("cancel", start["params"].clone())).await;
            let error = json!({"constructorName": "Error", "message": "disk full"});
            reply(&mut socket, &write, json!({"error": error})).await;
            let walk = receive_only(&mut socket, "walk").await;
            reply(&mut socket, &walk, json!({"ok": {"streamId": 9}})).await;
            let cancel = receive_only(&mut socket, "$sandbox.stream.cancel").await;
            told.send(cancel["params"]["streamId"].clone())
                .await
                .unwrap();
            while socket.next().await.is_some() {}
        }
    })
    .await;
    in_time(async {
        let fs = connect(&endpoint).await.fs();
        let mut writer = fs.write_stream("/a").await.unwrap();
        let error = loop {
            if let Err(error) = writer.write(b"x").await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert!(matches!(error, SendError::Cancelled), "{error}");
        let reason = writer.reason().await;
        assert_eq!(chain(&reason), "cannot write /a: disk full");
        drop(fs.walk("/").await.unwrap());
        assert_eq!(tell.recv().await.unwrap(), 9);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_up_the_sender() {
    /// Beyond what the queues here and in the kernel take.
    const SENT_MAX: usize = 64 * 1024 * 1024;
    let release = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&release);
    let endpoint = scripted(move |mut socket| {
        let held = Arc::clone(&held);
        async move {
            held.notified().await;
            receive_only(&mut socket, "$sandbox.stream.end").await;
        }
    })
    .await;
    in_time(async {
        let sandbox = connect(&endpoint).await;
        let stream = sandbox.connection().outbound().await.unwrap();
        let piece = vec![b'x'; 1024 * 1024];
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(500), stream.write(&piece))
            .await
            .is_ok()
        {
            sent += piece.len();
            assert!(sent < SENT_MAX, "nothing holds up the sender");
        }
        release.notify_one();
        stream.write(&piece).await.unwrap();
        stream.finish().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn requests_bring_an_answer_or_a_reason() {
    let answers = Router::new()
        .route("/ok", get(|| async { r#"{"a":1}"# }))
        .route("/odd", get(|| async { "[" }))
        .route(
            "/broken",
            get(|| async { (StatusCode::BAD_GATEWAY, "oops") }),
        )
        .route(
            "/refused",
            get(|| async {
                let body = r#"{"code":"INVALID_TOKEN","message":"no"}"#;
                (StatusCode::UNAUTHORIZED, body)
            }),
        );
    let client = client(&listen(answers).await);
    let ask = async |path: &str| client.get::<Value>(path).await.map_err(|e| e.to_string());
    assert_eq!(ask("/ok").await, Ok(json!({"a": 1})));
    for (path, expected) in [
        (
            "/odd",
            "the server's answer to GET /odd is not understood: [",
        ),
        ("/broken", "the server answered 502 Bad Gateway: oops (502)"),
        ("/refused", "no (INVALID_TOKEN)"),
    ] {
        assert_eq!(ask(path).await, Err(expected.to_owned()));
    }
    assert!(!client.healthy().await);
    let nobody = Endpoint::parse("http://127.0.0.1:1").unwrap();
    let nobody = Client::new(nobody, Token::new("t"));
    let error = nobody.get::<Value>("/ok").await.unwrap_err();
    assert!(matches!(error, RequestError::Unreachable { .. }), "{error}");
}

/// A listing of so many rows that gives at most two at a time.
fn pages(rows: usize) -> Router {
    let page = move |uri: Uri| async move {
        let query = RowsQuery::parse(uri.query().unwrap_or_default()).unwrap();
        let start: usize = query
            .page
            .cursor
            .map_or(0, |cursor| cursor.parse().unwrap());
        let most = query.page.limit.unwrap().min(2) as usize;
        let end = (start + most).min(rows);
        let page: Vec<Value> = (start..end).map(listed).collect();
        let mut response = axum::Json(page).into_response();
        if end < rows {
            // Another host: the token must not go there.
            let link = format!("<http://elsewhere.invalid/rows?cursor={end}>; rel=\"next\"");
            response.headers_mut().insert("link", link.parse().unwrap());
        }
        response
    };
    Router::new().route("/api/tombolo/v1/sandboxes", get(page))
}

fn listed(number: usize) -> Value {
    json!({
        "id": ID, "organisation": "default", "region": "ord", "state": "running",
        "reason": null, "lifetime": "session", "isolation": null, "memory_mib": 1280,
        "disk_bytes": 1, "created_at_ms": number, "deadline_ms": 0, "stopped_at_ms": null,
        "labels": {}, "usage": null,
    })
}

#[tokio::test]
async fn a_listing_is_read_to_its_end_or_its_limit() {
    for (there, limit, expected) in [
        (0, None, 0),
        (2, None, 2),
        (5, None, 5),
        (5, Some(1), 1),
        (5, Some(3), 3),
        (5, Some(9), 5),
    ] {
        let mut listing = client(&listen(pages(there)).await).sandboxes();
        if let Some(limit) = limit {
            listing = listing.limit(limit);
        }
        let rows = in_time(listing.all()).await.unwrap();
        let numbers: Vec<i64> = rows.iter().map(|row| row.created_at_ms.0).collect();
        assert_eq!(
            numbers,
            (0..expected).collect::<Vec<_>>(),
            "{limit:?} of {there}"
        );
    }
    let endless = client(&listen(pages(usize::MAX)).await).sandboxes();
    let error = endless.all().await.unwrap_err();
    assert!(matches!(error, RequestError::Endless { .. }), "{error}");
}

/// Answers walks and opened files, and tells of everything else.
async fn tells(mut socket: WebSocket, told: tokio::sync::mpsc::Sender<(String, Value)>) {
    while let Some(Ok(message)) = socket.next().await {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => {
                let goodbye = ("goodbye".to_owned(), Value::Null);
                told.send(goodbye).await.unwrap();
                continue;
            }
            _ => continue,
        };
        let message: Value = serde_json::from_str(&text).unwrap();
        let method = message["method"].as_str().unwrap();
        let answer = match method {
            "walk" => json!({"ok": {"streamId": 5}}),
            "open" => json!({"ok": {"fileHandleId": 6}}),
            _ => {
                let call = (method.to_owned(), message["params"].clone());
                told.send(call).await.unwrap();
                continue;
            }
        };
        reply(&mut socket, &message, answer).await;
    }
}

#[tokio::test]
async fn what_is_dropped_is_aborted_cancelled_or_closed() {
    let (told, mut tell) = tokio::sync::mpsc::channel(8);
    let endpoint = scripted(move |socket| tells(socket, told.clone())).await;
    in_time(async {
        let sandbox = connect(&endpoint).await;
        let fs = sandbox.fs();
        let next = async |tell: &mut tokio::sync::mpsc::Receiver<(String, Value)>| {
            tell.recv().await.unwrap()
        };
        let reading = fs.read_file("/a");
        // Asked, and never answered.
        tokio::select! {
            _ = reading => panic!("nobody answered"),
            (method, params) = next(&mut tell) => {
                assert_eq!(method, "readFile");
                assert!(params["abortId"].is_u64(), "{params}");
            }
        }
        assert_eq!(next(&mut tell).await.0, "abort");
        drop(fs.walk("/").await.unwrap());
        let cancel = ("$sandbox.stream.cancel".to_owned(), json!({"streamId": 5}));
        assert_eq!(next(&mut tell).await, cancel);
        drop(fs.open("/a").await.unwrap());
        let close = ("fileClose".to_owned(), json!({"fileHandleId": 6}));
        assert_eq!(next(&mut tell).await, close);
        // The last that uses a connection takes it along.
        drop(sandbox);
        drop(fs);
        assert_eq!(next(&mut tell).await.0, "goodbye");
    })
    .await;
}

#[tokio::test]
async fn what_comes_for_a_call_that_was_given_up_is_refused_and_holds_up_nothing() {
    let endpoint = scripted(|mut socket| async move {
        let walk = receive(&mut socket).await;
        let open = receive(&mut socket).await;
        // Both were given up before this third one was asked.
        let real_path = receive(&mut socket).await;
        reply(&mut socket, &walk, json!({"ok": {"streamId": 5}})).await;
        reply(&mut socket, &open, json!({"ok": {"fileHandleId": 6}})).await;
        send(&mut socket, &stream("start", json!({"streamId": 5}))).await;
        for _ in 0..64 {
            let chunk = json!({"streamId": 5, "data": "eHg="});
            send(&mut socket, &stream("enqueue", chunk)).await;
        }
        let cancel = receive(&mut socket).await;
        assert_eq!(cancel["method"], "$sandbox.stream.cancel");
        assert_eq!(cancel["params"], json!({"streamId": 5}));
        let close = receive(&mut socket).await;
        assert_eq!(close["method"], "fileClose");
        reply(&mut socket, &real_path, json!({"ok": "/after"})).await;
        while socket.next().await.is_some() {}
    })
    .await;
    in_time(async {
        let sandbox = connect(&endpoint).await;
        let fs = sandbox.fs();
        // Each is sent at the first look, and nobody answers.
        assert!(fs.walk("/").now_or_never().is_none());
        assert!(fs.open("/a").now_or_never().is_none());
        assert_eq!(fs.real_path("/").await.unwrap(), "/after");
    })
    .await;
}

#[tokio::test]
async fn a_process_that_was_lost_may_be_asked_for_again() {
    let endpoint = scripted(|mut socket| async move {
        let spawn = receive(&mut socket).await;
        let spawned = json!({"ok": {"pid": 7, "stdoutStreamId": null, "stderrStreamId": null}});
        reply(&mut socket, &spawn, spawned).await;
        let _wait = receive(&mut socket).await;
    })
    .await;
    in_time(async {
        let sandbox = connect(&endpoint).await;
        let mut process = sandbox.command("true").spawn().await.unwrap();
        for _ in 0..2 {
            process.status().await.unwrap_err();
        }
    })
    .await;
}

/// What a call for a directory or a file of one byte answers.
fn found(is_directory: bool) -> Value {
    const TIME: &str = "2026-01-01T00:00:00.000Z";
    json!({
        "isFile": !is_directory, "isDirectory": is_directory, "isSymlink": false, "size": 1,
        "mtime": TIME, "atime": TIME, "birthtime": TIME, "ctime": TIME, "mode": 0o755, "dev": 1,
        "ino": 1, "nlink": 1, "uid": 1000, "gid": 1000, "rdev": 0, "blksize": 4096, "blocks": 8,
        "isBlockDevice": false, "isCharDevice": false, "isFifo": false, "isSocket": false,
    })
}

/// A sandbox whose `/d` has this many files, which sends what it finds on a
/// walk as fast as it can, as the protocol has it: before other answers.
async fn has_files(mut socket: WebSocket, count: usize) {
    loop {
        let call = receive(&mut socket).await;
        let is_top = call["params"]["path"] == "/d";
        let result = match call["method"].as_str().unwrap() {
            "stat" | "lstat" => found(is_top),
            "readDir" => (0..count)
                .map(|n| {
                    json!({"name": format!("{n}"), "isFile": true, "isDirectory": false,
                        "isSymlink": false})
                })
                .collect(),
            "realPath" => json!("/d"),
            "readFile" => json!("eA=="),
            "walk" => {
                reply(&mut socket, &call, json!({"ok": {"streamId": 5}})).await;
                send(&mut socket, &stream("start", json!({"streamId": 5}))).await;
                for n in 0..count {
                    let entry = json!({"path": format!("/d/{n}"), "name": format!("{n}"),
                        "isFile": true, "isDirectory": false, "isSymlink": false});
                    let data = STANDARD.encode(entry.to_string());
                    let chunk = json!({"streamId": 5, "data": data});
                    send(&mut socket, &stream("enqueue", chunk)).await;
                }
                send(&mut socket, &stream("end", json!({"streamId": 5}))).await;
                continue;
            }
            _ => continue,
        };
        reply(&mut socket, &call, json!({"ok": result})).await;
    }
}

#[tokio::test]
async fn a_copy_is_not_held_up_by_what_it_has_still_to_visit() {
    in_time(async {
        let endpoint = scripted(|socket| has_files(socket, 100)).await;
        let sandbox = connect(&endpoint).await;
        let here = tempfile::tempdir().unwrap();
        let target = here.path().join("d");
        let copied = sandbox.fs().download("/d", target.to_str().unwrap()).await;
        let copied = copied.unwrap();
        assert_eq!((copied.files, copied.directories), (100, 1));
        assert_eq!(fs_err::read(target.join("99")).unwrap(), b"x");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_hold_up_a_close() {
    let endpoint = scripted(|mut socket| async move {
        let walk = receive(&mut socket).await;
        reply(&mut socket, &walk, json!({"ok": {"streamId": 5}})).await;
        send(&mut socket, &stream("start", json!({"streamId": 5}))).await;
        for _ in 0..64 {
            let chunk = json!({"streamId": 5, "data": "eHg="});
            send(&mut socket, &stream("enqueue", chunk)).await;
        }
        while socket.next().await.is_some() {}
    })
    .await;
    let sandbox = connect(&endpoint).await;
    let walk = in_time(sandbox.fs().walk("/")).await.unwrap();
    // Shorter than what would end the wait for a server that says nothing.
    let closed = tokio::time::timeout(Duration::from_secs(3), sandbox.close());
    closed.await.expect("the close waits for the reader");
    drop(walk);
}

#[tokio::test]
async fn each_restart_of_a_program_is_told_once() {
    let endpoint = scripted(|mut socket| async move {
        let restart = json!({"jsonrpc": "2.0", "method": "$sandbox.deno.watcher.restart",
            "params": {"watcherId": "w"}});
        let spawn = receive(&mut socket).await;
        assert_eq!(spawn["params"]["watch"], json!(true));
        // One comes before anybody can have asked for it.
        send(&mut socket, &restart).await;
        let spawned = json!({"ok": {"pid": 7, "stdoutStreamId": null, "stderrStreamId": null,
            "watcherId": "w"}});
        reply(&mut socket, &spawn, spawned).await;
        let _wait = receive(&mut socket).await;
        send(&mut socket, &restart).await;
    })
    .await;
    in_time(async {
        let sandbox = connect(&endpoint).await;
        let program = sandbox.deno().run("/main.ts").watch();
        let mut program = program.spawn().await.unwrap();
        assert_eq!(program.restarted().await, Some(()));
        assert_eq!(program.restarted().await, Some(()));
        assert_eq!(program.restarted().await, None);
    })
    .await;
}

#[tokio::test]
async fn what_code_throws_is_told_apart_from_a_repl_that_ends() {
    let endpoint = scripted(|mut socket| async move {
        let answers = [
            json!({"ok": {"pid": 7, "stdoutStreamId": null, "stderrStreamId": null}}),
            json!({"ok": [1, "a"]}),
            json!({"error": {"constructorName": "RangeError", "message": "m"}}),
            json!({"ok": "text"}),
            json!({"error": {"constructorName": "TypeError", "message": "gone", "code": "ENOENT"}}),
        ];
        for answer in answers {
            let mut call = receive(&mut socket).await;
            if call["method"] == "processWait" {
                call = receive(&mut socket).await;
            }
            reply(&mut socket, &call, answer).await;
        }
    })
    .await;
    in_time(async {
        let repl = connect(&endpoint).await.deno().repl().spawn().await;
        let repl = repl.unwrap();
        let pair: (u8, String) = repl.eval("[1, 'a']").await.unwrap();
        assert_eq!(pair, (1, "a".to_owned()));
        let error = repl.call::<Value>("f", (1, "b")).await.unwrap_err();
        assert_eq!(error.thrown().unwrap().class(), "RangeError");
        let error = repl.eval::<u8>("'text'").await.unwrap_err();
        assert!(matches!(error, EvalError::Value(_)), "{error}");
        let error = repl.eval::<u8>("1").await.unwrap_err();
        assert!(matches!(error, EvalError::Call(_)), "{error}");
    })
    .await;
}
