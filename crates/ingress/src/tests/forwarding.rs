//! Requests on their way to programs and back.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::rig::{Answer, BASE, Door, PUBLIC, Rig, answers, quick, serves, within};
use crate::backend::{Found, Target, Traffic};

type Piece = Result<Frame<Bytes>, std::convert::Infallible>;

/// Shows a request as the program sees it.
async fn mirror(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut lines = vec![format!("{} {} {:?}", head.method, head.uri, head.version)];
    for (name, value) in &head.headers {
        lines.push(format!("{name}: {}", value.to_str().unwrap()));
    }
    lines.sort();
    lines.push(String::from_utf8(body.to_vec()).unwrap());
    Response::builder()
        .status(201)
        .header("x-answer", "1")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-tombolo-ingress", "forged")
        .body(Full::from(lines.join("\n")))
        .unwrap()
}

fn request(version: Version) -> Request<Full<Bytes>> {
    let host = format!("{PUBLIC}.{BASE}:8443");
    let request = match version {
        Version::HTTP_2 => Request::post(format!("https://{host}/a%20b?c=d")),
        _ => Request::post("/a%20b?c=d")
            .header("host", host)
            .header("connection", "x-secret")
            .header("x-secret", "1")
            .header("keep-alive", "timeout=5"),
    };
    request
        .version(version)
        .header("x-forwarded-for", "10.0.0.1")
        .header("forwarded", "for=10.0.0.1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-own", "kept")
        .body(Full::from("body"))
        .unwrap()
}

#[tokio::test]
async fn a_request_arrives_as_http_1_whatever_it_came_as() {
    let rig = Rig::with(quick(), serves(mirror)).await;
    let one = within(rig.http1().await.send_request(request(Version::HTTP_11))).await;
    let two = within(rig.http2().await.send_request(request(Version::HTTP_2))).await;
    for response in [one.unwrap(), two.unwrap()] {
        let version = response.version();
        let answer = Answer::read(response).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("x-answer"), "1");
        for name in [
            "connection",
            "x-hop",
            "x-tombolo-ingress",
            "transfer-encoding",
        ] {
            assert!(!answer.headers.contains_key(name), "{version:?} {name}");
        }
        let host = format!("{PUBLIC}.{BASE}:8443");
        let expected = [
            "POST /a%20b?c=d HTTP/1.1",
            "content-length: 4",
            "cookie: a=1; b=2",
            &format!("host: {host}"),
            "x-forwarded-for: 127.0.0.1",
            &format!("x-forwarded-host: {host}"),
            "x-forwarded-proto: https",
            "x-own: kept",
            "body",
        ];
        assert_eq!(
            answer.text.lines().collect::<Vec<_>>(),
            expected,
            "{version:?}"
        );
    }
}

/// Sends back each piece of a body as it comes.
async fn echo(request: Request<Incoming>) -> Response<Incoming> {
    Response::new(request.into_body())
}

#[tokio::test]
async fn bodies_pass_unbuffered_both_ways() {
    let rig = Rig::with(quick(), serves(echo)).await;
    let meter = match crate::Backend::find(&rig.memory, &PUBLIC.parse().unwrap()).await {
        Found::Exposure(exposure) => exposure.meter,
        other => panic!("{other:?}"),
    };
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (pieces, body) = mpsc::channel::<Piece>(1);
        let request = Request::builder()
            .method("POST")
            .version(version)
            .uri(match version {
                Version::HTTP_2 => format!("https://{PUBLIC}.{BASE}/"),
                _ => "/".to_owned(),
            })
            .header("host", format!("{PUBLIC}.{BASE}"))
            .body(StreamBody::new(ReceiverStream::new(body)))
            .unwrap();
        let response = match version {
            Version::HTTP_2 => within(rig.http2().await.send_request(request)).await,
            _ => within(rig.http1().await.send_request(request)).await,
        };
        let mut answer = response.unwrap().into_body();
        for piece in ["first", "second"] {
            let frame = Frame::data(Bytes::from(piece));
            within(pieces.send(Ok(frame))).await.unwrap();
            let back = within(answer.frame()).await.unwrap().unwrap();
            assert_eq!(back.into_data().unwrap(), piece, "{version:?}");
        }
        drop(pieces);
        let rest = within(answer.collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), "", "{version:?}");
    }
    let expected = Traffic {
        requests: 2,
        request_bytes: 22,
        response_bytes: 22,
    };
    assert_eq!(meter.read(), expected);
}

#[tokio::test]
async fn trailers_reach_the_client() {
    let with_trailers = serves(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let frames: Vec<Piece> = vec![
            Ok(Frame::data(Bytes::from("data"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder()
            .header("trailer", "x-sum")
            .body(body)
            .unwrap()
    });
    let rig = Rig::with(quick(), with_trailers).await;
    let request = Request::get(format!("https://{PUBLIC}.{BASE}/"))
        .version(Version::HTTP_2)
        .header("te", "trailers")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = within(rig.http2().await.send_request(request))
        .await
        .unwrap();
    let collected = within(response.into_body().collect()).await.unwrap();
    let trailers = collected.trailers().cloned();
    assert_eq!(trailers.unwrap()["x-sum"], "1");
    assert_eq!(collected.to_bytes(), "data");
}

#[tokio::test]
async fn a_connection_is_used_again_until_the_exposure_leads_elsewhere() {
    let rig = Rig::with(quick(), answers("one")).await;
    for _ in 0..3 {
        assert_eq!(rig.get(PUBLIC, "/", &[]).await.text, "one");
    }
    assert_eq!(*rig.memory.opened.lock(), 1);
    let mut elsewhere = super::rig::exposure(PUBLIC);
    elsewhere.target = Target::Process(7);
    let found = Found::Exposure(elsewhere);
    let door = answers("two");
    rig.memory.put(PUBLIC, super::rig::Entry { found, door });
    assert_eq!(rig.get(PUBLIC, "/", &[]).await.text, "two");
    assert_eq!(*rig.memory.opened.lock(), 2);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (gone, is_gone) = oneshot::channel();
    let gone = Arc::new(parking_lot::Mutex::new(Some(gone)));
    let program = Door::Program(Arc::new(move |mut stream| {
        let gone = gone.lock().take();
        Box::pin(async move {
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
            stream.write_all(begun).await.unwrap();
            while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
            gone.unwrap().send(()).unwrap();
        })
    }));
    let rig = Rig::with(quick(), program).await;
    let request = Request::get("/")
        .header("host", format!("{PUBLIC}.{BASE}"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut sender = rig.http1().await;
    let response = within(sender.send_request(request)).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    assert_eq!(within(body.next()).await.unwrap().unwrap(), "a");
    drop((body, sender));
    within(is_gone).await.unwrap();
}
