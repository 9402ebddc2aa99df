//! HTTP/2 written by hand, frame by frame (RFC 9113): what no client library would send.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::rig::{CANARY, PATIENCE, Rig, policy};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = len[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Literal fields without indexing (RFC 7541, section 6.2.2), not compressed.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.extend(integer(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(number: usize) -> Vec<u8> {
    if number < 127 {
        return vec![u8::try_from(number).unwrap()];
    }
    let mut rest = number - 127;
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

fn get(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "good.test"),
    ]
}

/// What became of a stream.
#[derive(Debug, Default)]
struct Outcome {
    body: Vec<u8>,
    is_answered: bool,
    /// `RST_STREAM` or `GOAWAY`, or the end of the connection.
    is_refused: bool,
}

struct Client<S> {
    stream: S,
}

impl Client<TlsStream<TcpStream>> {
    async fn new(rig: &Rig) -> Self {
        let mut stream = rig.connect_tls("good.test", &["h2"]).await;
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { stream }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// The connection may be gone, which is seen by reading.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        let written = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        written.expect("nobody reads").is_ok()
    }

    async fn read_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.stream.read_exact(&mut head))
            .await
            .expect("nothing comes")
            .ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        timeout(PATIENCE, self.stream.read_exact(&mut payload))
            .await
            .expect("half a frame")
            .ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        Some((head[3], head[4], stream, payload))
    }

    /// Reads until a stream has ended, whichever way.
    async fn outcome(&mut self, rig: &Rig, stream: u32) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let Some((kind, flags, at, payload)) = self.read_frame().await else {
                outcome.is_refused = true;
                return outcome;
            };
            rig.seen.lock().extend_from_slice(&payload);
            let is_end = at == stream && flags & END_STREAM != 0;
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    self.send(&frame(SETTINGS, ACK, 0, &[])).await;
                }
                HEADERS if at == stream => outcome.is_answered = true,
                DATA if at == stream => {
                    let len = u32::try_from(payload.len()).unwrap();
                    outcome.body.extend(payload);
                    if len > 0 && !is_end {
                        self.send(&frame(WINDOW_UPDATE, 0, 0, &len.to_be_bytes()))
                            .await;
                        let update = frame(WINDOW_UPDATE, 0, stream, &len.to_be_bytes());
                        self.send(&update).await;
                    }
                }
                RST_STREAM if at == stream => {
                    outcome.is_refused = true;
                    return outcome;
                }
                GOAWAY => {
                    outcome.is_refused = true;
                    return outcome;
                }
                _ => {}
            }
            if is_end && matches!(kind, HEADERS | DATA) {
                return outcome;
            }
        }
    }
}

/// What has to come of one request.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Answered here with this code.
    Code(&'static str),
    /// The protocol is violated, and the stream or the connection ends.
    Protocol,
    /// It arrives at the host.
    Arrives,
}

/// HTTP-04, HTTP-05, HTTP-13, HTTP-14, HTTP-15, HTTP-25: heads that contradict themselves or
/// the protocol.
#[tokio::test]
async fn http_04_05_25_heads_of_http2_that_are_not_what_they_seem() {
    for (id, head, expected) in heads().into_iter().chain(broken_heads()) {
        let rig = Rig::usual().await;
        let mut client = Client::new(&rig).await;
        let flags = END_STREAM | END_HEADERS;
        client.send(&frame(HEADERS, flags, 1, &fields(&head))).await;
        let outcome = client.outcome(&rig, 1).await;
        let body = String::from_utf8_lossy(&outcome.body).into_owned();
        let arrived = rig.origin.arrived.lock().clone();
        match expected {
            Expected::Arrives => {
                assert_eq!(arrived.len(), 1, "{id}: {body}");
                assert!(!arrived[0].headers.contains_key("host"), "{id}");
            }
            Expected::Code(code) => assert!(body.contains(code), "{id}: {outcome:?} {body}"),
            Expected::Protocol => {
                // Either the library ends the stream, or it answers 400 by itself.
                assert!(
                    outcome.is_refused || outcome.body.is_empty(),
                    "{id}: {body}"
                );
            }
        }
        assert_eq!(
            arrived.len(),
            usize::from(matches!(expected, Expected::Arrives)),
            "{id}"
        );
        drop(client);
        rig.sandbox.close().await;
    }
}

