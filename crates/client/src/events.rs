//! Server-sent events (HTML standard, section 9.2): an answer that goes on, in
//! pieces that each say something.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::{Client, RequestError};

/// The longest event that is taken; records are far shorter.
const EVENT_LEN_MAX: usize = 1 << 20;
/// How long a server may be silent. It sends a comment every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its kind; empty for the usual one.
    pub kind: String,
    /// Its lines.
    pub data: String,
}

/// The events of one answer.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    parser: Parser,
}

impl Client {
    /// Begins to listen to server-sent events of any address, for what has no
    /// method here.
    ///
    /// # Errors
    /// As every request.
    pub async fn events(&self, path: &str) -> Result<Events, RequestError> {
        let response = self.follow(path).await?;
        Ok(Events {
            body: response.into_body(),
            parser: Parser::default(),
        })
    }
}

impl Events {
    /// The next event, or none at the end of the answer.
    ///
    /// # Errors
    /// An answer that broke off, or a server that fell silent.
    pub async fn next(&mut self) -> Result<Option<Event>, RequestError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_elapsed| RequestError::Silent { limit: SILENCE_MAX })?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| RequestError::Body {
                source: error.into(),
            })?;
            if let Ok(data) = frame.into_data() {
                self.parser.feed(&data)?;
            }
        }
    }
}

/// Bytes on one side, events on the other.
#[derive(Debug, Default)]
struct Parser {
    /// What came and is not a whole event yet.
    waiting: Vec<u8>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        // What is whole was taken out before more is fed.
        if self.waiting.len() + bytes.len() > EVENT_LEN_MAX {
            return Err(RequestError::LongEvent {
                limit: EVENT_LEN_MAX,
            });
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes the next event out. Our server ends lines with a line feed alone.
    fn next(&mut self) -> Option<Event> {
        loop {
            let end = self.waiting.windows(2).position(|pair| pair == b"\n\n")?;
            let block: Vec<u8> = self.waiting.drain(..end + 2).collect();
            if let Some(event) = read_block(&String::from_utf8_lossy(&block)) {
                return Some(event);
            }
        }
    }
}

/// One event, or none in a block of comments.
fn read_block(block: &str) -> Option<Event> {
    let mut kind = String::new();
    let mut data: Vec<&str> = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut kind),
            "data" => data.push(value),
            _ => {}
        }
    }
    (!data.is_empty()).then(|| Event {
        kind,
        data: data.join("\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text =
            ": hello\n\ndata: {\"a\":1}\n\nevent: skipped\ndata: 1\ndata:2\n\n:\n\ndata: end\n";
        let expected = [("", "{\"a\":1}"), ("skipped", "1\n2")];
        for piece in 1..text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for bytes in text.as_bytes().chunks(piece) {
                parser.feed(bytes).unwrap();
                while let Some(Event { kind, data }) = parser.next() {
                    events.push((kind, data));
                }
            }
            let events: Vec<_> = events
                .iter()
                .map(|(k, d)| (k.as_str(), d.as_str()))
                .collect();
            assert_eq!(events, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut parser = Parser::default();
        parser.feed(&vec![b'a'; EVENT_LEN_MAX]).unwrap();
        assert!(matches!(
            parser.feed(b"a"),
            Err(RequestError::LongEvent { .. })
        ));
    }
}
