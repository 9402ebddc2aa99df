//! Guests whose agent says what no agent says. Whatever it is, callers get an
//! answer, and it names the guest as what is at fault.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tombolo_guest_proto::MESSAGE_LEN_MAX;
use tombolo_guest_proto::v1::EnvKey;
use tombolo_testkit::{FakeNode, within};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::harness::{World, quick};
use crate::guest::GuestAgent;

type Pairs = &'static [(&'static str, &'static [u8])];

/// What a guest answers every call with.
#[derive(Clone, Copy, Debug)]
struct Answer {
    status: u16,
    headers: Pairs,
    data: &'static [&'static [u8]],
    trailers: Pairs,
}

const GRPC: Pairs = &[("content-type", b"application/grpc")];
const FINE: Answer = Answer {
    status: 200,
    headers: GRPC,
    data: &[],
    trailers: &[("grpc-status", b"0")],
};

fn map(pairs: Pairs) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let value = HeaderValue::from_bytes(value).unwrap();
        (HeaderName::from_static(name), value)
    });
    pairs.collect()
}

#[derive(Clone)]
struct Guest(Arc<dyn Fn() -> Answer + Send + Sync>);

impl NamedService for Guest {
    const NAME: &'static str = "tombolo.guest.v1.Agent";
}

impl Service<Request<Body>> for Guest {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let answer = self.0();
        let data = answer
            .data
            .iter()
            .map(|data| Frame::data(Bytes::from_static(data)));
        let trailers = (!answer.trailers.is_empty()).then(|| Frame::trailers(map(answer.trailers)));
        let frames: Vec<_> = data.chain(trailers).map(Ok::<_, Infallible>).collect();
        let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
        *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap();
        *response.headers_mut() = map(answer.headers);
        ready(Ok(response))
    }
}

/// Longer than the text of any status may be, and still within what HTTP/2
/// takes.
const LONG: &[u8] = &[b'x'; 20 * 1024];
/// A message that announces one byte more than is taken.
const TOO_LONG: [u8; 5] = {
    let [.., a, b, c, d] = (MESSAGE_LEN_MAX + 1).to_be_bytes();
    [0, a, b, c, d]
};

const MISBEHAVED: &str = "The guest misbehaved";

const fn headers(headers: Pairs) -> Answer {
    Answer { headers, ..FINE }
}

const fn trailers(trailers: Pairs) -> Answer {
    Answer { trailers, ..FINE }
}

const fn data(data: &'static [&'static [u8]]) -> Answer {
    Answer { data, ..FINE }
}

/// What each kind of nonsense is called, and the words for callers.
const NONSENSE: &[(&str, Answer, &str)] = &[
    (
        "details in headers that are not base64",
        headers(&[
            ("content-type", b"application/grpc"),
            ("grpc-status", b"2"),
            ("grpc-status-details-bin", b"!!"),
        ]),
        MISBEHAVED,
    ),
    (
        "details in trailers that are not base64",
        trailers(&[("grpc-status", b"2"), ("grpc-status-details-bin", b"\xff")]),
        MISBEHAVED,
    ),
    (
        "a status that is none",
        trailers(&[("grpc-status", b"x")]),
        MISBEHAVED,
    ),
    (
        "a status too large",
        trailers(&[("grpc-status", b"99")]),
        MISBEHAVED,
    ),
    (
        "a text that never ends",
        trailers(&[("grpc-status", b"2"), ("grpc-message", LONG)]),
        MISBEHAVED,
    ),
    (
        "a text that is no text",
        trailers(&[("grpc-status", b"2"), ("grpc-message", b"%ff%f")]),
        MISBEHAVED,
    ),
    ("no type", headers(&[]), MISBEHAVED),
    (
        "another type",
        headers(&[("content-type", b"text/html")]),
        MISBEHAVED,
    ),
    (
        "another status of HTTP",
        Answer {
            status: 503,
            ..FINE
        },
        MISBEHAVED,
    ),
    (
        "a compressed message",
        data(&[b"\x01\0\0\0\x01x"]),
        MISBEHAVED,
    ),
    (
        "a message too long",
        data(&[b"\0\xff", b"\xff\xff\xff"]),
        MISBEHAVED,
    ),
    ("a message a byte too long", data(&[&TOO_LONG]), MISBEHAVED),
    (
        "a message that is none",
        data(&[b"\0\0\0\0\x02\xff\xff"]),
        "decode",
    ),
    ("half a message", data(&[b"\0\0\0\0\x09x"]), ""),
    (
        "nothing",
        Answer {
            trailers: &[],
            ..FINE
        },
        "",
    ),
    (
        "two statuses",
        trailers(&[("grpc-status", b"0"), ("grpc-status", b"-")]),
        MISBEHAVED,
    ),
];

