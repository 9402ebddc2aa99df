//! Takes the bytes of a connection apart into events. Knows no connection.
//!
//! Reachable from the network: any bytes give events or [`Malformed`], and
//! never more than the buffer's content is held.

use std::io::Cursor;

use bytes::BytesMut;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::Event;

/// RFC 6455, section 5.5.
const CONTROL_LEN_MAX: u64 = 125;

/// The client does not speak WebSocket as it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::rpc) enum Malformed {
    #[error("the frame's head makes no sense")]
    Head,
    #[error("a client must mask what it sends")]
    Unmasked,
    #[error("an extension is used that was not agreed on")]
    Extension,
    #[error("a control frame is long or in parts")]
    Control,
    #[error("a message begins within another, or goes on without a beginning")]
    Order,
    #[error("the close frame makes no sense")]
    Close,
    #[error("the message is too large")]
    TooLarge,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: BytesMut,
    message_len_max: u64,
    message: Option<Message>,
    payload: Option<Payload>,
}

/// The message under way.
#[derive(Clone, Copy, Debug)]
struct Message {
    len: u64,
    is_text: bool,
}

/// The data frame under way.
#[derive(Clone, Copy, Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
    is_final: bool,
}

impl Decoder {
    pub(super) fn new(message_len_max: u64) -> Self {
        Self {
            buffer: BytesMut::new(),
            message_len_max,
            message: None,
            payload: None,
        }
    }

    /// Where what was read is to be added.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next event; `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Event>, Malformed> {
        if self.payload.is_none() {
            let mut cursor = Cursor::new(&self.buffer[..]);
            let head = FrameHeader::parse(&mut cursor).map_err(|_unreadable| Malformed::Head)?;
            let Some((head, len)) = head else {
                return Ok(None);
            };
            let head_len = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            let mask = check(&head)?;
            match head.opcode {
                OpCode::Control(control) => {
                    return self.control(control, head.is_final, head_len, len, mask);
                }
                OpCode::Data(data) => self.begin(data, len)?,
            }
            drop(self.buffer.split_to(head_len));
            self.payload = Some(Payload {
                left: len,
                mask,
                is_final: head.is_final,
            });
        }
        Ok(self.piece())
    }

    /// Enters a data frame.
    fn begin(&mut self, data: Data, len: u64) -> Result<(), Malformed> {
        let message = match (data, self.message) {
            (Data::Continue, Some(message)) => message,
            (Data::Text | Data::Binary, None) => Message {
                len: 0,
                is_text: data == Data::Text,
            },
            _ => return Err(Malformed::Order),
        };
        let len = message.len.saturating_add(len);
        if len > self.message_len_max {
            return Err(Malformed::TooLarge);
        }
        self.message = Some(Message { len, ..message });
        Ok(())
    }

    /// What is there of the data frame under way.
    fn piece(&mut self) -> Option<Event> {
        let mut payload = self.payload?;
        let is_text = self.message?.is_text;
        let there = self.buffer.len();
        let len = usize::try_from(payload.left).map_or(there, |left| left.min(there));
        if len == 0 && payload.left > 0 {
            return None;
        }
        let mut data = self.buffer.split_to(len);
        unmask(&mut data, payload.mask);
        payload.mask.rotate_left(len % 4);
        payload.left -= len as u64;
        let is_over = payload.left == 0;
        self.payload = (!is_over).then_some(payload);
        let is_last = is_over && payload.is_final;
        if is_last {
            self.message = None;
        }
        Some(Event::Piece {
            data: data.freeze(),
            is_text,
            is_last,
        })
    }

    fn control(
        &mut self,
        control: Control,
        is_final: bool,
        head_len: usize,
        len: u64,
        mask: [u8; 4],
    ) -> Result<Option<Event>, Malformed> {
        if !is_final || len > CONTROL_LEN_MAX {
            return Err(Malformed::Control);
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if self.buffer.len() - head_len < len {
            return Ok(None);
        }
        drop(self.buffer.split_to(head_len));
        let mut data = self.buffer.split_to(len);
        unmask(&mut data, mask);
        let data = data.freeze();
        Ok(Some(match control {
            Control::Ping => Event::Ping(data),
            Control::Pong => Event::Pong,
            Control::Close if is_close(&data) => Event::Close(data),
            Control::Close => return Err(Malformed::Close),
            Control::Reserved(_) => return Err(Malformed::Head),
        }))
    }
}

/// Checks a frame's head. Answers its mask.
fn check(head: &FrameHeader) -> Result<[u8; 4], Malformed> {
    if head.rsv1 || head.rsv2 || head.rsv3 {
        return Err(Malformed::Extension);
    }
    head.mask.ok_or(Malformed::Unmasked)
}

