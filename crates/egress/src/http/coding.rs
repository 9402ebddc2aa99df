//! Undoing content codings, whole and as a stream.

use std::{io, pin::Pin};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, BufReader};
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
            Coding::Brotli => Box::pin(BrotliDecoder::new(buffered)),
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
