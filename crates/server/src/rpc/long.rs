//! Takes a message apart that is too long to be held.
//!
//! What makes a message long is the content of a file: one string, whose
//! place in the message is known. It is given out decoded, piece by piece as
//! the message comes, and what remains is a short message with an empty string
//! in its place. Knows no connection and waits for nothing.
//!
//! Reachable from the network: any bytes give content, a short message or
//! [`LongError`], and never more than the short message's bound is held.

mod base64;
mod scan;
mod unescape;

use bytes::Bytes;
use tombolo_api::rpc::methods;

use self::base64::Base64Decoder;
use self::scan::{Place, Scanner, Step};
use self::unescape::Unescaper;
use super::utf8::Utf8Check;

/// Where the content of a message belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the call that the message makes.
    Call,
    /// To a client stream.
    Stream(u64),
}

/// The message cannot be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LongError {
    #[error("what is not content is too long")]
    TooLong,
    #[error("the message is not UTF-8")]
    NotUtf8,
    #[error("the content is not a string in JSON")]
    NotJson,
}

/// The content was not what its method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content is not base64")]
pub(super) struct NotBase64;

/// A long message, as far as it has come.
#[derive(Debug)]
pub(super) struct LongMessage {
    scanner: Scanner,
    utf8: Utf8Check,
    rest: Vec<u8>,
    rest_len_max: usize,
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    destination: Destination,
    unescaper: Unescaper,
    /// For base64; anything else is text.
    decoder: Option<Base64Decoder>,
}

impl LongMessage {
    /// `rest_len_max` bounds what is left of a message without its content.
    pub(super) fn new(rest_len_max: usize) -> Self {
        Self {
            scanner: Scanner::default(),
            utf8: Utf8Check::default(),
            rest: Vec::new(),
            rest_len_max,
            content: None,
        }
    }

    /// Where the content goes, once that is known.
    pub(super) fn destination(&self) -> Option<Destination> {
        Some(self.content.as_ref()?.destination)
    }

    /// Takes the next piece. Answers the content in it, if there is any.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<Bytes, LongError> {
        if !self.utf8.push(piece) {
            return Err(LongError::NotUtf8);
        }
        let mut text = Vec::new();
        while !piece.is_empty() {
            let len = match &mut self.content {
                Some(content) if self.scanner.is_in_content() => {
                    let unescaped = content.unescaper.push(piece, &mut text);
                    let (len, is_over) = unescaped.ok_or(LongError::NotJson)?;
                    if is_over {
                        self.scanner.leave_content();
                    }
                    len
                }
                _ => self.scan(piece)?,
            };
            piece = piece.get(len..).unwrap_or_default();
        }
        Ok(match &mut self.content {
            Some(Content {
                decoder: Some(decoder),
                ..
            }) => decoder.push(&text).into(),
            _ => text.into(),
        })
    }

    /// Takes what is not content. Answers how much that is.
    fn scan(&mut self, piece: &[u8]) -> Result<usize, LongError> {
        let may_divert = self.content.is_none();
        let (len, step) = self.scanner.scan(piece, may_divert);
        let part = piece.get(..len).unwrap_or_default();
        if self.rest.len() + part.len() + 1 > self.rest_len_max {
            return Err(LongError::TooLong);
        }
        self.rest.extend_from_slice(part);
        if step == Step::StringBegins
            && may_divert
            && let Some((destination, decoder)) = sort(&self.scanner.place())
        {
            // The quote that ends the string stands for all of it.
            self.rest.push(b'"');
            self.scanner.enter_content();
            self.content = Some(Content {
                destination,
                unescaper: Unescaper::default(),
                decoder,
            });
        }
        Ok(len)
    }

    /// The end of the message. Answers the last of the content, or that the
    /// content was wrong, and the message without its content.
    pub(super) fn finish(self) -> Result<(Result<Bytes, NotBase64>, Bytes), LongError> {
        if !self.utf8.is_whole() {
            return Err(LongError::NotUtf8);
        }
        if self.scanner.is_in_content() {
            return Err(LongError::NotJson);
        }
        let decoder = self.content.and_then(|content| content.decoder);
        let last = decoder.map_or(Ok(Bytes::new()), |decoder| {
            decoder.finish().map(Bytes::from).ok_or(NotBase64)
        });
        Ok((last, self.rest.into()))
    }
}

/// Whether the string at this place is a file's content, and how it is written.
fn sort(place: &Place<'_>) -> Option<(Destination, Option<Base64Decoder>)> {
    let base64 = Some(Base64Decoder::default());
    Some(match (place.method, place.key) {
        (methods::WRITE_TEXT_FILE, "content") => (Destination::Call, None),
        (methods::WRITE_FILE, "content") | (methods::FILE_WRITE, "data") => {
            (Destination::Call, base64)
        }
        (methods::STREAM_ENQUEUE, "data") => (Destination::Stream(place.stream_id?), base64),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
