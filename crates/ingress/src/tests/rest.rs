//! Connections on which nothing is wanted any more are ended; those on which anything is
//! under way are not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::rig::{Answer, BASE, Door, OTHER, PUBLIC, Rig, answers, quick, serves, within};
use super::upgrades::websocket;
use crate::Limits;

type Sender = http2::SendRequest<Empty<Bytes>>;

/// A rest that is short, and no other bound that could end anything here.
fn restless() -> Limits {
    Limits {
        head_timeout: Duration::from_millis(150),
        idle_timeout: Limits::STANDARD.idle_timeout,
        handshake_timeout: Limits::STANDARD.handshake_timeout,
        ..quick()
    }
}

/// A connection of HTTP/2 whose end is told, as the client saw it.
async fn http2(rig: &Rig) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(rig.tls("h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request(name: &str) -> Request<Empty<Bytes>> {
    let uri = format!("https://{name}.{BASE}/");
    Request::get(uri).body(Empty::new()).unwrap()
}

/// Waits until a connection that begins now has rested for too long.
async fn a_rest(rig: &Rig) {
    let (_sender, ended) = http2(rig).await;
    within(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_http2_connection_is_ended_gracefully_when_it_rests() {
    let rig = Rig::with(restless(), answers("ok")).await;
    for requests in 0..3 {
        // It answers pings, as every client.
        let (mut sender, ended) = http2(&rig).await;
        for _ in 0..requests {
            let response = within(sender.send_request(request(PUBLIC))).await.unwrap();
            assert_eq!(Answer::read(response).await.text, "ok");
        }
        // A GOAWAY without an error; a connection that is cut is one.
        within(ended).await.unwrap().unwrap();
        assert!(sender.is_closed(), "after {requests} requests");
    }
}

#[tokio::test]
async fn who_does_not_even_begin_to_speak_http_is_let_go() {
    let limits = Limits {
        shutdown_grace: Duration::from_millis(100),
        ..restless()
    };
    let rig = Rig::with(limits, answers("ok")).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // SETTINGS, then the beginning of HEADERS that never end (RFC 9113, 6.2).
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let begun = [&preface[..], &settings, &headers].concat();
    let cases: [(&str, &[u8]); 5] = [
        ("h2", b""),
        ("h2", &preface[..10]),
        ("h2", &begun),
        ("http/1.1", b""),
        ("http/1.1", b"GET / HTTP/1.1\r\nhost"),
    ];
    for (protocol, said) in cases {
        let mut stream = rig.tls(protocol).await;
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        // The end may be without TLS's own.
        within(stream.read_to_end(&mut answer))
            .await
            .unwrap_or_default();
    }
}

#[tokio::test]
async fn an_http1_connection_is_ended_when_no_further_request_comes() {
    let rig = Rig::with(restless(), answers("ok")).await;
    let request = format!("GET / HTTP/1.1\r\nhost: {PUBLIC}.{BASE}\r\n\r\n");
    let answer = rig.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
    let answer = rig.raw(&format!("{request}GET / HT")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Answers its head, a first part and the rest each when it is let.
fn slowly(parts: &Arc<Semaphore>) -> Door {
    let parts = Arc::clone(parts);
    serves(move |_| {
        let parts = Arc::clone(&parts);
        async move {
            parts.acquire().await.unwrap().forget();
            let body = stream::iter(["first", "second"]).then(move |part| {
                let parts = Arc::clone(&parts);
                async move {
                    parts.acquire().await.unwrap().forget();
                    Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(part)))
                }
            });
            Response::new(StreamBody::new(body.boxed()))
        }
    })
}

#[tokio::test]
async fn what_is_under_way_keeps_its_connection() {
    let parts = Arc::new(Semaphore::new(0));
    let rig = Rig::with(restless(), slowly(&parts)).await;
    rig.expose(OTHER, serves(websocket));
    let url = format!("wss://{OTHER}.{BASE}/");
    let opened = client_async(url, rig.tls("http/1.1").await);
    let (mut socket, _) = within(Box::pin(opened)).await.unwrap();

    let (mut sender, ended) = http2(&rig).await;
    let asked = sender.send_request(request(PUBLIC));
    let answered = tokio::spawn(asked);
    a_rest(&rig).await;
    parts.add_permits(1);
    let mut response = within(answered).await.unwrap().unwrap();
    for part in ["first", "second"] {
        a_rest(&rig).await;
        parts.add_permits(1);
        let frame = within(response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part);
    }
    assert!(!ended.is_finished());
    let rest = within(response.into_body().collect()).await.unwrap();
    assert!(rest.to_bytes().is_empty());
    within(ended).await.unwrap().unwrap();

    let message = Message::text("still here");
    within(socket.send(message.clone())).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
}
