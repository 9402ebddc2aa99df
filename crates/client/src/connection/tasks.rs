//! The two tasks of a connection: one reads its socket, one writes it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::{CLOSE_TIMEOUT, Shared};
use crate::EndReason;
use crate::frame;
use crate::handshake::Socket;

/// How often to show the server that this side lives, even while the person
/// at the other end of our output reads nothing and so nothing is received.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What is said before this side ends a connection (RFC 6455, 7.4.1).
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

pub(super) async fn read_all(mut stream: SplitStream<Socket>, shared: Arc<Shared>) {
    let closing = shared.closing.clone();
    let reason = tokio::select! {
        reason = read_until_end(&mut stream, &shared) => reason,
        () = closing.cancelled() => EndReason::Closed("by this side".to_owned()),
    };
    shared.end(reason);
    // The answer to a close is sent by reading on; a server that ends a
    // sandbox waits for it.
    let farewell = async { while let Some(Ok(_late)) = stream.next().await {} };
    if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
        tracing::debug!("the server keeps the connection open");
    }
}

async fn read_until_end(stream: &mut SplitStream<Socket>, shared: &Shared) -> EndReason {
    loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|frame| frame.reason.to_string());
                return EndReason::Closed(reason.unwrap_or_default());
            }
            Some(Ok(_control)) => continue,
            Some(Err(error)) => return EndReason::Broken(error.to_string()),
            None => return EndReason::Closed(String::new()),
        };
        match frame::parse(&text) {
            Ok(incoming) => shared.accept(incoming).await,
            Err(error) => return EndReason::Broken(error.to_string()),
        }
    }
}

pub(super) async fn write_all(
    mut sink: SplitSink<Socket, Message>,
    queue: mpsc::Receiver<Message>,
    closing: CancellationToken,
) {
    tokio::select! {
        () = write_queue(&mut sink, queue) => return,
        () = closing.cancelled() => {}
    }
    let farewell = tokio::time::timeout(CLOSE_TIMEOUT, sink.send(goodbye()));
    if !matches!(farewell.await, Ok(Ok(()))) {
        tracing::debug!("the server was not told that the connection ends");
    }
}

async fn write_queue(sink: &mut SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Message>) {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            // A pong that nobody asked for is a heartbeat (RFC 6455, 5.5.3).
            _ = heartbeat.tick() => Some(Message::Pong(bytes::Bytes::new())),
        };
        let Some(message) = message else { return };
        let is_last = message.is_close();
        if let Err(error) = sink.send(message).await {
            tracing::debug!(%error, "the socket takes no more");
            return;
        }
        if is_last {
            return;
        }
    }
}
