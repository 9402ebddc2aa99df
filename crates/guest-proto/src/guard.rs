//! What stands between a guest's answers and the gRPC library of the host.
//!
//! A guest may answer anything. `tonic` takes some of it for granted: it panics,
//! for example, on status details that are not base64
//! (`Status::from_header_map`, tonic 0.14), which would end the task of a call
//! without an answer to its caller. So every answer is checked here first, and
//! one that breaks the rules of gRPC over HTTP/2 becomes a status that says so.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Frame;
use tonic::codegen::{Body as HttpBody, Bytes, Service, StdError, http};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::MESSAGE_LEN_MAX;
use crate::v1::agent_client::AgentClient;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";
/// The longest text of a status, as it is encoded. Agents of ours stay far
/// below.
const STATUS_MESSAGE_LEN_MAX: usize = 16 * 1024;
/// The prefix of each message: a flag of one byte and a length of four.
const PREFIX_LEN: usize = 5;

/// The client of a guest agent. Host programs have no other.
pub fn agent_client<S, B>(inner: S) -> AgentClient<Guarded<S>>
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<B>>,
    S::Error: Into<StdError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError> + Send,
{
    AgentClient::new(Guarded { inner })
        .max_decoding_message_size(MESSAGE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX)
}

/// What a guest did that no agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// Not the one HTTP status that gRPC uses.
    #[error("its answer has a HTTP status other than 200")]
    HttpStatus,
    /// Not gRPC.
    #[error("its answer is not of a type that starts with application/grpc")]
    ContentType,
    /// A status that is none of gRPC's.
    #[error("the status of its answer is no number from 0 to 16")]
    Status,
    /// The text of a status cannot be read.
    #[error("the text of its status is too long, or not percent-encoded UTF-8")]
    StatusMessage,
    /// The details of a status cannot be read.
    #[error("the details of its status are not base64")]
    StatusDetails,
    /// A message that was never agreed on.
    #[error("its message is compressed, which was not agreed on")]
    Compressed,
    /// A message of too many bytes.
    #[error("its message is longer than {MESSAGE_LEN_MAX} bytes")]
    TooLong,
}

impl From<Misbehaviour> for Status {
    fn from(misbehaviour: Misbehaviour) -> Self {
        Self::new(
            Code::Internal,
            format!(
                "The guest misbehaved: {misbehaviour}. Its agent may have been tampered with; \
                 use another sandbox"
            ),
        )
    }
}

/// A service whose answers are checked.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
}

impl<S, Q, B> Service<http::Request<Q>> for Guarded<S>
where
    S: Service<http::Request<Q>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes>,
{
    type Response = http::Response<GuardedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(guard(answer.await?)) })
    }
}

fn guard<B>(answer: http::Response<B>) -> http::Response<GuardedBody<B>> {
    let (head, body) = answer.into_parts();
    match check_head(head.status, &head.headers) {
        Ok(()) => http::Response::from_parts(head, GuardedBody::new(Some(body))),
        Err(misbehaviour) => Status::from(misbehaviour)
            .into_http::<()>()
            .map(|()| GuardedBody::new(None)),
    }
}

/// The body of an answer: frames are counted, trailers checked.
#[derive(Debug)]
pub struct GuardedBody<B> {
    /// None when nothing more is read of it.
    inner: Option<B>,
    framing: Framing,
}

impl<B> GuardedBody<B> {
    fn new(inner: Option<B>) -> Self {
        Self {
            inner,
            framing: Framing::default(),
        }
    }
}

