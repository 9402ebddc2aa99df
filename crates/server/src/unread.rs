//! Reads what a handler left of a request's body before the answer goes.
//!
//! A request is often refused for its address or its token alone. The HTTP
//! library then closes the connection if the body is still on its way, without
//! saying so, and a client that keeps its connections finds out in the middle
//! of its next request.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::body::LONG_BODY_LEN_MAX;

/// No address takes more; what is longer is not worth the connection.
const UNREAD_LEN_MAX: usize = LONG_BODY_LEN_MAX;
/// How long an answer may wait for them.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(1);

pub(crate) async fn read_to_end(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body.into_data_stream()));
    let handed = Arc::clone(&body);
    let pieces = stream::poll_fn(move |cx| handed.lock().poll_next_unpin(cx));
    let request = Request::from_parts(head, Body::from_stream(pieces));
    let response = next.run(request).await;
    // Past the time the connection is closed, as it would have been.
    let _elapsed = timeout(UNREAD_TIME_MAX, discard(&body)).await;
    response
}

async fn discard(body: &Mutex<BodyDataStream>) {
    let mut len = 0;
    while len < UNREAD_LEN_MAX {
        match poll_fn(|cx| body.lock().poll_next_unpin(cx)).await {
            Some(Ok(piece)) => len += piece.len(),
            Some(Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Bytes;
    use axum::middleware::from_fn;
    use axum::routing::any;
    use futures_util::FutureExt as _;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    use tower::ServiceExt as _;

    use super::*;

    type Piece = Result<Bytes, std::io::Error>;

    fn call() -> (mpsc::Sender<Piece>, impl Future<Output = Response> + Unpin) {
        let (sender, pieces) = mpsc::channel(1);
        let refuse = Router::new()
            .fallback(any(async || "no"))
            .layer(from_fn(read_to_end));
        let request = Request::new(Body::from_stream(ReceiverStream::new(pieces)));
        let answer = refuse.oneshot(request).map(|answer| answer.unwrap());
        (sender, Box::pin(answer))
    }

    #[tokio::test]
    async fn an_answer_waits_for_the_end_of_what_nobody_reads() {
        let (sender, mut answer) = call();
        assert!((&mut answer).now_or_never().is_none());
        sender.send(Ok(Bytes::from_static(b"{}"))).await.unwrap();
        assert!((&mut answer).now_or_never().is_none());
        drop(sender);
        assert!(answer.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_no_more_than_its_bounds() {
        let (sender, answer) = call();
        answer.await;
        drop(sender);

        let (sender, mut answer) = call();
        sender
            .send(Ok(vec![0; UNREAD_LEN_MAX].into()))
            .await
            .unwrap();
        assert!((&mut answer).now_or_never().is_some());
    }
}
