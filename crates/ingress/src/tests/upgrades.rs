//! Connections that change to another protocol.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::rig::{BASE, PUBLIC, Rig, quick, serves, within};
use crate::Limits;

/// Echoes messages of a WebSocket.
pub(super) async fn websocket(mut request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let key = request.headers()["sec-websocket-key"].clone();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgraded.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .body(Empty::new())
        .unwrap()
}

#[tokio::test]
async fn a_websocket_carries_messages_both_ways_and_closes() {
    let rig = Rig::with(quick(), serves(websocket)).await;
    let url = format!("wss://{PUBLIC}.{BASE}/");
    let opened = client_async(url, rig.tls("http/1.1").await);
    let (mut socket, _) = within(Box::pin(opened)).await.unwrap();
    for text in ["one".to_owned(), "x".repeat(200_000)] {
        within(socket.send(Message::text(text.clone())))
            .await
            .unwrap();
        let back = within(socket.next()).await.unwrap().unwrap();
        assert_eq!(back, Message::text(text));
    }
    within(socket.close(None)).await.unwrap();
    while let Some(message) = within(socket.next()).await {
        assert!(message.unwrap().is_close());
    }
}

/// Changes to a protocol in which one side speaks to its end, then the other.
async fn in_turn(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = request.headers().get("upgrade").cloned();
    let Some(asked) = asked else {
        return Response::new(Full::from("plain"));
    };
    if asked != "turns/1" {
        return Response::builder()
            .status(400)
            .body(Full::from("no"))
            .unwrap();
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgraded.await.unwrap());
        let mut heard = String::new();
        io.read_to_string(&mut heard).await.unwrap();
        io.write_all(format!("heard {heard}").as_bytes())
            .await
            .unwrap();
        io.shutdown().await.unwrap();
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "turns/1")
        .body(Full::default())
        .unwrap()
}

fn asking(protocol: &str) -> Request<Empty<Bytes>> {
    Request::get("/")
        .header("host", format!("{PUBLIC}.{BASE}"))
        .header("connection", "upgrade")
        .header("upgrade", protocol)
        .body(Empty::new())
        .unwrap()
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let limits = Limits {
        idle_timeout: Limits::STANDARD.idle_timeout,
        ..quick()
    };
    let rig = Rig::with(limits, serves(in_turn)).await;
    let mut sender = rig.http1().await;
    let response = within(sender.send_request(asking("turns/1")))
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = within(hyper::upgrade::on(response)).await.unwrap();
    let mut io = TokioIo::new(upgraded);
    io.write_all(b"all I say").await.unwrap();
    io.shutdown().await.unwrap();
    let mut heard = String::new();
    within(io.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "heard all I say");
}

#[tokio::test]
async fn what_is_no_upgrade_is_answered_as_any_request() {
    let rig = Rig::with(quick(), serves(in_turn)).await;
    let cases = [("other/1", 400, "no"), ("h2c", 200, "plain")];
    for (protocol, status, text) in cases {
        let mut sender = rig.http1().await;
        let response = within(sender.send_request(asking(protocol))).await.unwrap();
        assert_eq!(response.status(), status, "{protocol}");
        let body = within(response.into_body().collect()).await.unwrap();
        assert_eq!(body.to_bytes(), text, "{protocol}");
    }
    let request = Request::get(format!("https://{PUBLIC}.{BASE}/"))
        .version(Version::HTTP_2)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = within(rig.http2().await.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn an_upgraded_connection_that_is_silent_ends() {
    let rig = Rig::with(quick(), serves(websocket)).await;
    let url = format!("wss://{PUBLIC}.{BASE}/");
    let opened = client_async(url, rig.tls("http/1.1").await);
    let (mut socket, _) = within(Box::pin(opened)).await.unwrap();
    // An error or an end, but not for ever.
    while let Some(Ok(_)) = within(socket.next()).await {}
}
