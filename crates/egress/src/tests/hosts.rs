//! What hosts answer: framing that does not hold, upgrades that were not asked for, ways to
//! elsewhere; and which connections to them requests share.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::rig::{CANARY, PATIENCE, Rig, policy, secret, status};
use crate::{flow, rules::SecretState, sandbox::Sandbox};

/// HTTP-23, HTTP-13, HTTP-14: whatever a host answers, the guest sees one response in valid
/// framing, and none that the host put into another.
#[tokio::test]
async fn http_23_one_response_for_a_request_whatever_the_host_sends() {
    let second = "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 2\r\n\r\nhi";
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let splits = "HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok";
    for (id, method, answer, expected, body) in [
        ("as it should be", "GET", plain.to_owned(), 200, "ok"),
        ("1xx", "GET", format!("{}{plain}", interim.repeat(50)), 200, "ok"),
        ("1xx without end", "GET", interim.repeat(100_000), 502, ""),
        ("two answers", "GET", format!("{plain}{second}"), 200, "ok"),
        ("204 with a body", "GET", format!("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello{second}"), 204, ""),
        ("304 with a body", "GET", format!("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\nhello{second}"), 304, ""),
        ("HEAD with a body", "HEAD", format!("{plain}{second}"), 200, ""),
        ("two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk".to_owned(), 502, ""),
        ("no length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok".to_owned(), 502, ""),
        ("bare CR", "GET", splits.to_owned(), 502, ""),
        ("NUL", "GET", "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502, ""),
        ("no status", "GET", "HTTP/1.1 OK\r\n\r\n".to_owned(), 502, ""),
        ("another protocol", "GET", "SSH-2.0-OpenSSH_9.9\r\n".to_owned(), 502, ""),
        ("nothing", "GET", String::new(), 502, ""),
        ("a long head", "GET", format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "b".repeat(200_000)), 502, ""),
        ("many headers", "GET", format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(2000)), 502, ""),
        ("HTTP-13 an upgrade", "GET", "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n".to_owned(), 502, ""),
        ("HTTP-14 a WebSocket", "GET", "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".to_owned(), 502, ""),
    ] {
        let rig = Rig::usual().await;
        *rig.origin.canned.lock() = answer.into_bytes();
        let stream = rig.connect("canned.test", 80).await;
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: canned.test\r\nConnection: close\r\n\r\n"
        );
        let seen = rig.talk(stream, request.as_bytes()).await;
        let final_at = seen.rfind("HTTP/1.1 ").unwrap();
        let last = &seen[final_at..];
        assert_eq!(status(last), expected, "{id}: {seen}");
        assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{id}: {seen}");
        let (head, rest) = last.split_once("\r\n\r\n").unwrap();
        assert!(!head.to_lowercase().contains("set-cookie"), "{id}: {seen}");
        assert!(!seen.contains("Smuggled"), "{id}: {seen}");
        assert!(rest.contains(body), "{id}: {seen}");
        if expected != 502 {
            assert_eq!(rest, body, "{id}: {seen}");
        }
        rig.finish(1).await;
    }
}

/// HTTP-14: the host must prove that it read the handshake (RFC 6455, section 4.1).
#[tokio::test]
async fn http_14_a_forged_handshake_is_refused() {
    let handshake = "GET / HTTP/1.1\r\nHost: canned.test\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let right = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    for (id, headers, expected) in [
        ("right", format!("{upgrade}{right}"), 101),
        ("none", upgrade.to_owned(), 502),
        (
            "wrong",
            format!("{upgrade}Sec-WebSocket-Accept: AAAA\r\n"),
            502,
        ),
        (
            "other",
            format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{right}"),
            502,
        ),
        (
            "an extension nobody asked for",
            format!("{upgrade}{right}Sec-WebSocket-Extensions: permessage-deflate\r\n"),
            502,
        ),
    ] {
        let rig = Rig::usual().await;
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n");
        *rig.origin.canned.lock() = answer.into_bytes();
        let stream = rig.connect("canned.test", 80).await;
        let seen = rig.talk(stream, handshake.as_bytes()).await;
        assert_eq!(status(&seen), expected, "{id}: {seen}");
        let read = String::from_utf8(rig.origin.read.lock().concat()).unwrap();
        assert!(!read.to_lowercase().contains("extensions"), "{id}: {read}");
        rig.finish(1).await;
    }
}

