//! SUB-*: where values get into requests, on the wire.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    origin::encode,
    rig::{CANARY, PATIENCE, Rig, policy, secret, status},
};
use crate::rules::SecretState;

const SLOTS: [&str; 8] = [
    "header",
    "query",
    "path",
    "json",
    "form",
    "text",
    "multipart",
    "websocket",
];

async fn rig_with(slots: &[&str]) -> Rig {
    Rig::new(policy(|document| {
        document["secrets"]["KEY"]["in"] = json!(slots);
    }))
    .await
}

/// A request with a body, or without.
fn request(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n{headers}{length}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn percent(text: &str) -> String {
    let write = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(write).collect()
}

/// A place in a request, with `{}` where the placeholder stands and `{basic}` where it stands
/// in a token.
struct Place {
    slot: &'static str,
    target: String,
    headers: String,
    body: String,
    /// What arrives for the placeholder.
    written: String,
}

impl Place {
    fn new(slot: &'static str, target: &str, headers: &str, body: &str, written: &str) -> Self {
        let [target, headers, body, written] = [target, headers, body, written].map(str::to_owned);
        Self {
            slot,
            target,
            headers,
            body,
            written,
        }
    }

    /// Sends it with one slot on, and checks what arrives.
    async fn check(&self, on: &str) {
        let Self {
            slot,
            target,
            headers,
            body,
            ..
        } = self;
        let rig = rig_with(&[on]).await;
        let guest = |text: &str| fill(text, &rig.placeholder, &rig.placeholder);
        let sent = request(&guest(target), &guest(headers), guest(body).as_bytes());
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let answer = rig.talk(stream, &sent).await;
        assert_eq!(status(&answer), 200, "{slot} {on}: {answer}");
        let arrived = rig.origin.last();
        let is_on = *slot == on;
        let host = |text: &str| {
            if is_on {
                fill(text, &self.written, CANARY)
            } else {
                guest(text)
            }
        };
        let line = arrived.line.split_once(' ').unwrap().1;
        assert_eq!(line, host(target), "{slot} {on}");
        assert_eq!(
            String::from_utf8_lossy(&arrived.body),
            host(body),
            "{slot} {on}"
        );
        if let Some((name, expected)) = host(headers).trim_end().split_once(": ") {
            assert_eq!(arrived.headers[name], expected, "{slot} {on}");
        }
        if !body.is_empty() {
            let length = host(body).len().to_string();
            assert_eq!(arrived.headers["content-length"], length);
        }
        let records = rig.finish(1).await;
        let is_used = records[0]["secrets"].is_array();
        assert_eq!(is_used, is_on, "{slot} {on}: {records:?}");
    }
}

fn fill(text: &str, plain: &str, in_token: &str) -> String {
    use base64::Engine as _;
    let token = base64::engine::general_purpose::STANDARD.encode(format!("user:{in_token}"));
    text.replace("{basic}", &token).replace("{}", plain)
}

fn places() -> Vec<Place> {
    let multipart = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}\r\n--b--\r\n";
    let typed = |kind: &str| format!("Content-Type: {kind}\r\n");
    vec![
        Place::new("header", "/", "X-Key: a {} b\r\n", "", CANARY),
        Place::new(
            "header",
            "/",
            "Authorization: Basic {basic}\r\n",
            "",
            CANARY,
        ),
        Place::new("query", "/?a=1&key={}&b=%20", "", "", &percent(CANARY)),
        Place::new("path", "/bot{}/send", "", "", &percent(CANARY)),
        Place::new(
            "json",
            "/",
            &typed("application/json"),
            "{\"a\":[\"x{}y\"]}",
            &CANARY.replace('"', "\\\""),
        ),
        Place::new(
            "form",
            "/",
            &typed("application/x-www-form-urlencoded"),
            "a=1&b={}",
            &percent(CANARY),
        ),
        Place::new("text", "/", &typed("text/plain"), "x {} y", CANARY),
        Place::new(
            "multipart",
            "/",
            &typed("multipart/form-data; boundary=b"),
            multipart,
            CANARY,
        ),
    ]
}