type Case = (&'static str, Vec<(&'static str, &'static str)>, Expected);

/// Heads that name a host more than once, or another.
fn heads() -> Vec<Case> {
    use Expected::{Arrives, Code, Protocol};
    let misdirected = Code("authority_mismatch");
    vec![
        ("HTTP-04 same", get("/a"), Arrives),
        ("HTTP-04 other", with(":authority", "bad.test"), misdirected),
        (
            "HTTP-04 port",
            with(":authority", "good.test:444"),
            misdirected,
        ),
        (
            "HTTP-04 user",
            with(":authority", "x@good.test"),
            misdirected,
        ),
        ("HTTP-04 none", without(":authority"), Code("missing_host")),
        ("HTTP-04 empty", with(":authority", ""), Protocol),
        ("HTTP-04 two", and(":authority", "bad.test"), Protocol),
        ("HTTP-04 scheme", with(":scheme", "http"), misdirected),
        ("HTTP-05 evil", and("host", "bad.test"), misdirected),
        ("HTTP-05 same", and("host", "good.test"), Arrives),
        (
            "HTTP-05 two",
            [get("/a"), vec![("host", "good.test"), ("host", "bad.test")]].concat(),
            Code("duplicate_host"),
        ),
    ]
}

/// Heads that are none.
fn broken_heads() -> Vec<Case> {
    use Expected::{Code, Protocol};
    vec![
        ("HTTP-13 upgrade", and("upgrade", "h2c"), Protocol),
        (
            "HTTP-14 extended CONNECT",
            [with(":method", "CONNECT"), vec![(":protocol", "websocket")]].concat(),
            Protocol,
        ),
        (
            "HTTP-15 CONNECT",
            vec![(":method", "CONNECT"), (":authority", "good.test:443")],
            Code("connect_refused"),
        ),
        ("HTTP-25 CRLF", and("x-a", "b\r\nhost: bad.test"), Protocol),
        ("HTTP-25 NUL", and("x-a", "b\0c"), Protocol),
        ("HTTP-25 upper case", and("X-A", "b"), Protocol),
        ("HTTP-25 TE", and("te", "gzip"), Protocol),
        (
            "HTTP-25 coding",
            and("transfer-encoding", "chunked"),
            Protocol,
        ),
        ("HTTP-25 connection", and("connection", "x-a"), Protocol),
        ("HTTP-25 keep-alive", and("keep-alive", "1"), Protocol),
        (
            "HTTP-25 absolute",
            with(":path", "https://bad.test/"),
            Protocol,
        ),
        ("HTTP-25 relative", with(":path", "a"), Protocol),
        ("HTTP-25 empty", with(":path", ""), Protocol),
        ("HTTP-25 no path", without(":path"), Protocol),
        ("HTTP-25 no method", without(":method"), Protocol),
        ("HTTP-25 no scheme", without(":scheme"), Protocol),
        ("HTTP-25 unknown", and(":own", "x"), Protocol),
        (
            "HTTP-25 late",
            [vec![("x-a", "b")], get("/a")].concat(),
            Protocol,
        ),
    ]
}

fn with<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let change = |(known, old)| (known, if known == name { value } else { old });
    get("/a").into_iter().map(change).collect()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    let mut head = get("/a");
    head.retain(|(known, _)| *known != name);
    head
}

fn and<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut head = get("/a");
    head.push((name, value));
    head
}

/// HTTP-05: from HTTP/2 to a host that speaks HTTP/1.1 alone, the `Host` is our own.
#[tokio::test]
async fn http_05_the_host_that_is_sent_is_the_one_that_was_decided_about() {
    for (host, expected) in [("old.test", Some("old.test")), ("bad.test", None)] {
        let rig = Rig::usual().await;
        let mut stream = rig.connect_tls("old.test", &["h2"]).await;
        stream.write_all(PREFACE).await.unwrap();
        let mut client = Client { stream };
        client.send(&frame(SETTINGS, 0, 0, &[])).await;
        let mut head = with(":authority", "old.test");
        head.push(("host", host));
        let flags = END_STREAM | END_HEADERS;
        client.send(&frame(HEADERS, flags, 1, &fields(&head))).await;
        client.outcome(&rig, 1).await;
        let arrived = rig.origin.arrived.lock().clone();
        let hosts: Vec<_> = arrived
            .iter()
            .flat_map(|arrived| arrived.headers.get_all("host"))
            .collect();
        assert_eq!(hosts, expected.into_iter().collect::<Vec<_>>(), "{host}");
        drop(client);
        rig.finish(1).await;
    }
}

