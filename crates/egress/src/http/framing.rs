//! Follows the framing of HTTP/1.1 requests beside hyper, to find the one that has two lengths
//! (HTTP-07): of `Content-Length` and `Transfer-Encoding` hyper leaves the second, before
//! anybody sees the head, and ends the connection after that request.
//!
//! Nothing is forwarded by what is read here. Where hyper refuses what it reads, this finds
//! nothing. No more than a line is kept: a length that is padded beyond it is found like two,
//! because what comes after it could not be followed.

/// What is kept of a line: every name and length that matters, with some blanks.
const LINE_LEN_MAX: usize = 128;

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: Vec<u8>,
    head: Head,
    serial: u64,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of a body or a chunk, and then that.
    Bytes(u64, After),
    ChunkLength,
    /// The end of the line that follows a chunk.
    ChunkEnd,
    Trailers,
    /// It cannot be told where a request begins.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Head,
    ChunkEnd,
}

/// What a head said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    has_begun: bool,
    length: Option<u64>,
    is_coded: bool,
    is_unclear: bool,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head,
            line: Vec::new(),
            head: Head::default(),
            serial: 0,
        }
    }

    /// Takes what was read next. Answers which request of the connection, from 0 on, has two
    /// lengths, or is the first that cannot be told, as soon as that is known.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Option<u64> {
        let mut found = None;
        while !bytes.is_empty() && self.state != State::Lost {
            let len = match self.state {
                State::Bytes(left, after) => self.skip(bytes, left, after),
                _ => self.read_line(bytes, &mut found),
            };
            bytes = bytes.get(len..).unwrap_or_default();
        }
        found
    }

    /// Answers how many bytes were of the body.
    fn skip(&mut self, bytes: &[u8], left: u64, after: After) -> usize {
        let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left.saturating_sub(len as u64);
        self.state = match (left, after) {
            (0, After::Head) => State::Head,
            (0, After::ChunkEnd) => State::ChunkEnd,
            (left, after) => State::Bytes(left, after),
        };
        len
    }

    /// Answers how many bytes were of the line.
    fn read_line(&mut self, bytes: &[u8], found: &mut Option<u64>) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let room = LINE_LEN_MAX.saturating_sub(self.line.len());
        self.line.extend(part.iter().take(room));
        let Some(end) = end else {
            return bytes.len();
        };
        let mut line = std::mem::take(&mut self.line);
        self.end_line(line.strip_suffix(b"\r").unwrap_or(&line), found);
        line.clear();
        self.line = line;
        end.saturating_add(1)
    }

    fn end_line(&mut self, line: &[u8], found: &mut Option<u64>) {
        self.state = match self.state {
            State::Head if !line.is_empty() => {
                self.head.read(line);
                State::Head
            }
            State::Head if self.head.has_begun => self.end_head(found),
            State::ChunkLength => match chunk_length(line) {
                _ if is_cut(line) => {
                    *found = Some(self.serial);
                    State::Lost
                }
                Some(0) => State::Trailers,
                Some(length) => State::Bytes(length, After::ChunkEnd),
                None => State::Lost,
            },
            State::ChunkEnd if line.is_empty() => State::ChunkLength,
            State::ChunkEnd => State::Lost,
            State::Trailers if line.is_empty() => State::Head,
            other => other,
        };
    }

    fn end_head(&mut self, found: &mut Option<u64>) -> State {
        let head = std::mem::take(&mut self.head);
        let serial = self.serial;
        self.serial = self.serial.saturating_add(1);
        match (head.length, head.is_coded) {
            (Some(_), is_coded) if is_coded || head.is_unclear => {
                *found = Some(serial);
                State::Lost
            }
            (None | Some(0), false) => State::Head,
            (Some(length), _) => State::Bytes(length, After::Head),
            (None, true) => State::ChunkLength,
        }
    }
}

impl Head {
    fn read(&mut self, line: &[u8]) {
        if !std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_coded = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.trim_ascii_start().strip_prefix(b":");
            let length = value.and_then(|value| decimal(value.trim_ascii()));
            self.is_unclear |= length.is_none() || line.len() >= LINE_LEN_MAX;
            self.length = Some(length.unwrap_or(0));
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

/// Whether the digits of a chunk's length may go on beyond what is kept of the line.
fn is_cut(line: &[u8]) -> bool {
    line.len() >= LINE_LEN_MAX && line.iter().all(u8::is_ascii_hexdigit)
}

/// RFC 9112, section 7.1: hexadecimal digits, and extensions that nobody reads.
fn chunk_length(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
    let digits = line.get(..end.unwrap_or(line.len()))?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// HTTP-07: a request with two lengths is found wherever it is, however it comes, and its
    /// like in a body is not.
    #[test]
    fn http_07_a_request_with_two_lengths_is_found_wherever_it_is() {
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n";
        let body = |length: usize| format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let hidden = TWO.len();
        for (text, expected) in [
            (TWO.to_owned(), Some(0)),
            (
                "POST / HTTP/1.1\nTRANSFER-ENCODING: x\nH: v\ncontent-length:\t4 \n\n".to_owned(),
                Some(0),
            ),
            (format!("\r\n\r\n{TWO}"), Some(0)),
            (format!("GET / HTTP/1.1\r\n\r\n{TWO}"), Some(1)),
            (format!("{}{TWO}{TWO}", body(hidden)), Some(1)),
            (format!("{}{TWO}GET / HTTP/1.1\r\n\r\n", body(hidden)), None),
            (format!("{}{TWO}", body(0)), Some(1)),
            (
                format!("{chunked}{hidden:x};a=b\r\n{TWO}\r\n0\r\nT: t\r\n\r\n{TWO}"),
                Some(1),
            ),
            (format!("{chunked}{hidden:X}\r\n{TWO}\r\n0\r\n\r\n"), None),
            (
                format!(
                    "GET / HTTP/1.1\r\nContent-Length: 4{}\r\n\r\n{TWO}",
                    " ".repeat(200)
                ),
                Some(0),
            ),
            (
                format!(
                    "{chunked}{}{hidden:x}\r\n{TWO}\r\n0\r\n\r\n{TWO}",
                    "0".repeat(200)
                ),
                Some(1),
            ),
            (
                "GET / HTTP/1.1\r\nX: Content-Length: 4\r\nX: Transfer-Encoding: chunked\r\n\r\n"
                    .to_owned(),
                None,
            ),
            (format!("{chunked}zz\r\n{TWO}"), None),
            (format!("{chunked}1\r\nabc\r\n{TWO}"), None),
        ] {
            for step in 1..=text.len() {
                let mut framing = Framing::new();
                let pieces = text.as_bytes().chunks(step);
                let found: Vec<u64> = pieces.filter_map(|piece| framing.read(piece)).collect();
                assert_eq!(found, Vec::from_iter(expected), "{step} of {text:?}");
            }
        }
    }

    #[test]
    fn no_more_than_a_line_is_kept() {
        for text in [
            "a",
            "POST / HTTP/1.1\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1",
        ] {
            let mut framing = Framing::new();
            framing.read(text.as_bytes());
            framing.read(&[b'1'; 4096]);
            assert_eq!(framing.line.len(), LINE_LEN_MAX, "{text:?}");
        }
    }
}
