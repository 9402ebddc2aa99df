//! What becomes of what is open when the policy or a secret changes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _, net::TcpStream, sync::mpsc, task::unconstrained, time::timeout,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::rig::{CANARY, PATIENCE, Pieces, Rig, held, pieces, policy, secret, status};
use crate::{
    audit::Draft,
    rules::{HeldSecret, SecretState},
};

/// Within this an exchange that is no longer allowed has to end.
const GRACE: Duration = Duration::from_secs(1);

/// A change of what holds for the sandbox, and why exchanges end with it, if they do.
struct Change {
    what: &'static str,
    document: Value,
    held: Vec<HeldSecret>,
    ends: Option<&'static str>,
}

fn changes(rig: &Rig, with_secret: bool) -> Vec<Change> {
    let change = |what, change: fn(&mut Value), held, ends| {
        let mut document = rig.document.clone();
        document["generation"] = json!(2);
        change(&mut document);
        Change {
            what,
            document,
            held,
            ends,
        }
    };
    let same = || held(SecretState::Active);
    let other = || {
        secret(
            "OTHER",
            0x11,
            "another-value-of-a-secret",
            SecretState::Active,
        )
    };
    let secrets_end = with_secret.then_some("secrets_changed");
    let policy_ends = Some("policy_changed");
    vec![
        change(
            "a rule for another host",
            |document| document["net"]["rules"] = json!([{"id": "r", "host": "plain.test"}]),
            same(),
            None,
        ),
        change(
            "a rule that still allows",
            |document| {
                document["net"]["rules"] = json!([{"id": "r", "host": "good.test", "path": "/**"}]);
            },
            same(),
            None,
        ),
        change(
            "a rule that denies the path",
            |document| {
                document["net"]["rules"] = json!([{"id": "r", "host": "good.test", "action": "deny", "path": "/e/**"}, {"id": "s", "host": "good.test", "action": "deny", "path": "/events"}]);
            },
            same(),
            policy_ends,
        ),
        change(
            "rules of which none allows",
            |document| {
                document["net"]["rules"] =
                    json!([{"id": "r", "host": "good.test", "method": "PATCH"}]);
            },
            same(),
            policy_ends,
        ),
        change(
            "rules on trial",
            |document| {
                document["net"] = json!({"mode": "audit", "rules": [{"id": "r", "host": "good.test", "method": "PATCH"}]});
            },
            same(),
            None,
        ),
        change("revoked", |_| {}, held(SecretState::Revoked), secrets_end),
        change(
            "rotated",
            |_| {},
            vec![secret(
                "KEY",
                0xa7,
                "the-new-value-of-the-key",
                SecretState::Active,
            )],
            secrets_end,
        ),
        change(
            "no longer for this host",
            |document| document["secrets"]["KEY"]["hosts"] = json!(["old.test"]),
            same(),
            secrets_end,
        ),
        change(
            "another one is given",
            |document| document["secrets"]["OTHER"] = json!({"hosts": ["good.test"]}),
            [same(), vec![other()]].concat(),
            None,
        ),
    ]
}

/// Begins an endless response.
async fn events(
    rig: &Rig,
    sender: &mut SendRequest<Empty<Bytes>>,
    with_secret: bool,
) -> Response<Incoming> {
    let mut request = Request::get("https://good.test/events");
    if with_secret {
        request = request.header("x-key", &rig.placeholder);
    }
    let request = request.body(Empty::new()).unwrap();
    let mut response = timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), 200);
    let first = timeout(PATIENCE, response.frame()).await.unwrap().unwrap();
    assert!(first.unwrap().is_data());
    response
}

/// NET-15, SUB-23, HTTP-26: an endless response ends within a second when it would no longer
/// be allowed or its secret is no longer in force, and with no other change.
#[tokio::test]
async fn net_15_a_response_ends_when_what_it_stands_on_changes() {
    for with_secret in [true, false] {
        let count = changes(&Rig::usual().await, with_secret).len();
        for index in 0..count {
            let rig = Rig::usual().await;
            let change = changes(&rig, with_secret).remove(index);
            let mut sender = rig.connect_http2("good.test").await;
            let mut response = events(&rig, &mut sender, with_secret).await;
            rig.replace_all(&change.document, &change.held, 2);
            if change.ends.is_some() {
                let ended = timeout(GRACE, response.frame()).await;
                let ended = ended.unwrap_or_else(|_| panic!("{} goes on", change.what));
                assert!(ended.unwrap().is_err(), "{}", change.what);
            } else {
                // The proxy has seen the change when it has answered another request.
                let request = Request::get("https://good.test/").body(Empty::new());
                sender.send_request(request.unwrap()).await.unwrap();
                assert!(response.frame().now_or_never().is_none(), "{}", change.what);
            }
            drop((response, sender));
            let records = rig.finish(1 + usize::from(change.ends.is_none())).await;
            let record = records
                .iter()
                .find(|record| record["path"] == "/events")
                .unwrap();
            assert_eq!(record["err"].as_str(), change.ends, "{}", change.what);
        }
    }
}

