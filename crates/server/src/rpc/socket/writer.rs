//! Writes frames.

use std::borrow::Cow;
use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// What is gathered before it is written.
const BUFFER_LEN: usize = 32 * 1024;
/// The longest reason of a close frame: 125 bytes less the code.
const REASON_LEN_MAX: usize = 123;

/// Why the server closes.
#[derive(Clone, Debug)]
pub(in crate::rpc) struct CloseReason {
    pub(in crate::rpc) code: CloseCode,
    pub(in crate::rpc) words: Cow<'static, str>,
}

impl CloseReason {
    pub(in crate::rpc) fn into_payload(self) -> Vec<u8> {
        let mut payload = u16::from(self.code).to_be_bytes().to_vec();
        let end = self.words.floor_char_boundary(REASON_LEN_MAX);
        payload.extend_from_slice(self.words.get(..end).unwrap_or_default().as_bytes());
        payload
    }
}

/// The writing half.
#[derive(Debug)]
pub(in crate::rpc) struct FrameWriter<W> {
    io: W,
    buffer: Vec<u8>,
    is_within_message: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(io: W) -> Self {
        Self {
            io,
            buffer: Vec::new(),
            is_within_message: false,
        }
    }

    /// Writes a text message, or the next fragment of one. The message ends
    /// with the fragment that `is_last` (RFC 6455, section 5.4).
    pub(in crate::rpc) async fn text(&mut self, text: &str, is_last: bool) -> io::Result<()> {
        let data = if self.is_within_message {
            Data::Continue
        } else {
            Data::Text
        };
        self.is_within_message = !is_last;
        self.frame(OpCode::Data(data), is_last, text.as_bytes())
            .await
    }

    /// Writes a control frame, which may stand between fragments.
    pub(in crate::rpc) async fn control(
        &mut self,
        control: Control,
        payload: &[u8],
    ) -> io::Result<()> {
        self.frame(OpCode::Control(control), true, payload).await
    }

    /// Sends what was written.
    pub(in crate::rpc) async fn flush(&mut self) -> io::Result<()> {
        self.drain().await?;
        self.io.flush().await
    }

    /// Ends the connection in this direction.
    pub(in crate::rpc) async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.shutdown().await
    }

    async fn frame(&mut self, opcode: OpCode, is_final: bool, payload: &[u8]) -> io::Result<()> {
        let head = FrameHeader {
            is_final,
            opcode,
            ..FrameHeader::default()
        };
        head.format(payload.len() as u64, &mut self.buffer)
            .map_err(io::Error::other)?;
        if self.buffer.len() + payload.len() <= BUFFER_LEN {
            self.buffer.extend_from_slice(payload);
            return Ok(());
        }
        self.drain().await?;
        self.io.write_all(payload).await
    }

    async fn drain(&mut self) -> io::Result<()> {
        self.io.write_all(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fragments_make_one_message_with_control_frames_between() {
        let mut writer = FrameWriter::new(Vec::new());
        writer.text("ab", false).await.unwrap();
        writer.control(Control::Pong, b"!").await.unwrap();
        writer.text("c", false).await.unwrap();
        writer.text("", true).await.unwrap();
        writer.text("d", true).await.unwrap();
        let reason = CloseReason {
            code: CloseCode::Away,
            words: "so".into(),
        };
        let payload = reason.into_payload();
        writer.control(Control::Close, &payload).await.unwrap();
        writer.flush().await.unwrap();
        let expected: [&[u8]; 6] = [
            b"\x01\x02ab",
            b"\x8a\x01!",
            b"\x00\x01c",
            b"\x80\x00",
            b"\x81\x01d",
            b"\x88\x04\x03\xe9so",
        ];
        assert_eq!(writer.io, expected.concat());
    }

    #[tokio::test]
    async fn a_long_message_is_written_whole_and_a_long_reason_cut() {
        let mut writer = FrameWriter::new(Vec::new());
        let text = "x".repeat(100_000);
        writer.text(&text, true).await.unwrap();
        assert_eq!(writer.io.len(), 10 + text.len());
        let reason = CloseReason {
            code: CloseCode::Size,
            words: "é".repeat(100).into(),
        };
        assert_eq!(reason.into_payload().len(), 2 + 122);
    }
}