/// HTTP-14: after the handshake there are frames of a `WebSocket` and nothing else; what is
/// not one closes it with 1002.
#[tokio::test]
async fn http_14_bytes_that_are_no_frames_close() {
    let masked = |first: u8, payload: &[u8]| {
        let len = u8::try_from(payload.len()).unwrap();
        [&[first, 0x80 | len, 0, 0, 0, 0], payload].concat()
    };
    for (id, bytes) in [
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        (
            "HTTP",
            b"GET /admin HTTP/1.1\r\nHost: good.test\r\n\r\n".to_vec(),
        ),
        ("not masked", [&[0x81, 2][..], b"hi"].concat()),
        ("reserved bit", masked(0xc1, b"hi")),
        ("reserved code", masked(0x83, b"hi")),
        ("a continuation of nothing", masked(0x80, b"hi")),
        ("a ping in pieces", masked(0x09, b"hi")),
        ("not UTF-8", masked(0x81, b"\xff\xfe")),
        (
            "a long ping",
            [&[0x89, 0xfe, 0, 200, 0, 0, 0, 0][..], &[b'a'; 200]].concat(),
        ),
    ] {
        let rig = Rig::usual().await;
        let mut stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        stream.write_all(b"GET /socket HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{id}");
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        drop(
            timeout(PATIENCE, stream.read_to_end(&mut rest))
                .await
                .expect("it goes on"),
        );
        // A close frame: code 1002, or 1007 for what is not UTF-8 (RFC 6455, section 7.4.1).
        assert_eq!(rest.first(), Some(&0x88), "{id} {rest:?}");
        assert_eq!(rest.get(2..4), Some(&1002_u16.to_be_bytes()[..]), "{id}");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["err"], "websocket_protocol", "{id}");
    }
}

/// HTTP-19, REF-13: a redirect to elsewhere has no value in it, and elsewhere is closed.
#[tokio::test]
async fn http_19_a_redirect_leads_nowhere() {
    let rig = Rig::usual().await;
    let request = format!(
        "GET /redirect HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        rig.placeholder
    );
    let answer = rig.talk_tls(&request).await;
    assert_eq!(status(&answer), 302, "{answer}");
    let location = format!("location: http://evil.test/?t={}", rig.placeholder);
    assert!(answer.contains(&location), "{answer}");
    // The guest follows, by plain HTTP and with what it has.
    let stream = rig.connect("evil.test", 80).await;
    let request = request
        .replace("good.test", "evil.test")
        .replace("/redirect", &format!("/?t={}", rig.placeholder));
    let answer = rig.talk(stream, request.as_bytes()).await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert_eq!(rig.origin.lines(), ["GET /redirect"]);
    let records = rig.finish(2).await;
    assert_eq!(records[1]["decision"], "deny");
}