/// NET-15: an upload ends as well, before anything is answered and after.
#[tokio::test]
async fn net_15_an_upload_ends_when_it_is_no_longer_allowed() {
    // `/grpc` answers at once, `/late` when all has arrived.
    for path in ["/grpc", "/late"] {
        let rig = Rig::usual().await;
        let mut sender = rig.connect_http2::<Pieces>("good.test").await;
        let (send, pieces) = pieces();
        let request = Request::post(format!("https://good.test{path}"))
            .body(pieces)
            .unwrap();
        let answer = tokio::spawn(sender.send_request(request));
        send.send(Bytes::from("one")).await.unwrap();
        let arrived = async {
            while rig
                .origin
                .read
                .lock()
                .iter()
                .all(|read| !contains(read, b"one"))
            {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, arrived).await.unwrap();
        let mut document = rig.document.clone();
        document["net"] = json!({"rules": [{"id": "r", "host": "good.test", "method": "GET"}]});
        rig.replace(&document, SecretState::Active, 1);
        let ended = async {
            match answer.await.unwrap() {
                Ok(response) if response.status() == 200 => {
                    assert!(response.into_body().collect().await.is_err());
                }
                Ok(response) => assert_eq!(response.status(), 403, "{path}"),
                Err(_broken) => {}
            }
        };
        timeout(GRACE, ended).await.expect("the upload goes on");
        // Nobody takes more of it.
        let refused = async { while send.send(Bytes::from("two")).await.is_ok() {} };
        timeout(GRACE, refused).await.expect("the upload goes on");
        drop(sender);
        rig.finish(1).await;
    }
}

/// NET-15, SUB-23: a `WebSocket` ends when its request would no longer be allowed, and when
/// secrets change.
#[tokio::test]
async fn net_15_a_websocket_ends_when_it_is_no_longer_allowed() {
    for (rules, state, generation, expected) in [
        (
            json!([{"id": "r", "host": "good.test", "action": "deny", "path": "/socket"}]),
            SecretState::Active,
            1,
            "policy_changed",
        ),
        (json!([]), SecretState::Revoked, 2, "secrets_changed"),
    ] {
        let rig = Rig::usual().await;
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let (mut socket, _) = client_async(socket_request(&rig), stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        let reply = timeout(PATIENCE, socket.next()).await.unwrap();
        assert!(reply.unwrap().unwrap().is_text());
        let mut document = rig.document.clone();
        document["net"] = json!({ "rules": rules });
        rig.replace(&document, state, generation);
        let ended = async { while let Some(Ok(_)) = socket.next().await {} };
        timeout(GRACE, ended).await.expect("the WebSocket goes on");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["err"], expected);
    }
}

fn socket_request(rig: &Rig) -> Request<()> {
    let mut request = "wss://good.test/socket".into_client_request().unwrap();
    let placeholder = rig.placeholder.parse().unwrap();
    request.headers_mut().insert("x-key", placeholder);
    request
}

/// What is under way when secrets change.
enum Open {
    Response(Response<Incoming>),
    Upload(mpsc::Sender<Bytes>, Response<Incoming>),
    Socket(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

impl Open {
    /// An exchange with a placeholder of `KEY`, or one that may come yet.
    async fn begin(rig: &Rig, what: &str) -> Self {
        match what {
            "response" => {
                let mut sender = rig.connect_http2("good.test").await;
                let response = events(rig, &mut sender, true).await;
                // The connection lasts as long as its streams.
                Self::Response(response)
            }
            "upload" => {
                let mut sender = rig.connect_http2::<Pieces>("good.test").await;
                let (send, pieces) = pieces();
                let request = Request::post("https://good.test/grpc")
                    .header("content-type", "application/json")
                    .body(pieces);
                let response = timeout(PATIENCE, sender.send_request(request.unwrap()));
                Self::Upload(send, response.await.unwrap().unwrap())
            }
            _ => {
                let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
                let (socket, _) = client_async(socket_request(rig), stream).await.unwrap();
                Self::Socket(Box::new(socket))
            }
        }
    }

    /// Waits for its end.
    async fn ended(self) {
        match self {
            Self::Response(mut response) => while let Some(Ok(_)) = response.frame().await {},
            Self::Upload(_send, mut response) => while let Some(Ok(_)) = response.frame().await {},
            Self::Socket(mut socket) => while let Some(Ok(_)) = socket.next().await {},
        }
    }

    /// Whether it goes on, as far as can be told now.
    async fn goes_on(&mut self) -> bool {
        match self {
            Self::Response(response) => response.frame().now_or_never().is_none(),
            Self::Upload(send, response) => {
                send.send("\"text\"".into()).await.unwrap();
                timeout(PATIENCE, response.frame())
                    .await
                    .unwrap()
                    .unwrap()
                    .is_ok()
            }
            Self::Socket(socket) => {
                socket.send(Message::text("hello")).await.unwrap();
                timeout(PATIENCE, socket.next())
                    .await
                    .unwrap()
                    .unwrap()
                    .is_ok()
            }
        }
    }
}

/// SUB-23: what is open ends when a secret of its own changes, and not with another one of the
/// same host.
#[tokio::test]
async fn sub_23_an_exchange_ends_for_its_own_secret_alone() {
    let both = |key: &str, other, state| {
        vec![
            secret("KEY", 0xa7, key, SecretState::Active),
            secret("OTHER", 0x11, other, state),
        ]
    };
    let (old, new) = ("another-value-of-a-secret", "a-newer-value-of-a-secret");
    let changes = [
        (
            "OTHER rotated",
            both(CANARY, new, SecretState::Active),
            false,
        ),
        (
            "OTHER revoked",
            both(CANARY, old, SecretState::Revoked),
            false,
        ),
        (
            "KEY rotated",
            both("the-new-value-of-the-key", old, SecretState::Active),
            true,
        ),
    ];
    for what in ["response", "upload", "socket"] {
        for (change, after, ends) in &changes {
            let rig = Rig::new(policy(|document| {
                document["secrets"] = json!({
                    "KEY": {"hosts": ["good.test"], "in": ["header", "json"]},
                    "OTHER": {"hosts": ["good.test"]},
                });
            }))
            .await;
            rig.replace_all(&rig.document, &both(CANARY, old, SecretState::Active), 2);
            let mut open = Open::begin(&rig, what).await;
            rig.replace_all(&rig.document, after, 3);
            if *ends {
                let ended = timeout(GRACE, open.ended()).await;
                assert!(ended.is_ok(), "{what}: {change}");
            } else {
                // The proxy has seen the change when it has answered another request.
                let answer = rig
                    .talk_tls("GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
                    .await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{what}: {answer}");
                assert!(open.goes_on().await, "{what}: {change}");
                drop(open);
            }
            let records = rig.finish(1 + usize::from(!ends)).await;
            let is_ended = |record: &Value| record["err"] == "secrets_changed";
            assert_eq!(records.iter().any(is_ended), *ends, "{what}: {change}");
        }
    }
}

/// SUB-23: a value that is revoked after it was written into a request, and before that is
/// sent, is not sent.
#[tokio::test]
async fn sub_23_a_value_that_is_revoked_before_its_request_is_sent_is_not_sent() {
    let upgrade = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let close = "Connection: close\r\n";
    for (path, headers, state, generation, expected) in [
        ("/", close, SecretState::Active, 1, 200),
        ("/", close, SecretState::Revoked, 2, 403),
        ("/socket", upgrade, SecretState::Revoked, 2, 403),
    ] {
        let rig = Rig::usual().await;
        let mut stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        // It waits between the two, until there is room for its record.
        let records = fill_records(&rig);
        let mut room: Vec<_> = std::iter::from_fn(|| rig.sandbox.admit_request()).collect();
        room.pop();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: good.test\r\nX-Key: {}\r\n{headers}\r\n",
            rig.placeholder
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let is_under_way = async {
            while rig.sandbox.admit_request().is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, is_under_way).await.unwrap();
        rig.replace(&rig.document, state, generation);
        tokio::task::yield_now().await;
        records.into_iter().for_each(Draft::discard);
        let answer = rig.read(stream).await;
        assert_eq!(status(&answer), expected, "{path}: {answer}");
        let is_sent = state == SecretState::Active;
        assert_eq!(rig.origin.lines().len(), usize::from(is_sent), "{path}");
        let records = rig.finish(1).await;
        if !is_sent {
            assert!(answer.contains("secrets_changed"), "{path}: {answer}");
            assert_eq!(records[0]["reason"], "secrets_changed", "{path}");
        }
    }
}

/// Takes all room for records.
fn fill_records(rig: &Rig) -> Vec<Draft> {
    let nowhere = std::net::SocketAddr::from(([0; 4], 0));
    let facts = rig.sandbox.flow_facts(nowhere, nowhere, None);
    let mut records = Vec::new();
    loop {
        let mut draft = rig.sandbox.begin_record(&facts, "tcp");
        if unconstrained(draft.keep()).now_or_never().is_none() {
            draft.discard();
            return records;
        }
        records.push(draft);
    }
}

/// REF-10: what is given while a response flows is searched for in the rest of it, beside
/// what was searched for from the beginning.
#[tokio::test]
async fn ref_10_a_response_is_searched_for_what_came_later() {
    let rig = Rig::usual().await;
    let mut sender = rig.connect_http2("good.test").await;
    let (send, pieces) = pieces();
    let request = Request::post("https://good.test/grpc")
        .header("content-type", "application/grpc")
        .body(pieces)
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request));
    let mut body = response.await.unwrap().unwrap().into_body();
    let newer = "another-value-of-a-secret";
    for round in 1..=3 {
        // The host returns each piece as it comes.
        send.send(format!("<{CANARY}|{newer}>").into())
            .await
            .unwrap();
        let seen = next_piece(&mut body).await;
        assert!(!contains(&seen, CANARY.as_bytes()), "{round}");
        assert_eq!(contains(&seen, newer.as_bytes()), round == 1, "{round}");
        rig.seen.lock().extend_from_slice(&seen);
        let mut document = rig.document.clone();
        document["secrets"]["OTHER"] = json!({"hosts": ["good.test"]});
        let mut held = held(SecretState::Active);
        held.push(secret("OTHER", 0x11, newer, SecretState::Active));
        rig.replace_all(&document, &held, 1 + round);
    }
    drop(send);
    while let Some(Ok(_)) = timeout(PATIENCE, body.frame()).await.unwrap() {}
    drop((body, sender));
    rig.finish(1).await;
}

/// NET-15: however often the policy changes while a response flows, it ends only when its
/// secrets change as often.
#[tokio::test]
async fn net_15_a_response_outlives_changes_of_the_policy_alone() {
    let rig = Rig::usual().await;
    let mut sender = rig.connect_http2("good.test").await;
    let (send, pieces) = pieces();
    let request = Request::post("https://good.test/grpc")
        .header("content-type", "application/grpc")
        .body(pieces)
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request));
    let mut body = response.await.unwrap().unwrap().into_body();
    for round in 2..=20 {
        let mut document = rig.document.clone();
        document["generation"] = json!(round);
        rig.replace(&document, SecretState::Active, 1);
        // The host returns each piece as it comes.
        send.send(format!("<{CANARY}>").into()).await.unwrap();
        let seen = next_piece(&mut body).await;
        rig.seen.lock().extend_from_slice(&seen);
    }
    drop(send);
    while let Some(Ok(_)) = timeout(PATIENCE, body.frame()).await.unwrap() {}
    drop((body, sender));
    rig.finish(1).await;
}