/// SUB-02, SUB-04, SUB-05, SUB-06, SUB-07, SUB-17: a value is written where its slot is on,
/// in the way of that place, and nowhere else.
#[tokio::test]
async fn sub_04_05_06_07_each_slot_is_its_own() {
    for place in places() {
        for on in SLOTS {
            place.check(on).await;
        }
    }
}

/// SUB-08: many places in one body, and none.
#[tokio::test]
async fn sub_08_lengths_are_right_however_often_a_value_stands_there() {
    for count in [0, 1, 2, 100] {
        let rig = rig_with(&["text"]).await;
        let body = format!("<{}>", format!("{} ", rig.placeholder).repeat(count));
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let sent = request("/", "Content-Type: text/plain\r\n", body.as_bytes());
        let answer = rig.talk(stream, &sent).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let arrived = rig.origin.last();
        let expected = body.replace(&rig.placeholder, CANARY);
        assert_eq!(String::from_utf8_lossy(&arrived.body), expected);
        assert_eq!(
            arrived.headers["content-length"],
            expected.len().to_string()
        );
        rig.finish(1).await;
    }
}

/// SUB-10: what is too long to be held flows without a length, and is whole.
#[tokio::test]
async fn sub_10_a_long_body_flows() {
    for host in ["good.test", "old.test"] {
        let rig = rig_with(&["text"]).await;
        let mut body = vec![b'.'; 9 << 20];
        body.splice(5 << 20..5 << 20, rig.placeholder.bytes());
        let stream = rig.connect_tls(host, &["http/1.1"]).await;
        let sent = request("/header", "Content-Type: text/plain\r\n", &body);
        let sent = String::from_utf8(sent).unwrap().replace("good.test", host);
        let (read, mut write) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            write.write_all(sent.as_bytes()).await.map(|()| write)
        });
        let answer = timeout(PATIENCE, rig.read(read)).await.unwrap();
        assert_eq!(status(&answer), 200, "{answer}");
        drop(sending.await);
        let arrived = rig.origin.last();
        assert_eq!(arrived.body.len(), (9 << 20) + CANARY.len());
        assert_eq!(arrived.body[5 << 20..][..CANARY.len()], *CANARY.as_bytes());
        assert!(!arrived.headers.contains_key("content-length"), "{host}");
        rig.finish(1).await;
    }
}

/// SUB-11: a body in a coding that is known is decoded and sent plain; another goes on as it
/// is, and so does one that only says that it is coded.
#[tokio::test]
async fn sub_11_coded_bodies() {
    for coding in ["gzip", "br", "zstd", "deflate", "gzip, br", "lzma", "lying"] {
        let rig = rig_with(&["json"]).await;
        let plain = format!("{{\"key\":\"{}\"}}", rig.placeholder).into_bytes();
        let (header, body) = match coding {
            "lying" => ("gzip", plain.clone()),
            "lzma" => ("lzma", plain.clone()),
            "gzip, br" => (coding, encode("br", &encode("gzip", &plain))),
            _ => (coding, encode(coding, &plain)),
        };
        let headers = format!("Content-Type: application/json\r\nContent-Encoding: {header}\r\n");
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let answer = rig.talk(stream, &request("/", &headers, &body)).await;
        assert_eq!(status(&answer), 200, "{coding}: {answer}");
        let arrived = rig.origin.last();
        if matches!(coding, "lying" | "lzma") {
            assert_eq!(arrived.body, body, "{coding}");
            assert_eq!(arrived.headers["content-encoding"], header);
        } else {
            let value: Value = serde_json::from_slice(&arrived.body).unwrap();
            assert_eq!(value["key"], CANARY, "{coding}");
            assert!(
                !arrived.headers.contains_key("content-encoding"),
                "{coding}"
            );
            assert_eq!(
                arrived.headers["content-length"],
                arrived.body.len().to_string()
            );
        }
        rig.finish(1).await;
    }
}

