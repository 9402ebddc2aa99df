//! The body of a response as it flows to the guest.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::{Scrub, TOO_DENSE, scrub_headers};
use crate::{
    audit::Draft,
    http::{
        ResponseBody,
        coding::is_too_dense,
        open::Watch,
        request_body::Meter,
        search::{Search, SecretsChanged},
    },
    upstream::{BodyError, Lease},
};

/// A body on its way to the guest. Its record is written when it is dropped.
#[derive(Debug)]
pub(in crate::http) struct ToGuest {
    pub(super) inner: ResponseBody,
    pub(super) searching: Searching,
    /// Who searches trailers.
    pub(super) scrub: Option<Scrub>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) is_finished: bool,
    pub(super) length: Option<u64>,
    pub(super) lease: Option<Lease>,
    pub(super) bytes: u64,
    /// None where the body is none.
    pub(super) meter: Option<Arc<Meter>>,
    pub(super) watch: Option<Watch>,
    pub(super) draft: Option<Draft>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// How a body is searched.
#[derive(Debug)]
pub(super) enum Searching {
    /// It was, or there is none.
    Done,
    /// There were no secrets when it began, and its framing promises what a search could not
    /// keep: it ends when there are.
    Unneeded,
    Stream(Search),
}

/// Why a body does not reach its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the response is not passed on any further: {0}")]
struct Ended(&'static str);

impl ToGuest {
    fn frame(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn finish(&mut self) -> Option<Vec<u8>> {
        self.is_finished = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        let mut rest = Vec::new();
        if let Searching::Stream(search) = &mut self.searching {
            search.finish(&mut rest);
        }
        (!rest.is_empty()).then_some(rest)
    }

    /// What of a piece may be passed on; nothing where all of it is held back.
    fn search(&mut self, data: Bytes) -> Result<Option<Bytes>, Ended> {
        let changed = Ended("secrets_changed");
        match &mut self.searching {
            Searching::Done => Ok(Some(data)),
            Searching::Unneeded => {
                let is_needed = self
                    .scrub
                    .as_ref()
                    .is_some_and(|scrub| !scrub.sandbox.rules().secrets.is_empty());
                if is_needed {
                    Err(changed)
                } else {
                    Ok(Some(data))
                }
            }
            Searching::Stream(search) => {
                let mut out = Vec::with_capacity(data.len());
                search
                    .push(&data, &mut out)
                    .map_err(|SecretsChanged| changed)?;
                Ok((!out.is_empty()).then(|| Bytes::from(out)))
            }
        }
    }

    /// Ends the body before its end.
    fn break_off<E>(
        &mut self,
        code: &'static str,
        error: E,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>
    where
        E: Into<BodyError>,
    {
        if let Some(draft) = &mut self.draft {
            draft.record.failed(code);
        }
        // The connection to the host is not used again.
        self.lease = None;
        Poll::Ready(Some(Err(error.into())))
    }

    pub(super) fn note_scrubbed(&self, count: u64) {
        if let Some(meter) = &self.meter {
            meter.scrubbed.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn take_trailers(&mut self, mut trailers: HeaderMap) {
        if let Some(scrub) = &self.scrub {
            let scrubbed = scrub_headers(&scrub.sandbox, &scrub.rules, &mut trailers);
            self.note_scrubbed(scrubbed);
        }
        self.trailers = Some(trailers);
    }
}

impl Body for ToGuest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if this.is_finished {
                let trailers = this.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if let Some(Poll::Ready(code)) =
                this.watch.as_mut().map(|watch| watch.poll_end(context))
            {
                return this.break_off(code, Ended(code));
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    let is_dense = is_too_dense(&error);
                    let code = if is_dense { TOO_DENSE } else { "upstream_body" };
                    return this.break_off(code, error);
                }
                None => {
                    if let Some(rest) = this.finish() {
                        return this.frame(rest.into());
                    }
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => match this.search(data) {
                    Ok(Some(out)) => return this.frame(out),
                    Ok(None) => {}
                    Err(ended) => return this.break_off(ended.0, ended),
                },
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        this.take_trailers(trailers);
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_finished && self.trailers.is_none()
            || !matches!(self.searching, Searching::Stream(_)) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| {
            SizeHint::with_exact(length.saturating_sub(self.bytes))
        })
    }
}

impl Drop for ToGuest {
    fn drop(&mut self) {
        // A body that ended by itself may not have been asked for its end.
        if !self.is_finished && self.inner.is_end_stream() {
            self.finish();
        }
        let Some(draft) = &mut self.draft else {
            return;
        };
        let record = &mut draft.record;
        record.resp_bytes = self.bytes;
        if let Some(meter) = &self.meter {
            record.req_bytes = meter.bytes.load(Ordering::Relaxed);
            record.found(&meter.findings.lock());
            record.scrubbed += meter.scrubbed.load(Ordering::Relaxed);
        }
        if let Searching::Stream(search) = &self.searching {
            record.scrubbed += search.scrubbed();
        }
    }
}
