//! Undoing content codings, whole and as a stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, BufReader, ReadBuf};
use tokio_util::io::{ReaderStream, StreamReader};
use tombolo_substitute::{Coding, Codings};

use crate::upstream::{BodyError, RequestBody};

/// How much is decoded at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// The largest window of zstd, as a power of two: 8 MiB, which RFC 9659 sets for HTTP. The
/// library by itself would take 128 MiB for each body that asks for it.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A body does not decode.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the decoded body is too long")]
    TooLong,
    #[error("the body does not decode")]
    Broken(#[from] io::Error),
}

/// Decodes all of a body, up to `max` bytes.
pub(super) async fn decode(
    body: &[u8],
    codings: &Codings,
    max: usize,
) -> Result<Vec<u8>, DecodeError> {
    if codings.is_empty() {
        return if body.len() > max {
            Err(DecodeError::TooLong)
        } else {
            Ok(body.to_vec())
        };
    }
    let reader = decoder(Box::pin(io::Cursor::new(body.to_vec())), codings);
    let mut decoded = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut decoded).await?;
    if decoded.len() > max {
        return Err(DecodeError::TooLong);
    }
    Ok(decoded)
}

/// Decodes a body as it flows. Memory is bounded by what is read of it; trailers are lost.
pub(super) fn decode_stream(body: RequestBody, codings: &Codings) -> RequestBody {
    if codings.is_empty() {
        return body;
    }
    let chunks = BodyStream::new(body)
        .try_filter_map(async |frame: Frame<Bytes>| Ok(frame.into_data().ok()))
        .map_err(io::Error::other);
    let reader = decoder(Box::pin(StreamReader::new(chunks)), codings);
    let frames = ReaderStream::with_capacity(reader, CHUNK_BYTES)
        .map_ok(Frame::data)
        .map_err(|error| -> BodyError { Box::new(error) });
    StreamBody::new(frames).boxed_unsync()
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type BufferedReader = Pin<Box<dyn AsyncBufRead + Send>>;

/// The last coding that was applied is undone first.
fn decoder(body: BufferedReader, codings: &Codings) -> Reader {
    let mut reader: Reader = body;
    for coding in codings.0.iter().rev() {
        let buffered = BufReader::with_capacity(CHUNK_BYTES, reader);
        reader = match coding {
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
    }
    reader
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
    use async_compression::tokio::write::BrotliEncoder;
    use http_body_util::Full;
    use tokio::io::AsyncWriteExt as _;

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
            let whole = decode(&body, &codings, MAX).await;
            let source = Full::new(Bytes::from(body)).map_err(|never| match never {});
            let stream = decode_stream(source.boxed_unsync(), &codings);
            let flowed = stream.collect().await.map(|all| all.to_bytes().to_vec());
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