/// SUB-12: a digest that would be wrong is not sent.
#[tokio::test]
async fn sub_12_a_digest_is_never_stale() {
    for header in [
        "Content-MD5: eB5eJF1ptWaXm4bijSPyxw==",
        "Digest: SHA-256=x",
        "Repr-Digest: sha-256=:x:",
        "Content-Digest: sha-256=:x:",
        "X-Amz-Content-Sha256: 44136fa3",
        "X-Amz-Checksum-Crc32: x",
        "X-Goog-Hash: crc32c=x",
    ] {
        for (with_placeholder, expected) in [(true, 422), (false, 200)] {
            let rig = rig_with(&["json"]).await;
            let text = if with_placeholder {
                rig.placeholder.as_str()
            } else {
                "plain"
            };
            let body = format!("{{\"key\":\"{text}\"}}");
            let headers = format!("Content-Type: application/json\r\n{header}\r\n");
            let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
            let answer = rig
                .talk(stream, &request("/", &headers, body.as_bytes()))
                .await;
            assert_eq!(status(&answer), expected, "{header}: {answer}");
            assert_eq!(rig.origin.lines().len(), usize::from(!with_placeholder));
            rig.finish(1).await;
        }
    }
}

/// SUB-13: methods without bodies stay so, and preflights and ranges go through.
#[tokio::test]
async fn sub_13_other_methods_are_as_they_were() {
    for (method, target, body_len) in [
        ("HEAD", "/", Some(0)),
        ("OPTIONS", "/", None),
        ("OPTIONS", "*", None),
        ("DELETE", "/", None),
        ("PROPFIND", "/", None),
    ] {
        let rig = Rig::usual().await;
        let sent = format!(
            "{method} {target} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nX-Key: {}\r\n\r\n",
            rig.placeholder
        );
        let answer = rig.talk_tls(&sent).await;
        assert_eq!(status(&answer), 200, "{method}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(
            body_len.is_none_or(|len| body.len() == len),
            "{method} {answer}"
        );
        let arrived = rig.origin.last();
        assert!(arrived.line.starts_with(method), "{}", arrived.line);
        assert_eq!(arrived.headers["x-key"], CANARY);
        assert!(arrived.body.is_empty() && !arrived.headers.contains_key("transfer-encoding"));
        rig.finish(1).await;
    }
}

/// SUB-14: a message in pieces is one, and where the slot is off it arrives as it was.
#[tokio::test]
async fn sub_14_a_message_in_pieces() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::{
        Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    };
    for (slot, is_on) in [("websocket", true), ("header", false)] {
        let rig = rig_with(&[slot]).await;
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let (mut socket, _) = tokio_tungstenite::client_async("wss://good.test/socket", stream)
            .await
            .unwrap();
        let text = format!("say {}!", rig.placeholder);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(7).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let code = if index == 0 {
                Data::Text
            } else {
                Data::Continue
            };
            let is_last = index + 1 == pieces.len();
            let frame = Frame::message(Bytes::copy_from_slice(piece), OpCode::Data(code), is_last);
            socket.send(Message::Frame(frame)).await.unwrap();
            // A ping in between is allowed (RFC 6455, section 5.4).
            socket.send(Message::Ping(Bytes::new())).await.unwrap();
        }
        let reply = loop {
            let message = timeout(PATIENCE, socket.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            if let Message::Text(text) = message {
                break text;
            }
        };
        rig.seen.lock().extend_from_slice(reply.as_bytes());
        assert_eq!(reply, format!("got say {0}! and {0}", rig.placeholder));
        drop(socket);
        let records = rig.finish(1).await;
        assert_eq!(records[0]["secrets"].is_array(), is_on, "{records:?}");
    }
}

