//! NET-18: what one sandbox may take of everything, and of everybody's time.

use std::{
    net::Ipv4Addr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    origin::encode,
    rig::{PATIENCE, Rig, policy, status},
};
use crate::{
    registry::{Arrivals, accept},
    sandbox::{BUFFERS_KIB, CONNECTIONS_MAX, DECODERS_KIB, REQUESTS_MAX, WEBSOCKETS_MAX},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n";
const SOCKET: &str = "GET /socket HTTP/1.1\r\nHost: good.test\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// NET-18: a connection beyond the limit is reset, and other sandboxes notice nothing.
#[tokio::test]
async fn net_18_connections_have_a_limit() {
    let rig = Rig::usual().await;
    let other = rig.beside();
    let held: Vec<_> = std::iter::from_fn(|| rig.sandbox.admit()).collect();
    assert_eq!(held.len(), CONNECTIONS_MAX);
    let mut stream = rig.connect("good.test", 443).await;
    let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(other.admit().is_some());
    drop(held);
    let answer = rig.talk_tls(GET).await;
    assert_eq!(status(&answer), 200, "{answer}");
    other.close().await;
    let records = rig.finish(2).await;
    assert_eq!(records[0]["reason"], "too_many_connections");
}

/// NET-18: requests and `WebSocket`s beyond the limit are refused; what has ended, whichever
/// way, gives its place back.
#[tokio::test]
async fn net_18_requests_have_a_limit_and_give_their_place_back() {
    let rig = Rig::usual().await;
    let requests: Vec<_> = std::iter::from_fn(|| rig.sandbox.admit_request()).collect();
    assert_eq!(requests.len(), REQUESTS_MAX);
    let answer = rig.talk_tls(GET).await;
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(answer.contains("too_many_requests"), "{answer}");
    drop(requests);
    let sockets: Vec<_> = std::iter::from_fn(|| rig.sandbox.admit_websocket()).collect();
    assert_eq!(sockets.len(), WEBSOCKETS_MAX);
    let answer = rig.talk_tls(SOCKET).await;
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(answer.contains("too_many_websockets"), "{answer}");
    drop(sockets);
    for request in [
        GET.to_owned(),
        GET.replace("GET /", "HEAD /"),
        GET.replace("good.test", "bad.test"),
        GET.replace("GET /", "GET /coded/gzip"),
        GET.replace("GET /", "GET /unknown-coding"),
        GET.replace("GET /", "GET /upgrade"),
    ] {
        let answer = rig.talk_tls(&request).await;
        assert_ne!(status(&answer), 429, "{answer}");
    }
    // One that is broken off in the middle of a response without an end.
    let mut stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let events = GET.replace("GET /", "GET /events");
    stream.write_all(events.as_bytes()).await.unwrap();
    timeout(PATIENCE, stream.read(&mut [0; 64]))
        .await
        .unwrap()
        .unwrap();
    // And a WebSocket.
    let mut socket = rig.connect_tls("good.test", &["http/1.1"]).await;
    socket.write_all(SOCKET.as_bytes()).await.unwrap();
    timeout(PATIENCE, socket.read(&mut [0; 64]))
        .await
        .unwrap()
        .unwrap();
    drop((stream, socket));
    let sandbox = Arc::clone(&rig.sandbox);
    rig.finish(10).await;
    let room: Vec<_> = std::iter::from_fn(|| sandbox.admit_request()).collect();
    assert_eq!(room.len(), REQUESTS_MAX);
    let room: Vec<_> = std::iter::from_fn(|| sandbox.admit_websocket()).collect();
    assert_eq!(room.len(), WEBSOCKETS_MAX);
    let room: Vec<_> = std::iter::from_fn(|| sandbox.admit()).collect();
    assert_eq!(room.len(), CONNECTIONS_MAX);
}

/// NET-18: bodies that are read whole have room together, and wait for it for a while.
#[tokio::test]
async fn net_18_bodies_have_room_together() {
    let all = u64::from(BUFFERS_KIB) * 1024;
    let body = r#"{"a":1}"#;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for (id, change) in [
        (
            "for a rule",
            json!({"net": {"rules": [{"id": "r", "host": "good.test", "json": {"/a": {"equals": 1}}}]}}),
        ),
        (
            "for a secret",
            json!({"secrets": {"KEY": {"hosts": ["good.test"], "in": ["json"]}}}),
        ),
    ] {
        let rig = Rig::new(policy(|document| {
            for (key, value) in change.as_object().unwrap() {
                document[key] = value.clone();
            }
        }))
        .await;
        let held = rig.sandbox.reserve_buffer(all).await.unwrap();
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        tokio::time::pause();
        let answer = read_all(stream, request.as_bytes()).await;
        tokio::time::resume();
        assert_eq!(status(&answer), 503, "{id}: {answer}");
        assert!(answer.contains("too_many_bodies"), "{id}: {answer}");
        drop(held);
        let answer = rig.talk_tls(&request).await;
        assert_eq!(status(&answer), 200, "{id}: {answer}");
        let sandbox = Arc::clone(&rig.sandbox);
        rig.finish(2).await;
        let again = timeout(PATIENCE, sandbox.reserve_buffer(all)).await;
        assert!(again.unwrap().is_some(), "{id}: room was not given back");
    }
}