impl<B> HttpBody for GuardedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(Pin::new(inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        let checked = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => self.framing.check(data),
            (None, Some(trailers)) => check_status(trailers),
            (None, None) => Ok(()),
        };
        Poll::Ready(Some(checked.map(|()| frame).map_err(|misbehaviour| {
            self.inner = None;
            Status::from(misbehaviour).into()
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

/// Where in its sequence of messages a body is.
#[derive(Debug, Default)]
struct Framing {
    /// The part of the next prefix that has come.
    prefix: [u8; PREFIX_LEN],
    prefix_len: usize,
    /// What the message under way still lacks.
    missing: usize,
}

impl Framing {
    /// Takes the next bytes. The length of a message is known before any
    /// memory is set aside for it.
    fn check(&mut self, mut data: &[u8]) -> Result<(), Misbehaviour> {
        loop {
            let skipped = self.missing.min(data.len());
            self.missing -= skipped;
            data = data.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = data.split_first() else {
                return Ok(());
            };
            data = rest;
            if let Some(place) = self.prefix.get_mut(self.prefix_len) {
                *place = *first;
            }
            self.prefix_len += 1;
            if self.prefix_len == PREFIX_LEN {
                self.begin_message()?;
            }
        }
    }

    fn begin_message(&mut self) -> Result<(), Misbehaviour> {
        let [flag, length @ ..] = self.prefix;
        if flag != 0 {
            return Err(Misbehaviour::Compressed);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_LEN_MAX {
            return Err(Misbehaviour::TooLong);
        }
        self.prefix_len = 0;
        self.missing = length;
        Ok(())
    }
}

fn check_head(status: http::StatusCode, headers: &http::HeaderMap) -> Result<(), Misbehaviour> {
    if status != http::StatusCode::OK {
        return Err(Misbehaviour::HttpStatus);
    }
    let is_grpc = headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return Err(Misbehaviour::ContentType);
    }
    check_status(headers)
}

/// The status of a call, in headers or trailers. One that is not there is
/// `tonic`'s to notice.
fn check_status(headers: &http::HeaderMap) -> Result<(), Misbehaviour> {
    for value in headers.get_all(STATUS) {
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        if number.is_none_or(|number: u8| number > 16) {
            return Err(Misbehaviour::Status);
        }
    }
    for value in headers.get_all(MESSAGE) {
        if value.len() > STATUS_MESSAGE_LEN_MAX || !is_percent_encoded(value.as_bytes()) {
            return Err(Misbehaviour::StatusMessage);
        }
    }
    if headers.contains_key(DETAILS) {
        // Read as `tonic` reads it, by the function that does not panic.
        let metadata = MetadataMap::from_headers(headers.clone());
        for value in metadata.get_all_bin(DETAILS) {
            value.to_bytes().ok().ok_or(Misbehaviour::StatusDetails)?;
        }
    }
    Ok(())
}

/// Whether a status's text is UTF-8 once every `%XX` is a byte
/// (gRPC over HTTP/2, `Percent-Encoded`).
fn is_percent_encoded(text: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| {
        let digit = char::from(*byte?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return false;
        };
        decoded.push(high << 4 | low);
    }
    std::str::from_utf8(&decoded).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'static str, &'a [u8])];

    fn headers(pairs: Pairs<'_>) -> http::HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = http::HeaderValue::from_bytes(value).unwrap();
            (http::HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    #[test]
    fn statuses_are_told_apart() {
        let long = vec![b'x'; STATUS_MESSAGE_LEN_MAX + 1];
        let cases: &[(Pairs<'_>, Result<(), Misbehaviour>)] = &[
            (&[], Ok(())),
            (&[(STATUS, b"0")], Ok(())),
            (&[(STATUS, b"16"), (MESSAGE, b"a%20%C3%BC b")], Ok(())),
            (&[(STATUS, b"2"), (DETAILS, b"CAI")], Ok(())),
            (&[(STATUS, b"2"), (DETAILS, b"CAI=")], Ok(())),
            (&[(STATUS, b"17")], Err(Misbehaviour::Status)),
            (&[(STATUS, b"-1")], Err(Misbehaviour::Status)),
            (&[(STATUS, b"")], Err(Misbehaviour::Status)),
            (&[(STATUS, b"\xff")], Err(Misbehaviour::Status)),
            (&[(MESSAGE, b"%")], Err(Misbehaviour::StatusMessage)),
            (&[(MESSAGE, b"%f")], Err(Misbehaviour::StatusMessage)),
            (&[(MESSAGE, b"%zz")], Err(Misbehaviour::StatusMessage)),
            (&[(MESSAGE, b"%ff")], Err(Misbehaviour::StatusMessage)),
            (&[(MESSAGE, &long)], Err(Misbehaviour::StatusMessage)),
            (&[(DETAILS, b"!")], Err(Misbehaviour::StatusDetails)),
            (&[(DETAILS, b"\xff\xff")], Err(Misbehaviour::StatusDetails)),
        ];
        for (pairs, expected) in cases {
            assert_eq!(check_status(&headers(pairs)), *expected, "{pairs:?}");
        }
    }

    /// What passes must not make the library panic.
    #[test]
    fn whatever_passes_is_read_by_the_library() {
        for byte in 0..=255_u8 {
            for text in [vec![byte], vec![b'A', byte], vec![b'A', b'A', byte, b'=']] {
                let Ok(value) = http::HeaderValue::from_bytes(&text) else {
                    continue;
                };
                let mut map = headers(&[(STATUS, b"2")]);
                map.insert(DETAILS, value.clone());
                map.insert(MESSAGE, value);
                if check_status(&map).is_ok() {
                    assert!(Status::from_header_map(&map).is_some(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn messages_are_measured_however_they_are_cut() {
        let message = |flag: u8, length: usize, there: usize| {
            let length = u32::try_from(length).unwrap().to_be_bytes();
            [&[flag][..], &length, &vec![7; there]].concat()
        };
        let fine = message(0, 3, 3);
        let cases = [
            (fine.clone(), Ok(())),
            (message(0, 0, 0), Ok(())),
            (message(0, MESSAGE_LEN_MAX, 0), Ok(())),
            (
                message(0, MESSAGE_LEN_MAX + 1, 0),
                Err(Misbehaviour::TooLong),
            ),
            (message(0, u32::MAX as usize, 0), Err(Misbehaviour::TooLong)),
            (message(1, 3, 3), Err(Misbehaviour::Compressed)),
        ];
        for (last, expected) in cases {
            let bytes = [&fine[..], &fine, &last].concat();
            for cut in 1..=bytes.len() {
                let mut framing = Framing::default();
                let mut pieces = bytes.chunks(cut);
                let checked = pieces.try_for_each(|piece| framing.check(piece));
                assert_eq!(checked, expected, "cut into {cut}");
            }
        }
    }
}