/// Whether a close frame may hold this: nothing, or a code of those that may
/// be sent (RFC 6455, section 7.4) and a text.
fn is_close(data: &[u8]) -> bool {
    let Some((code, reason)) = data.split_first_chunk::<2>() else {
        return data.is_empty();
    };
    let may_be_sent = matches!(
        u16::from_be_bytes(*code),
        1000..=1003 | 1007..=1014 | 3000..=4999
    );
    may_be_sent && std::str::from_utf8(reason).is_ok()
}

fn unmask(data: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = data.as_chunks_mut::<4>();
    let word_mask = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [1, 0x80, 0xff, 7];

    /// A frame as a client sends it; `first` is its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
            len @ 126..=0xffff => {
                bytes.push(0xfe);
                bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
            }
            len => {
                bytes.push(0xff);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
        bytes
    }

    /// Adds a piece to its message. Answers the message when it is whole, and
    /// any other event at once.
    fn join(event: Event, message: &mut Vec<u8>) -> Option<Event> {
        let Event::Piece {
            data,
            is_text,
            is_last,
        } = event
        else {
            return Some(event);
        };
        message.extend_from_slice(&data);
        is_last.then(|| Event::Piece {
            data: std::mem::take(message).into(),
            is_text,
            is_last,
        })
    }

    /// Feeds bytes in pieces of a length. Answers messages and control
    /// events in order, and how it ended.
    fn decode(bytes: &[u8], step: usize, len_max: u64) -> (Vec<Event>, Result<(), Malformed>) {
        let mut decoder = Decoder::new(len_max);
        let mut events = Vec::new();
        let mut message = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(next) = decoder.next().transpose() {
                match next {
                    Err(malformed) => return (events, Err(malformed)),
                    Ok(event) => events.extend(join(event, &mut message)),
                }
            }
        }
        (events, Ok(()))
    }

    fn text(data: &[u8]) -> Event {
        Event::Piece {
            data: Bytes::copy_from_slice(data),
            is_text: true,
            is_last: true,
        }
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let medium = &long[..300];
        let bytes = [
            frame(0x81, b"hi"),
            frame(0x01, b"a"),
            frame(0x89, b"ping"),
            frame(0x00, medium),
            frame(0x80, b""),
            frame(0x8a, b""),
            frame(0x81, &long),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let expected = [
            text(b"hi"),
            Event::Ping(Bytes::from_static(b"ping")),
            text(&[b"a", medium].concat()),
            Event::Pong,
            text(&long),
            Event::Close(Bytes::from_static(b"\x03\xe8bye")),
        ];
        for step in [1, 2, 3, 5, 64, 1000, bytes.len()] {
            let (events, end) = decode(&bytes, step, 100_000);
            assert_eq!(end, Ok(()), "{step}");
            assert!(events == expected, "{step}");
        }
    }

    #[test]
    fn what_a_client_must_not_send_is_refused() {
        let cases = [
            (vec![0x81, 0x02, b'h', b'i'], Malformed::Unmasked),
            (frame(0xc1, b"x"), Malformed::Extension),
            (frame(0x83, b"x"), Malformed::Head),
            (frame(0x8b, b"x"), Malformed::Head),
            (frame(0x80, b"x"), Malformed::Order),
            (
                [frame(0x01, b"x"), frame(0x81, b"x")].concat(),
                Malformed::Order,
            ),
            (frame(0x09, b"x"), Malformed::Control),
            (frame(0x89, &[0; 126]), Malformed::Control),
            (frame(0x88, b"x"), Malformed::Close),
            (frame(0x88, b"\x03\xed"), Malformed::Close),
            (frame(0x88, b"\x03\xe8\xff"), Malformed::Close),
            (frame(0x81, &[0; 1001]), Malformed::TooLarge),
            (
                [frame(0x01, &[0; 600]), frame(0x80, &[0; 401])].concat(),
                Malformed::TooLarge,
            ),
        ];
        for (bytes, expected) in cases {
            let (_, end) = decode(&bytes, bytes.len(), 1000);
            assert_eq!(end, Err(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_by_its_head() {
        let head = [&[0x81, 0xff][..], &u64::MAX.to_be_bytes(), &MASK].concat();
        assert_eq!(decode(&head, 14, 1000).1, Err(Malformed::TooLarge));
        assert_eq!(decode(&head, 14, u64::MAX).1, Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_give_events_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1_usize..40) {
            let whole = decode(&bytes, bytes.len().max(1), 1 << 20);
            prop_assert_eq!(decode(&bytes, step, 1 << 20), whole);
        }
    }
}