#[tokio::test]
async fn nonsense_from_a_guest_is_told_as_that() {
    let answer = Arc::new(parking_lot::Mutex::new(FINE));
    let guest = {
        let answer = Arc::clone(&answer);
        Guest(Arc::new(move || *answer.lock()))
    };
    let world = World::on(FakeNode::with_guest(guest).unwrap(), quick()).await;
    let mut socket = world.create("{}").await.unwrap();
    for (what, nonsense, words) in NONSENSE {
        *answer.lock() = *nonsense;
        let calls = [
            ("envGet", json!({ "key": "A" })),
            ("mkdir", json!({ "path": "/a" })),
            ("readDir", json!({ "path": "/a" })),
            ("spawn", json!({ "command": "a", "args": [] })),
        ];
        for (method, params) in calls {
            let result = socket.call(method, params).await;
            let message = result["error"]["message"].as_str();
            // An answer that may pass for an empty one is not told apart.
            let is_told = message.is_some_and(|message| message.contains(words));
            assert!(is_told || words.is_empty(), "{what}, {method}: {result}");
        }
    }
    *answer.lock() = Answer {
        data: &[b"\0\0\0\0\0"],
        ..FINE
    };
    let result = socket.call("mkdir", json!({ "path": "/a" })).await;
    assert!(result.get("error").is_none(), "{result}");
}

/// Bytes that are no HTTP/2, or an abuse of it, each sent after the settings.
fn abuses() -> Vec<(&'static str, Vec<u8>, usize)> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length.get(1..).unwrap().to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    // `:status: 200`, then headers of a byte each (RFC 7541, 6.1 and 6.2.2).
    let literal = b"\0\x01a\x01b".repeat(3000);
    let headers = frame(1, 0, 1, b"\x88");
    let endless = [headers, frame(9, 0, 1, &literal)].concat();
    vec![
        ("headers that never end", endless, 1000),
        ("no HTTP/2 at all", b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), 1),
        (
            "a compressed header that is none",
            frame(1, 4, 1, &[0xff; 9]),
            1,
        ),
        ("data before headers", frame(0, 0, 1, b"data"), 1),
        ("a stream that nobody opened", frame(1, 4, 77, b"\x88"), 1),
        ("a frame too large", vec![0xff; 64], 1),
        ("settings without end", frame(4, 0, 0, &[]), 100_000),
        ("pings without end", frame(6, 0, 0, &[0; 8]), 100_000),
    ]
}

/// Says the bytes so often, once the client has spoken, then hangs up.
async fn abuse(stream: UnixStream, bytes: &[u8], times: usize) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    let mut heard = [0; 4096];
    reader.read_exact(&mut heard[..1]).await?;
    // Whoever stops reading as well only falls silent.
    let drained =
        tokio::spawn(async move { while matches!(reader.read(&mut heard).await, Ok(1..)) {} });
    for _ in 0..times {
        writer.write_all(bytes).await?;
    }
    drained.abort();
    Ok(())
}

/// The same below gRPC: what only bytes can say.
#[tokio::test]
async fn abuse_of_the_transport_fails_the_call() {
    for (what, bytes, times) in abuses() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("node.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let guest = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                abuse(stream, &bytes, times).await.ok();
            }
        });
        let id = "sbx_ord_1at5nn58e77rtd11e3k3".parse().unwrap();
        let agent = GuestAgent::new(&socket, &id);
        let request = EnvKey { key: "A".into() };
        let call = async { agent.client().get_env(request).await };
        let answer = within(what, call).await;
        assert!(answer.is_err(), "{what}: {answer:?}");
        guest.abort();
    }
}
