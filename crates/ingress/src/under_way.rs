//! The requests of one connection that are under way, so that one on which nothing is
//! wanted any more can be ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::body::{Body, BodyError};

/// How many requests are under way, and how many have come in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    now: usize,
    ever: u64,
}

/// Counts the requests of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnderWay(Arc<watch::Sender<Count>>);

impl UnderWay {
    /// Counts one more, until what comes back is dropped.
    pub(crate) fn one(&self) -> OneUnderWay {
        self.0.send_modify(|count| {
            count.now += 1;
            count.ever = count.ever.saturating_add(1);
        });
        OneUnderWay(self.clone())
    }

    /// Whether there has been any.
    pub(crate) fn any(&self) -> bool {
        self.0.borrow().ever > 0
    }

    /// Waits until none has been under way for so long.
    pub(crate) async fn none_for(&self, limit: Duration) {
        let mut counts = self.0.subscribe();
        loop {
            // The sender is ours, so neither wait ends for its end.
            if counts.wait_for(|count| count.now == 0).await.is_err() {
                return;
            }
            if timeout(limit, counts.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct OneUnderWay(UnderWay);

impl OneUnderWay {
    /// It is under way until its response has been taken to the end or given up.
    pub(crate) fn until_answered(self, response: Response<Body>) -> Response<Body> {
        response.map(|inner| {
            let counted = Counted {
                inner,
                _request: self,
            };
            counted.boxed_unsync()
        })
    }
}

impl Drop for OneUnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| count.now -= 1);
    }
}

/// The body of a response whose request is under way.
struct Counted {
    inner: Body,
    _request: OneUnderWay,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A request that begins and ends at these seconds from now.
    async fn request(under_way: UnderWay, begins: u64, takes: u64) {
        tokio::time::sleep(Duration::from_secs(begins)).await;
        let one = under_way.one();
        tokio::time::sleep(Duration::from_secs(takes)).await;
        let response = one.until_answered(Response::new(crate::body::empty()));
        assert!(under_way.any());
        drop(response);
    }

    /// Requests by when they begin and how long they take, in seconds, and when the
    /// connection has rested for long enough.
    #[tokio::test(start_paused = true)]
    async fn a_rest_begins_when_the_last_request_ends() {
        let cases: [(&[(u64, u64)], u64); 6] = [
            (&[], 30),
            (&[(0, 10)], 40),
            (&[(29, 0)], 59),
            (&[(0, 10), (5, 100)], 135),
            (&[(0, 1), (30, 1), (60, 1)], 91),
            (&[(31, 1)], 30),
        ];
        for (requests, rested_at) in cases {
            let under_way = UnderWay::default();
            let began = Instant::now();
            for (begins, takes) in requests {
                tokio::spawn(request(under_way.clone(), *begins, *takes));
            }
            under_way.none_for(LIMIT).await;
            let rested = began.elapsed().as_secs();
            assert_eq!(rested, rested_at, "{requests:?}");
        }
        assert!(!UnderWay::default().any());
    }
}
