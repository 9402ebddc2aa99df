//! What clients can make the ingress hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;

use super::rig::{BASE, OTHER, PUBLIC, Rig, answers, quick, serves, within};
use crate::Limits;

#[tokio::test]
async fn an_owner_has_so_many_requests_at_once_and_others_are_not_held_up() {
    let limits = Limits {
        requests_max: 1,
        idle_timeout: Limits::STANDARD.idle_timeout,
        ..quick()
    };
    let (begun, finish) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let slow = {
        let (begun, finish) = (Arc::clone(&begun), Arc::clone(&finish));
        serves(move |_| {
            let (begun, finish) = (Arc::clone(&begun), Arc::clone(&finish));
            async move {
                begun.add_permits(1);
                finish.acquire().await.unwrap().forget();
                Response::new(Full::<Bytes>::from("done"))
            }
        })
    };
    let rig = Rig::with(limits, slow).await;
    rig.expose(OTHER, answers("other"));
    let first = async {
        let answer = rig.get(PUBLIC, "/", &[]).await;
        assert_eq!(answer.text, "done");
    };
    let second = async {
        begun.acquire().await.unwrap().forget();
        let refused = rig.get(PUBLIC, "/", &[]).await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("x-tombolo-ingress"), "TOO_MANY_AT_ONCE");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(rig.get(OTHER, "/", &[]).await.text, "other");
        finish.add_permits(2);
    };
    within(Box::pin(async { tokio::join!(first, second) })).await;
    assert_eq!(rig.get(PUBLIC, "/", &[]).await.text, "done");
}

#[tokio::test]
async fn an_owner_has_so_many_requests_a_second() {
    let limits = Limits {
        requests_per_second: 1,
        burst: 2,
        ..quick()
    };
    let rig = Rig::with(limits, answers("ok")).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = rig.get(PUBLIC, "/", &[]).await;
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), "1");
        }
        statuses.push(answer.status.as_u16());
    }
    // A slow machine may take a second for the first two.
    assert!(statuses.starts_with(&[200, 200]), "{statuses:?}");
    let refused = within(async {
        loop {
            let burst = [(); 4].map(|()| rig.get(PUBLIC, "/", &[]));
            let answers = futures_util::future::join_all(burst).await;
            if answers.iter().any(|answer| answer.status == 429) {
                return true;
            }
        }
    });
    assert!(refused.await);
}

#[tokio::test]
async fn clients_that_say_nothing_are_let_go() {
    let limits = Limits {
        head_timeout: Duration::from_millis(200),
        ..quick()
    };
    let rig = Rig::with(limits, answers("ok")).await;
    let mut buffer = Vec::new();
    // No handshake, no head, half a body.
    let mut silent = rig.tcp().await;
    within(silent.read_to_end(&mut buffer)).await.unwrap();
    assert_eq!(buffer, b"");
    let answer = rig.raw("GET / HTTP/1.1\r\nhost: x").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    let reads = serves(|request| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        Response::new(Full::<Bytes>::from(format!("{}", body.is_ok())))
    });
    rig.expose(OTHER, reads);
    let half = format!("POST / HTTP/1.1\r\nhost: {OTHER}.{BASE}\r\ncontent-length: 9\r\n\r\nhalf");
    let answer = rig.raw(&half).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn stopping_ends_what_does_not_end_by_itself() {
    let never = serves(|_| std::future::pending::<Response<Full<Bytes>>>());
    let limits = Limits {
        idle_timeout: Limits::STANDARD.idle_timeout,
        shutdown_grace: Duration::from_millis(100),
        ..quick()
    };
    let rig = Rig::with(limits, never).await;
    let mut idle = rig.http1::<Empty<Bytes>>().await;
    let mut busy = rig.http1().await;
    let request = Request::get("/")
        .header("host", format!("{PUBLIC}.{BASE}"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let asked = tokio::spawn(async move { busy.send_request(request).await });
    within(rig.ingress.stop()).await;
    // Nobody is taken in any more, and an idle connection is closed.
    within(async {
        while idle.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    asked.abort();
}