/// HTTP-06: a connection for one name carries no request for another.
#[tokio::test]
async fn http_06_streams_are_held_to_the_name_of_their_connection() {
    let rig = Rig::usual().await;
    let mut client = Client::new(&rig).await;
    for (stream, authority, is_passed) in [
        (1, "good.test", true),
        (3, "one.wild.test", false),
        (5, "bad.test", false),
        (7, "good.test", true),
    ] {
        let head = fields(&with(":authority", authority));
        client
            .send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &head))
            .await;
        let outcome = client.outcome(&rig, stream).await;
        let body = String::from_utf8_lossy(&outcome.body).into_owned();
        assert!(outcome.is_answered, "{authority}");
        assert_eq!(
            body.contains("authority_mismatch"),
            !is_passed,
            "{authority}"
        );
    }
    assert_eq!(rig.origin.arrived.lock().len(), 2);
    drop(client);
    rig.finish(4).await;
}

/// HTTP-25: a body of another length than was declared never becomes a whole request.
#[tokio::test]
async fn http_25_a_body_has_the_length_that_it_says() {
    for (declared, sent) in [("5", &b"abc"[..]), ("2", b"abc")] {
        // Where the body is read first, nothing is sent at all.
        for rules in [
            json!([]),
            json!([{"id": "r", "host": "good.test", "json": {"/a": {"equals": 1}}}]),
        ] {
            let is_inspected = rules != json!([]);
            let rig = Rig::new(policy(|document| document["net"] = json!({"rules": rules}))).await;
            let mut client = Client::new(&rig).await;
            let mut head = with(":method", "POST");
            head.extend([
                ("content-length", declared),
                ("content-type", "application/json"),
            ]);
            client
                .send(&frame(HEADERS, END_HEADERS, 1, &fields(&head)))
                .await;
            client.send(&frame(DATA, END_STREAM, 1, sent)).await;
            let outcome = client.outcome(&rig, 1).await;
            let is_sent = !rig.origin.read.lock().is_empty();
            assert!(!(is_inspected && is_sent), "{declared}");
            let arrived = rig.origin.arrived.lock().clone();
            assert!(
                arrived.iter().all(|arrived| arrived.body != sent),
                "{outcome:?}"
            );
            drop(client);
            rig.sandbox.close().await;
        }
    }
}

/// Frames that cost their sender little, again and again. None where they may go on for
/// ever, because each takes what the one before gave back.
struct Flood {
    id: &'static str,
    /// Sent once.
    first: Vec<u8>,
    /// The frames of one round.
    round: fn(u32) -> Vec<u8>,
    rounds: u32,
    /// Whether the connection has to end before all rounds are over.
    is_ended: bool,
}

fn header_frame(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &fields(&get("/events")),
    )
}

fn floods() -> [Flood; 7] {
    [
        Flood {
            id: "CONTINUATION",
            first: frame(HEADERS, END_STREAM, 1, &fields(&get("/"))),
            round: |_| frame(CONTINUATION, 0, 1, &fields(&[("x-a", &"b".repeat(8000))])),
            rounds: 4000,
            is_ended: true,
        },
        Flood {
            id: "empty CONTINUATION",
            first: frame(HEADERS, END_STREAM, 1, &fields(&get("/"))),
            round: |_| frame(CONTINUATION, 0, 1, &[]),
            rounds: 100_000,
            is_ended: true,
        },
        Flood {
            id: "rapid reset",
            first: Vec::new(),
            round: |round| {
                let stream = 2 * round + 1;
                let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                [header_frame(stream), reset].concat()
            },
            rounds: 20_000,
            is_ended: true,
        },
        Flood {
            id: "MadeYouReset",
            first: Vec::new(),
            round: |round| {
                let stream = 2 * round + 1;
                // An increment of zero is an error of the stream (RFC 9113, section 6.9).
                let update = frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
                [header_frame(stream), update].concat()
            },
            rounds: 20_000,
            is_ended: true,
        },
        Flood {
            id: "streams",
            first: Vec::new(),
            round: |round| header_frame(2 * round + 1),
            rounds: 20_000,
            is_ended: false,
        },
        Flood {
            id: "SETTINGS",
            first: Vec::new(),
            round: |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
            rounds: 20_000,
            is_ended: false,
        },
        Flood {
            id: "PING",
            first: Vec::new(),
            round: |_| frame(PING, 0, 0, &[7; 8]),
            rounds: 20_000,
            is_ended: false,
        },
    ]
}