/// SUB-17: no value in names, methods, trailers, extensions of chunks and headers that are
/// echoed or logged.
#[tokio::test]
async fn sub_17_places_that_never_get_a_value() {
    let rig = rig_with(&SLOTS).await;
    let own = &rig.placeholder;
    let chunked = format!(
        "POST /?{own}=1 HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\nUser-Agent: {own}\r\nReferer: https://x.test/{own}\r\nX-Request-Id: {own}\r\nTraceparent: {own}\r\nX-{own}: 1\r\nTrailer: X-Late\r\n\r\n3;ext={own}\r\nabc\r\n0\r\nX-Late: {own}\r\n\r\n"
    );
    let answer = rig.talk_tls(&chunked).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let read = rig.origin.read.lock().concat();
    assert!(
        !read
            .windows(CANARY.len())
            .any(|part| part == CANARY.as_bytes())
    );
    let arrived = rig.origin.last();
    assert!(arrived.line.contains(own.as_str()), "{}", arrived.line);
    for name in ["user-agent", "x-request-id", "traceparent"] {
        assert_eq!(arrived.headers[name], own.as_str(), "{name}");
    }
    assert_eq!(arrived.body, b"abc");
    rig.finish(1).await;
    // A method that is a placeholder.
    let rig = rig_with(&SLOTS).await;
    let sent = format!(
        "{} / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n",
        rig.placeholder
    );
    let answer = rig.talk_tls(&sent).await;
    assert!(matches!(status(&answer), 200 | 400 | 0), "{answer}");
    assert!(
        rig.origin
            .lines()
            .iter()
            .all(|line| line.starts_with(&rig.placeholder))
    );
    rig.finish(1).await;
}

/// SUB-18, SUB-03: what another sandbox was given is a text here, and so is an own
/// placeholder for another host.
#[tokio::test]
async fn sub_18_a_placeholder_of_another_sandbox_is_a_text() {
    let rig = Rig::usual().await;
    let others = secret("KEY", 0x5b, CANARY, SecretState::Active)
        .placeholder
        .to_string();
    let sent = request("/", &format!("X-Key: {others}\r\n"), b"");
    let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let answer = rig.talk(stream, &sent).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(rig.origin.last().headers["x-key"], others);
    let stream = rig.connect_tls("one.wild.test", &["http/1.1"]).await;
    let sent = request("/", &format!("X-Key: {}\r\n", rig.placeholder), b"");
    let sent = String::from_utf8(sent)
        .unwrap()
        .replace("good.test", "one.wild.test");
    let answer = rig.talk(stream, sent.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(rig.origin.last().headers["x-key"], rig.placeholder.as_str());
    let records = rig.finish(2).await;
    let reasons = [0, 1].map(|at| records[at]["ineligible"][0]["reason"].clone());
    assert_eq!(reasons, [json!("foreign_placeholder"), json!("host")]);
}

/// SUB-23, HTTP-26: on one connection the next request has the new value, and none after it
/// was revoked.
#[tokio::test]
async fn sub_23_the_next_request_has_the_new_value() {
    let rig = Rig::usual().await;
    let mut sender = rig.connect_http2("good.test").await;
    let newer = "the-new-value-of-the-key";
    for (generation, value, state, expected) in [
        (1, CANARY, SecretState::Active, Some(CANARY)),
        (2, newer, SecretState::Active, Some(newer)),
        (3, newer, SecretState::Revoked, None),
    ] {
        rig.replace_all(
            &rig.document,
            &[secret("KEY", 0xa7, value, state)],
            generation,
        );
        let request = Request::get("https://good.test/")
            .header("x-key", &rig.placeholder)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        match expected {
            Some(value) => assert_eq!(rig.origin.last().headers["x-key"], value),
            None => assert_eq!(response.status(), 403),
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(
            !body
                .windows(value.len())
                .any(|part| part == value.as_bytes())
        );
    }
    assert_eq!(rig.origin.lines().len(), 2);
    drop(sender);
    rig.finish(3).await;
}
