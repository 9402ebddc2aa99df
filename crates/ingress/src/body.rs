//! Bodies on their way: counted, watched for progress, and holding what they count
//! against until they are over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backend::{Meter, Way};

/// Any cause for which a body ended early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body of a request or a response.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(text: String) -> Body {
    Full::from(text)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A client sent nothing for too long in the middle of a body.
#[derive(Debug, thiserror::Error)]
#[error("the client sent nothing more of the body in time")]
pub(crate) struct Stalled;

/// When a byte last passed, shared by all that passes bytes of one exchange.
#[derive(Debug)]
pub(crate) struct Activity {
    last: Mutex<Instant>,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            last: Mutex::new(Instant::now()),
        })
    }

    pub(crate) fn note(&self) {
        *self.last.lock() = Instant::now();
    }

    /// Waits until nothing has passed for so long.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let last = *self.last.lock();
            let due = last + limit;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// A body that passes.
pub(crate) struct Passing {
    inner: Incoming,
    meter: Arc<Meter>,
    way: Way,
    activity: Arc<Activity>,
    /// Until when the next part must be there, if it must.
    patience: Option<Patience>,
    /// Given back when the body is over or given up.
    permit: Option<OwnedSemaphorePermit>,
}

struct Patience {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// Nobody asked the client for more since it sent the last.
    is_resting: bool,
}

impl Passing {
    /// What a client sends, which must not pause for longer than `limit`.
    pub(crate) fn of_request(
        inner: Incoming,
        meter: Arc<Meter>,
        activity: Arc<Activity>,
        limit: Duration,
    ) -> Body {
        let timer = Box::pin(sleep_until(Instant::now() + limit));
        Self {
            inner,
            meter,
            way: Way::In,
            activity,
            patience: Some(Patience {
                limit,
                timer,
                is_resting: true,
            }),
            permit: None,
        }
        .boxed_unsync()
    }

    /// What a program answers, at whatever pace.
    pub(crate) fn of_response(
        inner: Incoming,
        meter: Arc<Meter>,
        activity: Arc<Activity>,
        permit: OwnedSemaphorePermit,
    ) -> Body {
        Self {
            inner,
            meter,
            way: Way::Out,
            activity,
            patience: None,
            permit: Some(permit),
        }
        .boxed_unsync()
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
            if let Some(patience) = &mut this.patience {
                // It has its time from when it is asked, not while the program rests.
                if std::mem::take(&mut patience.is_resting) {
                    patience
                        .timer
                        .as_mut()
                        .reset(Instant::now() + patience.limit);
                }
                ready!(patience.timer.as_mut().poll(context));
                return Poll::Ready(Some(Err(Stalled.into())));
            }
            return Poll::Pending;
        };
        this.activity.note();
        if let Some(patience) = &mut this.patience {
            patience.is_resting = true;
        }
        match frame {
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, Bytes::remaining);
                this.meter.bytes(this.way, len);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                this.permit = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
