//! The frames between the agent and its programs in Deno, as `frames.mjs` has
//! them: the payload's length in four bytes, little-endian, one byte for the
//! kind, the payload.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tombolo_guest_proto::v1::{DenoFrame, DenoFrameKind};

// These two are never messages of the contract: its enumeration reserves them.

/// Gives up the request that the payload numbers.
pub(super) const CANCEL: u8 = 4;
/// Numbers the request that follows.
pub(super) const OPEN: u8 = 5;
/// More than any head, error or piece of data is.
const PAYLOAD_LEN_MAX: usize = 1024 * 1024;

/// Sends a frame.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    payload: &[u8],
) -> io::Result<()> {
    let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(&[kind]).await?;
    stream.write_all(payload).await
}

/// The next frame. The end of the stream is an error, since every answer has
/// an end of its own.
pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<DenoFrame> {
    let len = stream.read_u32_le().await?;
    let kind = stream.read_u8().await?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let kind = DenoFrameKind::try_from(i32::from(kind));
    let (Ok(kind), true) = (kind, len <= PAYLOAD_LEN_MAX) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).await?;
    Ok(DenoFrame {
        kind: kind.into(),
        payload: Bytes::from(payload),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_and_what_is_none_is_refused() {
        let mut bytes = Vec::new();
        send(&mut bytes, 1, b"abc").await.unwrap();
        send(&mut bytes, 2, b"").await.unwrap();
        assert_eq!(bytes, b"\x03\0\0\0\x01abc\0\0\0\0\x02");
        let mut rest = &bytes[..];
        let first = receive(&mut rest).await.unwrap();
        assert_eq!(first.kind(), DenoFrameKind::DenoFrameData);
        assert_eq!(&first.payload[..], b"abc");
        let last = receive(&mut rest).await.unwrap();
        assert_eq!(last.kind(), DenoFrameKind::DenoFrameEnd);
        for wrong in [
            &b""[..],
            b"\x03\0\0\0\x01ab",
            b"\0\0\0\0\x09",
            b"\x01\0\x10\0\x01",
            b"\xff\xff\xff\xff\x01",
        ] {
            assert!(receive(&mut &wrong[..]).await.is_err(), "{wrong:?}");
        }
    }
}