/// NET-18: decoders have room together, and wait for it for a while.
#[tokio::test]
async fn net_18_decoders_have_room_together() {
    for coding in ["gzip", "br", "zstd"] {
        let rig = Rig::usual().await;
        let request = GET.replace("GET /", &format!("GET /coded/{coding}"));
        let held = rig.sandbox.reserve_decoders(DECODERS_KIB).await.unwrap();
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        tokio::time::pause();
        let answer = read_all(stream, request.as_bytes()).await;
        tokio::time::resume();
        assert_eq!(status(&answer), 503, "{coding}: {answer}");
        assert!(answer.contains("too_many_compressed"), "{coding}: {answer}");
        // What is not coded needs none.
        let answer = rig.talk_tls(GET).await;
        assert_eq!(status(&answer), 200, "{coding}: {answer}");
        drop(held);
        let answer = rig.talk_tls(&request).await;
        assert_eq!(status(&answer), 200, "{coding}: {answer}");
        let sandbox = Arc::clone(&rig.sandbox);
        let records = rig.finish(3).await;
        assert_eq!(records[0]["reason"], "too_many_compressed", "{coding}");
        let again = timeout(PATIENCE, sandbox.reserve_decoders(DECODERS_KIB)).await;
        assert!(
            again.unwrap().is_some(),
            "{coding}: room was not given back"
        );
    }
}

/// HTTP-24: a body that decodes to far more than it has is refused, read whole or not.
#[tokio::test]
async fn http_24_a_body_that_grows_too_much_is_refused() {
    let body = encode("gzip", format!("\"{}\"", "a".repeat(6 << 20)).as_bytes());
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    let chunk = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    for (framing, end) in [(length, ""), (chunk, "\r\n0\r\n\r\n")] {
        let secret = json!({"KEY": {"hosts": ["good.test"], "in": ["json"]}});
        let rig = Rig::new(policy(|document| document["secrets"] = secret)).await;
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n{framing}"
        );
        let request = [head.as_bytes(), &body, end.as_bytes()].concat();
        let answer = rig.talk(stream, &request).await;
        assert_eq!(status(&answer), 413, "{framing}: {answer}");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["reason"], "body_too_dense", "{framing}");
    }
}