/// HTTP-24: floods end the connection or cost next to nothing, and the sandbox goes on.
#[tokio::test]
async fn http_24_floods_of_frames() {
    for flood in floods() {
        let rig = Rig::usual().await;
        let before = resident_bytes();
        let mut client = Client::new(&rig).await;
        client.send(&flood.first).await;
        let is_alive = send_flood(&mut client, &flood).await;
        assert!(!(is_alive && flood.is_ended), "{} goes on", flood.id);
        let requests = rig.origin.arrived.lock().len();
        assert!(requests <= 512, "{}: {requests} requests", flood.id);
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{} took {grown} bytes", flood.id);
        drop(client);
        let answer = rig
            .talk_tls("GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 200 "),
            "{}: {answer}",
            flood.id
        );
        rig.sandbox.close().await;
    }
}

/// Sends all rounds, reading beside it; says whether the connection still lives.
async fn send_flood(client: &mut Client<TlsStream<TcpStream>>, flood: &Flood) -> bool {
    let mut bytes = Vec::new();
    for round in 0..flood.rounds {
        bytes.extend((flood.round)(round));
    }
    // The last word is for what is read: an answer to it proves that the other end lives.
    bytes.extend(frame(PING, 0, 0, b"the last"));
    let (mut read, mut write) = tokio::io::split(&mut client.stream);
    let sending = async {
        let is_sent = write.write_all(&bytes).await.is_ok();
        if !is_sent {
            return false;
        }
        std::future::pending().await
    };
    let reading = async {
        let mut tail = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match read.read(&mut chunk).await {
                Ok(0) | Err(_) => return false,
                Ok(len) => tail.extend_from_slice(&chunk[..len]),
            }
            if tail.windows(8).any(|window| window == b"the last") {
                return true;
            }
            let keep = tail.len().saturating_sub(8);
            tail.drain(..keep);
        }
    };
    let either = async {
        tokio::select! {
            is_alive = reading => is_alive,
            is_alive = sending => is_alive,
        }
    };
    timeout(Duration::from_mins(1), either)
        .await
        .expect("neither goes on nor ends")
}

fn resident_bytes() -> usize {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// HTTP-24: a small head that grows when it is decompressed is refused by its size.
#[tokio::test]
async fn http_24_a_compressed_head_is_as_large_as_it_decodes() {
    let rig = Rig::usual().await;
    let mut client = Client::new(&rig).await;
    // One field into the dynamic table (RFC 7541, section 6.2.1), and then often that one.
    let mut block = fields(&get("/"));
    block.push(0x40);
    for text in ["x-a", &"b".repeat(4000)] {
        block.extend(integer(text.len()));
        block.extend_from_slice(text.as_bytes());
    }
    block.extend(vec![0x80 | 0x3e; 10_000]);
    client
        .send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))
        .await;
    client.outcome(&rig, 1).await;
    assert_eq!(rig.origin.arrived.lock().len(), 0);
    drop(client);
    rig.sandbox.close().await;
}

/// HTTP-24: a guest that opens no window takes no memory but its share.
#[tokio::test]
async fn http_24_a_guest_that_does_not_read_stalls_itself_alone() {
    let rig = Rig::usual().await;
    let before = resident_bytes();
    let mut client = Client::new(&rig).await;
    // SETTINGS_INITIAL_WINDOW_SIZE is nothing.
    client
        .send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
        .await;
    for round in 0..64 {
        let stream = 2 * round + 1;
        let head = fields(&get("/large"));
        client
            .send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &head))
            .await;
    }
    let mut answered = 0;
    while answered < 64 {
        let (kind, ..) = client.read_frame().await.unwrap();
        answered += usize::from(kind == HEADERS);
    }
    // 64 times 4 MiB are asked for. What the host has in its buffers is counted as well.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 96 << 20, "{grown} bytes");
    let answer = rig
        .talk_tls("GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(client);
    rig.sandbox.close().await;
}

/// SUB-16: a value is never put into a compression table on the way to the host.
#[tokio::test]
async fn sub_16_a_value_is_never_indexed() {
    let rig = Rig::usual().await;
    let mut client = Client::new(&rig).await;
    let value = format!("Bearer {}", rig.placeholder);
    let mut head = get("/");
    head.push(("authorization", &value));
    client
        .send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&head)))
        .await;
    client.outcome(&rig, 1).await;
    assert_eq!(
        rig.origin.last().headers["authorization"],
        format!("Bearer {CANARY}")
    );
    let read = rig.origin.read.lock().concat();
    let contains = |part: &[u8]| read.windows(part.len()).any(|window| window == part);
    // RFC 7541, section 6.2.3: `authorization` is entry 23 of the static table.
    assert!(contains(&[0x1f, 0x08]), "not marked");
    assert!(!contains(&[0x57]) || contains(&[0x1f, 0x08]));
    drop(client);
    let records: Vec<Value> = rig.finish(1).await;
    assert_eq!(records[0]["secrets"][0]["name"], "KEY");
}
