//! Undoing content codings, whole and as a stream.
//!
//! A decoder takes memory for its window, whatever it decodes, so each sandbox has a budget
//! of it; and what it makes of a few bytes is bounded (HTTP-24).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::StatusCode;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, BufReader, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::io::{ReaderStream, StreamReader};
use tombolo_substitute::{Coding, Codings};

use super::Stop;
use crate::{
    sandbox::Sandbox,
    upstream::{BodyError, RequestBody},
};

/// How much is decoded at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// The largest window of zstd, as a power of two: 8 MiB, which RFC 9659 sets for HTTP. The
/// library by itself would take 128 MiB for each body that asks for it.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What a decoder takes at most of memory: its window, and its tables and buffers.
const INFLATE_KIB: u32 = 32 + 96;
const ZSTD_KIB: u32 = (8 << 10) + 512;
const BROTLI_KIB: u32 = (16 << 10) + (4 << 10);
/// How many times as long as it came a body may become.
const RATIO_MAX: u64 = 100;
/// So much it may become in any case: short texts that repeat themselves are no attack.
const RATIO_FLOOR_BYTES: u64 = 1 << 20;
/// So much is read of a body, or of what a coding made of it, before others have their turn.
const TURN_BYTES: usize = 256 << 10;

/// A body does not decode.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the decoded body is too long")]
    TooLong,
    #[error(transparent)]
    TooDense(#[from] TooDense),
    #[error("the body does not decode")]
    Broken(#[source] io::Error),
}

/// A body that is made to cost more than it has.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body decodes to more than {RATIO_MAX} times its length")]
pub(super) struct TooDense;

/// Undoes the codings of one body. It holds a share of what its sandbox may take for that.
#[derive(Debug)]
pub(super) struct Decoder {
    codings: Codings,
    /// None where there is nothing to undo.
    room: Option<OwnedSemaphorePermit>,
}

impl Decoder {
    /// Waits a while for room. Whoever waits may hold room itself, because a request and its
    /// response are decoded side by side; so the wait ends, and the body is refused.
    pub(super) async fn new(sandbox: &Sandbox, codings: Codings) -> Result<Self, Stop> {
        let room = if codings.is_empty() {
            None
        } else {
            let kib = codings.0.iter().map(|&coding| memory_kib(coding)).sum();
            let room = sandbox.reserve_decoders(kib).await;
            Some(room.ok_or_else(no_room)?)
        };
        Ok(Self { codings, room })
    }

    /// Whether there is nothing to undo.
    pub(super) fn is_idle(&self) -> bool {
        self.codings.is_empty()
    }

    /// Decodes all of a body, up to `max` bytes.
    pub(super) async fn whole(&self, body: &[u8], max: usize) -> Result<Vec<u8>, DecodeError> {
        if self.is_idle() {
            return if body.len() > max {
                Err(DecodeError::TooLong)
            } else {
                Ok(body.to_vec())
            };
        }
        let taken = Arc::new(AtomicU64::new(body.len() as u64));
        let source = Box::pin(io::Cursor::new(body.to_vec()));
        let reader = decoder(source, &self.codings, &taken);
        let mut decoded = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        if let Err(error) = reader.take(limit).read_to_end(&mut decoded).await {
            return Err(match too_dense(&error) {
                Some(dense) => dense.into(),
                None => DecodeError::Broken(error),
            });
        }
        if decoded.len() > max {
            return Err(DecodeError::TooLong);
        }
        Ok(decoded)
    }

    /// Decodes a body as it flows. Memory is bounded by what is read of it; trailers are lost.
    pub(super) fn stream(self, body: RequestBody) -> RequestBody {
        if self.is_idle() {
            return body;
        }
        let taken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&taken);
        let chunks = BodyStream::new(body)
            .try_filter_map(async |frame: Frame<Bytes>| Ok(frame.into_data().ok()))
            .inspect_ok(move |data: &Bytes| {
                count.fetch_add(data.len() as u64, Ordering::Relaxed);
            })
            .map_err(io::Error::other);
        let source = Box::pin(StreamReader::new(chunks));
        let reader = decoder(source, &self.codings, &taken);
        let room = self.room;
        let frames = ReaderStream::with_capacity(reader, CHUNK_BYTES)
            .map_ok(Frame::data)
            .map_err(move |error| -> BodyError {
                // Until the body is dropped.
                let _held = &room;
                Box::new(error)
            });
        StreamBody::new(frames).boxed_unsync()
    }
}

/// Bodies of this sandbox take what it may have for decoding.
fn no_room() -> Stop {
    Stop::refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_compressed",
        "This sandbox has too many compressed bodies under way.",
    )
}

