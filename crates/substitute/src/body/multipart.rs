//! Parts of `multipart` (RFC 2046, 5.1; RFC 7578). Placeholders become values in
//! text parts. What is not exactly of the grammar passes unchanged from there
//! on: a reader that is cleverer than this one must not find a value where this
//! one saw none.

use memchr::memmem;

use crate::scan::Scanner;

/// The longest header block of a part that is read, in bytes.
const HEADERS_LEN_MAX: usize = 16 * 1024;
/// The longest rest of a delimiter's line: two hyphens or white space.
const PADDING_LEN_MAX: usize = 64;

pub(super) struct MultipartBody {
    scanner: Scanner,
    /// CR, LF, two hyphens and the boundary.
    delimiter: Vec<u8>,
    place: Place,
    /// What has come and is not decided yet.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before any byte: the first delimiter may lack its line break.
    Start,
    /// Before the first delimiter, or in a part that is no text.
    Literal,
    /// In a part that is text.
    Text,
    /// Behind a boundary, in the same line.
    Padding,
    /// In the headers of a part.
    Headers,
    /// Behind the last delimiter, or where the grammar was left.
    Opaque,
}

impl MultipartBody {
    pub(super) fn new(scanner: Scanner, boundary: &str) -> Self {
        Self {
            scanner,
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            place: Place::Start,
            pending: Vec::new(),
        }
    }

    pub(super) fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    pub(super) fn held(&self) -> usize {
        self.pending.len() + self.scanner.held()
    }

    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(chunk);
        let mut at = 0;
        while let Some(rest) = pending.get(at..).filter(|rest| !rest.is_empty()) {
            let taken = match self.place {
                Place::Start => self.start(rest),
                Place::Literal | Place::Text => self.content(rest, out),
                Place::Padding => self.padding(rest, out),
                Place::Headers => self.headers(rest, out),
                Place::Opaque => {
                    out.extend_from_slice(rest);
                    Some(rest.len())
                }
            };
            match taken {
                Some(taken) => at += taken,
                None => break,
            }
        }
        pending.drain(..at);
        self.pending = pending;
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let pending = std::mem::take(&mut self.pending);
        if self.place == Place::Text {
            self.scanner.raw(&pending, out);
            self.scanner.flush(out);
        } else {
            out.extend_from_slice(&pending);
        }
    }

    /// Decides whether the first line is a delimiter. Takes nothing itself:
    /// what follows reads it again.
    fn start(&mut self, rest: &[u8]) -> Option<usize> {
        let first = self.delimiter.get(2..).unwrap_or_default();
        if rest.len() < first.len() && first.starts_with(rest) {
            return None;
        }
        self.place = if rest.starts_with(first) {
            Place::Padding
        } else {
            Place::Literal
        };
        Some(0)
    }

    /// Passes content on up to the next delimiter.
    fn content(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let found = memmem::find(rest, &self.delimiter);
        let end = found.unwrap_or_else(|| self.possible_delimiter(rest));
        let (content, _) = rest.split_at(end);
        if self.place == Place::Text {
            self.scanner.raw(content, out);
        } else {
            out.extend_from_slice(content);
        }
        if found.is_none() {
            return (end > 0).then_some(end);
        }
        self.scanner.flush(out);
        out.extend_from_slice(b"\r\n");
        self.place = Place::Padding;
        Some(end + 2)
    }

    /// Where the longest end of a text begins that can begin a delimiter.
    fn possible_delimiter(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(self.delimiter.len() - 1);
        let mut starts = (first..text.len()).filter(|at| {
            text.get(*at..)
                .is_some_and(|tail| self.delimiter.starts_with(tail))
        });
        starts.next().unwrap_or(text.len())
    }

    /// Reads the hyphens, the boundary and the rest of their line.
    fn padding(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let boundary = self.delimiter.len() - 2;
        let padding = rest.get(boundary..).unwrap_or_default();
        if padding.starts_with(b"--") {
            return Some(self.leave());
        }
        let Some(line) = memmem::find(padding, b"\r\n") else {
            return (padding.len() > PADDING_LEN_MAX).then(|| self.leave());
        };
        let (blank, _) = padding.split_at(line);
        if !blank.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Some(self.leave());
        }
        let taken = boundary + line + 2;
        out.extend_from_slice(rest.get(..taken).unwrap_or_default());
        self.place = Place::Headers;
        Some(taken)
    }

    fn headers(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let end = if rest.starts_with(b"\r\n") {
            Some(2)
        } else {
            memmem::find(rest, b"\r\n\r\n").map(|at| at + 4)
        };
        let Some(end) = end.filter(|end| *end <= HEADERS_LEN_MAX) else {
            return (rest.len() > HEADERS_LEN_MAX).then(|| self.leave());
        };
        // The line break before the content may be that of the next delimiter,
        // and is content otherwise.
        let (block, _) = rest.split_at(end - 2);
        // A delimiter among the headers: readers differ about what that means.
        if memmem::find(block, &self.delimiter).is_some() || block.starts_with(self.first()) {
            return Some(self.leave());
        }
        out.extend_from_slice(block);
        self.place = if is_text(block) {
            Place::Text
        } else {
            Place::Literal
        };
        Some(block.len())
    }

    fn first(&self) -> &[u8] {
        self.delimiter.get(2..).unwrap_or_default()
    }

    /// The rest passes unchanged. Takes nothing itself.
    fn leave(&mut self) -> usize {
        self.place = Place::Opaque;
        0
    }
}

/// Whether a part's headers say that it is text as it stands: `text/*` or no
/// type and no file name, and no transfer encoding.
fn is_text(block: &[u8]) -> bool {
    let Ok(block) = std::str::from_utf8(block) else {
        return false;
    };
    let (mut typed, mut has_file_name) = (None, false);
    for line in block.split("\r\n").filter(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else {
            return false;
        };
        let value = value.trim().to_ascii_lowercase();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => typed = Some(value.starts_with("text/")),
            "content-disposition" => has_file_name = value.contains("filename"),
            "content-transfer-encoding"
                if !matches!(value.as_str(), "7bit" | "8bit" | "binary") =>
            {
                return false;
            }
            "content-encoding" => return false,
            _ => (),
        }
    }
    typed.unwrap_or(!has_file_name)
}