/// HTTP-20: bodies that a rule cannot read, or that two readers read differently, are denied.
#[tokio::test]
async fn http_20_a_rule_is_not_evaded_by_the_form_of_a_body() {
    let gzip = super::origin::encode("gzip", br#"{"model":"evil"}"#);
    let harmless = super::origin::encode("zstd", br#"{"model":"good"}"#);
    let long = format!(r#"{{"pad":"{}","model":"good"}}"#, "x".repeat(2 << 20));
    let bomb = super::origin::encode("gzip", &vec![b' '; 4 << 20]);
    for (id, headers, body, expected) in [
        ("good", "", br#"{"model":"good"}"#.to_vec(), 200),
        ("compressed", "Content-Encoding: zstd\r\n", harmless, 200),
        ("evil", "", br#"{"model":"evil"}"#.to_vec(), 403),
        (
            "twice",
            "",
            br#"{"model":"good","model":"evil"}"#.to_vec(),
            403,
        ),
        (
            "twice by case",
            "",
            br#"{"model":"good","Model":"evil"}"#.to_vec(),
            403,
        ),
        ("escaped", "", br#"{"\u006dodel":"evil"}"#.to_vec(), 403),
        (
            "mark",
            "",
            b"\xef\xbb\xbf{\"model\":\"good\"}".to_vec(),
            403,
        ),
        (
            "UTF-16",
            "",
            "{\"model\":\"good\"}"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect(),
            403,
        ),
        ("gzip", "Content-Encoding: gzip\r\n", gzip.clone(), 403),
        ("gzip that is not said", "", gzip, 403),
        (
            "unknown coding",
            "Content-Encoding: lzma\r\n",
            br#"{"model":"good"}"#.to_vec(),
            403,
        ),
        ("too long", "", long.into_bytes(), 403),
        ("bomb", "Content-Encoding: gzip\r\n", bomb, 403),
        (
            "two values",
            "",
            br#"{"model":"good"}{"model":"evil"}"#.to_vec(),
            403,
        ),
    ] {
        let rules = json!({"rules": [{"id": "r", "host": "good.test", "json": {"/model": {"equals": "good"}}}]});
        let rig = Rig::new(policy(|document| document["net"] = rules)).await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let answer = rig.talk(stream, &[head.as_bytes(), &body].concat()).await;
        assert_eq!(status(&answer), expected, "{id}: {answer}");
        let arrived = rig.origin.arrived.lock().clone();
        assert_eq!(arrived.len(), usize::from(expected == 200), "{id}");
        assert!(arrived.iter().all(|arrived| arrived.body == body), "{id}");
        rig.finish(1).await;
    }
}

/// HTTP-20: another type than the one a rule reads, with the same bytes.
#[tokio::test]
async fn http_20_a_rule_is_not_evaded_by_the_type_of_a_body() {
    let rules = json!({"rules": [{"id": "r", "host": "good.test", "json": {"/model": {"equals": "good"}}}]});
    let rig = Rig::new(policy(|document| document["net"] = rules)).await;
    let answer = rig.talk_tls("POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 16\r\n\r\n{\"model\":\"good\"}").await;
    assert_eq!(status(&answer), 403, "{answer}");
    rig.finish(1).await;
}

/// HTTP-22, HTTP-17: one account of a host that many have an account at, and reading alone.
#[tokio::test]
async fn http_22_a_rule_keeps_to_one_account() {
    for (line, headers, expected) in [
        ("GET /acme/repo", "", 200),
        ("GET /evil/repo", "", 403),
        ("GET /acme/../evil/repo", "", 403),
        ("GET /acme/%2e%2e/evil", "", 403),
        ("GET /acmex/repo", "", 403),
        ("PUT /acme/repo", "", 403),
        ("GET /acme/repo", "X-HTTP-Method-Override: DELETE\r\n", 403),
        ("GET /acme/repo?_method=DELETE", "", 403),
        ("get /acme/repo", "", 403),
    ] {
        let rules = json!({"rules": [{"id": "r", "host": "good.test", "method": "GET", "path": "/acme/**"}]});
        let rig = Rig::new(policy(|document| document["net"] = rules)).await;
        let request =
            format!("{line} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n{headers}\r\n");
        let answer = rig.talk_tls(&request).await;
        assert_eq!(status(&answer), expected, "{line} {headers}: {answer}");
        assert_eq!(rig.origin.lines().len(), usize::from(expected == 200));
        rig.finish(1).await;
    }
}

/// One request of a sandbox over TLS with HTTP/1.1.
async fn ask(sandbox: &Arc<Sandbox>, rig: &Rig) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (stream, source) = accepted.unwrap();
    let name = tombolo_policy::HostName::parse("old.test").unwrap();
    let now = sandbox.shared.clock.now();
    let found = sandbox.with_vips(|vips| vips.assign(&name, None, now));
    let original = (found.unwrap().v4, 443).into();
    let serve = flow::serve(Arc::clone(sandbox), stream, source, original);
    sandbox.tasks.spawn(serve);
    let mut config = rig.tls_config(&["http/1.1"]);
    let pem = sandbox.authority.certificate_pem();
    let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    config.dangerous().set_certificate_verifier(
        rustls::client::WebPkiServerVerifier::builder_with_provider(
            roots.into(),
            rustls::crypto::ring::default_provider().into(),
        )
        .build()
        .unwrap(),
    );
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("old.test").unwrap();
    let stream = connector.connect(name, client.unwrap()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "old.test");
    let response = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

/// HTTP-26, HTTP-27: connections to a host are used again by the same sandbox under the same
/// rules, and by nobody else.
#[tokio::test]
async fn http_26_27_connections_are_shared_with_nobody() {
    let rig = Rig::usual().await;
    let other = rig.beside();
    for sandbox in [&rig.sandbox, &rig.sandbox, &other, &rig.sandbox, &other] {
        assert_eq!(ask(sandbox, &rig).await, 200);
    }
    let mut document = rig.document.clone();
    document["generation"] = json!(2);
    rig.replace(&document, SecretState::Active, 1);
    assert_eq!(ask(&rig.sandbox, &rig).await, 200);
    rig.replace_all(
        &document,
        &[secret("KEY", 0xa7, CANARY, SecretState::Active)],
        2,
    );
    assert_eq!(ask(&rig.sandbox, &rig).await, 200);
    let arrived = rig.origin.arrived.lock().clone();
    let connections: Vec<_> = arrived.iter().map(|arrived| arrived.connection).collect();
    assert_eq!(connections, [0, 0, 1, 0, 1, 2, 3]);
    other.close().await;
    rig.finish(7).await;
}