fn memory_kib(coding: Coding) -> u32 {
    match coding {
        Coding::Gzip | Coding::Deflate => INFLATE_KIB,
        Coding::Zstd => ZSTD_KIB,
        Coding::Brotli => BROTLI_KIB,
    }
}

/// Whether a body failed because it [is too dense](TooDense).
pub(super) fn is_too_dense(error: &BodyError) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| too_dense(error).is_some())
}

fn too_dense(error: &io::Error) -> Option<TooDense> {
    error.get_ref()?.downcast_ref().copied()
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// The last coding that was applied is undone first. What each makes is bounded by what was
/// taken of the body.
fn decoder(body: Reader, codings: &Codings, taken: &Arc<AtomicU64>) -> Reader {
    let mut reader = body;
    for coding in codings.0.iter().rev() {
        let buffered = BufReader::with_capacity(CHUNK_BYTES, Paced::new(reader));
        let decoded: Reader = match coding {
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(buffered);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Coding::Deflate => Box::pin(ZlibDecoder::new(buffered)),
            Coding::Brotli => Box::pin(BrotliDecoder::new(OrdinaryWindow::new(buffered))),
            Coding::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
                let mut decoder = ZstdDecoder::with_params(buffered, &[window]);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        };
        reader = Box::pin(Bounded::new(decoded, Arc::clone(taken)));
    }
    reader
}

/// Lets others have their turn after so much that was read without waiting: a decoder reads
/// on for as long as it makes nothing of what it reads.
struct Paced {
    inner: Reader,
    since_turn: usize,
}

impl Paced {
    fn new(inner: Reader) -> Self {
        Self {
            inner,
            since_turn: 0,
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.since_turn >= TURN_BYTES {
            self.since_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = out.filled().len();
        ready!(self.inner.as_mut().poll_read(context, out))?;
        let read = out.filled().len().saturating_sub(before);
        self.since_turn = self.since_turn.saturating_add(read);
        Poll::Ready(Ok(()))
    }
}

/// What is decoded, for as long as it is not too much for what was taken for it.
struct Bounded {
    inner: Reader,
    taken: Arc<AtomicU64>,
    given: u64,
}

impl Bounded {
    fn new(inner: Reader, taken: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            taken,
            given: 0,
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(self.inner.as_mut().poll_read(context, out))?;
        let read = out.filled().len().saturating_sub(before);
        self.given = self.given.saturating_add(read as u64);
        let allowed = self.taken.load(Ordering::Relaxed).saturating_mul(RATIO_MAX);
        if self.given > allowed.max(RATIO_FLOOR_BYTES) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, TooDense)));
        }
        Poll::Ready(Ok(()))
    }
}

/// A brotli stream whose window has a size of RFC 7932, 16 MiB at most. The decoder would
/// also take the "large window" form, which is not of that RFC and asks for up to 1 GiB.
struct OrdinaryWindow<R> {
    inner: R,
    is_checked: bool,
}

/// A stream begins with what RFC 7932, section 9.1, calls an invalid size of the window.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the size of the brotli window is not valid")]
struct WindowError;

impl<R> OrdinaryWindow<R> {
    /// The first bits of a stream, which stand for no size, and how many they are.
    const INVALID_BITS: u8 = 0b001_0001;
    const INVALID_MASK: u8 = 0b111_1111;