/// NET-18: a body that is coded has room for what it may become, however short it is.
#[tokio::test]
async fn net_18_a_coded_body_has_room_for_what_it_becomes() {
    let all = u64::from(BUFFERS_KIB) * 1024;
    let plain = b"{\"a\":1}".as_slice();
    let brotli = b"\x0b\x03\x80{\"a\":1}\x03".as_slice();
    let json_secret = json!({"KEY": {"hosts": ["good.test"], "in": ["json"]}});
    let json_rule =
        json!({"rules": [{"id": "r", "host": "good.test", "json": {"/a": {"equals": 1}}}]});
    for (coding, body, taken, expected) in [
        ("identity", plain, all - 1024, 200),
        ("br", brotli, 0, 200),
        ("br", brotli, all - 1024, 503),
    ] {
        for (key, value) in [("secrets", &json_secret), ("net", &json_rule)] {
            let rig = Rig::new(policy(|document| document[key] = value.clone())).await;
            let held = rig.sandbox.reserve_buffer(taken).await.unwrap();
            let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
            let head = format!(
                "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            tokio::time::pause();
            let answer = read_all(stream, &[head.as_bytes(), body].concat()).await;
            tokio::time::resume();
            assert_eq!(status(&answer), expected, "{key} {coding}: {answer}");
            drop(held);
            rig.finish(1).await;
        }
    }
}

/// Sends and reads to the end, however long that takes on a clock that nobody waits for.
async fn read_all<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    drop(stream.write_all(bytes).await);
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len) = stream.read(&mut chunk).await
        && len > 0
    {
        read.extend_from_slice(&chunk[..len]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// NET-18: whoever is silent at any step is not waited for longer than the step may take.
#[tokio::test]
async fn net_18_the_slow_are_not_waited_for() {
    let slow_body = "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 10\r\n\r\nab";
    let plain = |text: &'static str| text.replace("good.test", "plain.test");
    for (id, name, port, sent, reason) in [
        ("nothing", "plain.test", 80, String::new(), "silent"),
        ("half a word", "plain.test", 80, "GE".to_owned(), "silent"),
        (
            "half a head",
            "plain.test",
            80,
            plain("GET / HTTP/1.1\r\nHost: good.test\r\n"),
            "head_timeout",
        ),
        (
            "half a body",
            "plain.test",
            80,
            plain(slow_body),
            "request_body",
        ),
        (
            "half a hello",
            "good.test",
            443,
            "\x16\x03\x01\x02\x00\x01\x00".to_owned(),
            "tls_hello",
        ),
    ] {
        let rig = Rig::usual().await;
        let stream = rig.connect(name, port).await;
        tokio::time::pause();
        let answer = read_all(stream, sent.as_bytes()).await;
        tokio::time::resume();
        assert!(matches!(status(&answer), 0 | 400 | 408), "{id}: {answer}");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["reason"], reason, "{id}: {records:?}");
        assert_eq!(records[0]["decision"], "deny", "{id}");
    }
}

/// NET-18: nor is a guest that is silent in a body that a rule wants to see.
#[tokio::test]
async fn net_18_the_slow_are_not_waited_for_where_a_rule_reads_the_body() {
    let rules = json!({"rules": [{"id": "r", "host": "good.test", "json": {"/a": {"equals": 1}}}]});
    let rig = Rig::new(policy(|document| document["net"] = rules)).await;
    let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let half = "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\"";
    tokio::time::pause();
    let read = timeout(Duration::from_mins(10), read_all(stream, half.as_bytes())).await;
    tokio::time::resume();
    let answer = read.expect("it is waited for");
    assert_eq!(status(&answer), 400, "{answer}");
    let records = rig.finish(1).await;
    assert_eq!(records[0]["reason"], "request_body");
}

/// NET-18: the same inside TLS, where nothing or half a request comes.
#[tokio::test]
async fn net_18_the_slow_are_not_waited_for_inside_tls() {
    for (alpn, sent) in [
        ("http/1.1", ""),
        ("http/1.1", "GET / HT"),
        (
            "http/1.1",
            "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 10\r\n\r\nab",
        ),
        ("h2", ""),
        ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let rig = Rig::usual().await;
        let stream = rig.connect_tls("good.test", &[alpn]).await;
        tokio::time::pause();
        read_all(stream, sent.as_bytes()).await;
        tokio::time::resume();
        rig.finish(1).await;
    }
}

/// NET-18: a guest that reads nothing of its response is not in the way of anybody, and a
/// body in single bytes is carried as long as it moves.
#[tokio::test]
async fn net_18_a_slow_body_is_carried() {
    let rig = Rig::usual().await;
    let mut stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let head =
        "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Length: 20\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let arrived = || rig.origin.read.lock().iter().map(Vec::len).sum::<usize>();
    // The clock stands still only when the host has the head.
    stream.write_all(b"x").await.unwrap();
    while !rig
        .origin
        .read
        .lock()
        .iter()
        .any(|read| read.ends_with(b"x"))
    {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    for _ in 1..20 {
        tokio::time::advance(Duration::from_secs(10)).await;
        let before = arrived();
        stream.write_all(b"x").await.unwrap();
        while arrived() == before {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    let answer = read_all(stream, b"").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(rig.origin.last().body, [b'x'; 20]);
    rig.finish(1).await;
}

/// NET-18: accepting fails when a process has no descriptor left. It is tried again.
#[tokio::test]
async fn net_18_accepting_goes_on_after_it_failed() {
    let rig = Rig::usual().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let arrivals = Arrivals::Scarce(listener, AtomicUsize::new(3));
    let accepting = accept(Arc::clone(&rig.sandbox), arrivals);
    rig.sandbox.tasks.spawn(accepting);
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Its own address is where it leads, which no list opens.
    let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await;
    assert!(matches!(read.expect("not accepted"), Ok(0) | Err(_)));
    drop(stream);
    let records = rig.finish(1).await;
    assert_eq!(records[0]["decision"], "deny");
}