/// REF-10: a response of a sandbox that had no secret ends when it gets one: it was promised
/// unchanged and cannot be searched any more.
#[tokio::test]
async fn ref_10_what_was_promised_unchanged_ends_when_it_has_to_be_searched() {
    let rig = Rig::new(policy(|document| document["secrets"] = json!({}))).await;
    let mut sender = rig.connect_http2("good.test").await;
    let (send, pieces) = pieces();
    let request = Request::post("https://good.test/grpc").body(pieces);
    let response = timeout(PATIENCE, sender.send_request(request.unwrap()));
    let mut body = response.await.unwrap().unwrap().into_body();
    send.send("before".into()).await.unwrap();
    let frame = timeout(PATIENCE, body.frame()).await.unwrap();
    assert_eq!(frame.unwrap().unwrap().data_ref().unwrap(), "before");
    rig.replace(&policy(|_| {}), SecretState::Active, 2);
    send.send("after".into()).await.unwrap();
    let frame = timeout(PATIENCE, body.frame()).await.unwrap();
    assert!(frame.unwrap().is_err());
    drop((send, body, sender));
    let records = rig.finish(1).await;
    assert_eq!(records[0]["err"], "secrets_changed");
}

/// What of an answer ends with `>`.
async fn next_piece(body: &mut Incoming) -> Vec<u8> {
    let mut seen = Vec::new();
    while !seen.ends_with(b">") {
        let frame = timeout(PATIENCE, body.frame()).await.unwrap();
        seen.extend_from_slice(frame.unwrap().unwrap().data_ref().unwrap());
    }
    seen
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