    fn new(inner: R) -> Self {
        Self {
            inner,
            is_checked: false,
        }
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for OrdinaryWindow<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let bytes = ready!(Pin::new(&mut this.inner).poll_fill_buf(context))?;
        if !this.is_checked
            && let Some(first) = bytes.first()
        {
            if first & Self::INVALID_MASK == Self::INVALID_BITS {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, WindowError)));
            }
            this.is_checked = true;
        }
        Poll::Ready(Ok(bytes))
    }

    fn consume(mut self: Pin<&mut Self>, len: usize) {
        Pin::new(&mut self.inner).consume(len);
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for OrdinaryWindow<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(context))?;
        let (now, _later) = bytes.split_at(bytes.len().min(out.remaining()));
        out.put_slice(now);
        let len = now.len();
        self.consume(len);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
    use http_body_util::Full;
    use tokio::io::AsyncWriteExt as _;

    use futures_util::FutureExt as _;

    use super::*;

    const MAX: usize = 1 << 10;
    /// An empty stream with a window of 2^30 bytes.
    const LARGE: [u8; 2] = [0x11, 0xde];

    async fn brotli(plain: &[u8]) -> Vec<u8> {
        let mut encoder = BrotliEncoder::new(Vec::new());
        encoder.write_all(plain).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }

    /// The same body whole and as it flows.
    async fn decoded(
        codings: &Codings,
        body: Vec<u8>,
        max: usize,
    ) -> (Result<Vec<u8>, DecodeError>, Result<Vec<u8>, BodyError>) {
        let decoder = || Decoder {
            codings: codings.clone(),
            room: None,
        };
        let whole = decoder().whole(&body, max).await;
        let source = Full::new(Bytes::from(body)).map_err(|never| match never {});
        let stream = decoder().stream(source.boxed_unsync());
        let flowed = stream.collect().await;
        (whole, flowed.map(|all| all.to_bytes().to_vec()))
    }

    /// A body that decodes to far more than it has is cut off, in whichever coding, and one
    /// that is short or only well compressed is not.
    #[tokio::test]
    async fn a_body_becomes_no_more_than_a_hundred_times_as_long() {
        let floor = usize::try_from(RATIO_FLOOR_BYTES).unwrap();
        // One byte of 64 is new.
        let mut state = 1_u32;
        let mixed: Vec<u8> = (0..3 * floor)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 64 == 0 {
                    state.to_be_bytes()[0]
                } else {
                    b'a'
                }
            })
            .collect();
        let dense = vec![b'a'; 3 * floor];
        for coding in ["gzip", "br", "zstd"] {
            for (plain, is_dense) in [(&dense[..floor], false), (&dense, true), (&mixed, false)] {
                let case = format!("{coding}, {} bytes", plain.len());
                let codings = Codings::parse(coding).unwrap();
                let body = encoded(coding, plain).await;
                let (whole, flowed) = decoded(&codings, body, plain.len()).await;
                let cut = matches!(whole, Err(DecodeError::TooDense(_)));
                assert_eq!(cut, is_dense, "{case}");
                assert_eq!(flowed.as_ref().is_err_and(is_too_dense), is_dense, "{case}");
                assert_eq!(whole.is_ok_and(|whole| whole == plain), !is_dense, "{case}");
                assert_eq!(
                    flowed.is_ok_and(|flowed| flowed == plain),
                    !is_dense,
                    "{case}"
                );
            }
        }
    }

    /// What a coding makes is bounded also where the next one makes nothing of it, and
    /// whoever decodes lets others have their turn.
    #[tokio::test]
    async fn what_becomes_of_a_body_between_two_codings_is_bounded() {
        let empty = encoded("gzip", b"").await;
        let members = empty.repeat(4 * TURN_BYTES / empty.len());
        let gzip = Codings::parse("gzip").unwrap();
        let decoder = Decoder {
            codings: gzip,
            room: None,
        };
        let turn = decoder.whole(&members, 1).now_or_never();
        assert!(turn.is_none(), "decoded in one turn");
        let (whole, flowed) = decoded(&decoder.codings, members.clone(), 1).await;
        assert_eq!((whole.unwrap(), flowed.unwrap()), (Vec::new(), Vec::new()));

        let floor = usize::try_from(RATIO_FLOOR_BYTES).unwrap();
        let twice = encoded("zstd", &members.repeat(2 * floor / members.len())).await;
        let (whole, flowed) = decoded(&Codings::parse("gzip, zstd").unwrap(), twice, 1).await;
        assert!(matches!(&whole, Err(DecodeError::TooDense(_))), "{whole:?}");
        assert!(flowed.is_err_and(|error| is_too_dense(&error)));
    }

    async fn encoded(coding: &str, plain: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => {
                let mut encoder = GzipEncoder::new(Vec::new());
                encoder.write_all(plain).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }
            "zstd" => {
                let mut encoder = ZstdEncoder::new(Vec::new());
                encoder.write_all(plain).await.unwrap();
                encoder.shutdown().await.unwrap();
                encoder.into_inner()
            }
            _ => brotli(plain).await,
        }
    }

    /// A brotli stream that asks for a window that the RFC does not have is refused,
    /// in whichever layer it is.
    #[tokio::test]
    async fn a_brotli_stream_with_a_large_window_does_not_decode() {
        let plain = b"hello, hello, hello".to_vec();
        let once = brotli(&plain).await;
        let cases = [
            ("br", once.clone(), Some(plain.clone())),
            ("br, br", brotli(&once).await, Some(plain)),
            ("br", LARGE.to_vec(), None),
            ("br, br", brotli(&LARGE).await, None),
            ("br, br", LARGE.to_vec(), None),
        ];
        for (codings, body, expected) in cases {
            let codings = Codings::parse(codings).unwrap();
            let (whole, flowed) = decoded(&codings, body, MAX).await;
            if let Some(plain) = expected {
                assert_eq!(whole.unwrap(), plain, "{codings:?}");
                assert_eq!(flowed.unwrap(), plain, "{codings:?}");
            } else {
                assert!(matches!(whole, Err(DecodeError::Broken(_))), "{codings:?}");
                assert!(flowed.is_err(), "{codings:?}");
            }
        }
    }
}
