//! Finds the place of each string in a message without reading the whole.
//!
//! What is not JSON is not noticed here: whoever reads the message without its
//! content finds that.

/// The longest method or key that is of interest.
const NAME_LEN_MAX: usize = 64;
/// How deep the parameters of a call are.
const PARAMS_DEPTH: usize = 2;

/// Where a string begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The message's method, empty while it is not known.
    pub(super) method: &'a str,
    /// The key within the parameters, empty for other places.
    pub(super) key: &'a str,
    /// The `streamId` within the parameters, if it has come.
    pub(super) stream_id: Option<u64>,
}

/// Why scanning stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The piece is used up.
    MoreNeeded,
    /// The quote was taken that begins a parameter that is a string.
    StringBegins,
}

#[derive(Debug, Default)]
pub(super) struct Scanner {
    depth: usize,
    /// Whether what is open at depth 1 and 2 is an object.
    is_object: [bool; PARAMS_DEPTH],
    /// Whether the next string at this depth is a key.
    is_key_next: bool,
    token: Token,
    /// The text of the token under way, as far as it is of interest.
    text: Vec<u8>,
    message_key: Vec<u8>,
    params_key: Vec<u8>,
    method: Vec<u8>,
    stream_id: Option<u64>,
}

/// What the scanner is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Token {
    #[default]
    Between,
    String,
    Escape,
    Number,
    Content,
}

impl Scanner {
    pub(super) fn place(&self) -> Place<'_> {
        let name = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        let is_param = self.depth == PARAMS_DEPTH && self.message_key == b"params";
        Place {
            method: name(&self.method),
            key: if is_param { name(&self.params_key) } else { "" },
            stream_id: self.stream_id,
        }
    }

    /// The string that began is content, which is not scanned.
    pub(super) fn enter_content(&mut self) {
        self.token = Token::Content;
    }

    /// The quote was seen that ends the content.
    pub(super) fn leave_content(&mut self) {
        self.token = Token::Between;
    }

    pub(super) fn is_in_content(&self) -> bool {
        self.token == Token::Content
    }

    /// Scans a piece, up to the beginning of a parameter if `stop_at_params`.
    /// Answers how much was scanned.
    pub(super) fn scan(&mut self, piece: &[u8], stop_at_params: bool) -> (usize, Step) {
        for (at, byte) in piece.iter().enumerate() {
            let begins = self.take(*byte);
            if begins && stop_at_params {
                return (at + 1, Step::StringBegins);
            }
        }
        (piece.len(), Step::MoreNeeded)
    }

    /// Takes one byte. Answers whether it begins a parameter that is a string.
    fn take(&mut self, byte: u8) -> bool {
        match (self.token, byte) {
            (Token::String, b'"') => {
                self.token = Token::Between;
                self.end_string();
            }
            (Token::String, b'\\') => {
                // No name of interest has an escape.
                self.note(0);
                self.token = Token::Escape;
            }
            (Token::Escape, _) => self.token = Token::String,
            (Token::Number, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
            | (Token::String, _) => {
                self.note(byte);
            }
            (Token::Number, _) => {
                self.token = Token::Between;
                self.end_number();
                return self.structure(byte);
            }
            (Token::Between | Token::Content, _) => return self.structure(byte),
        }
        false
    }

    fn structure(&mut self, byte: u8) -> bool {
        match byte {
            b'"' => {
                self.token = Token::String;
                self.text.clear();
                return !self.is_key_next && self.depth == PARAMS_DEPTH && self.in_object();
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                let is_object = byte == b'{';
                if let Some(slot) = self.is_object.get_mut(self.depth - 1) {
                    *slot = is_object;
                }
                self.is_key_next = is_object;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.is_key_next = false;
            }
            b',' => self.is_key_next = self.in_object(),
            b':' => self.is_key_next = false,
            b'-' | b'0'..=b'9' => {
                self.token = Token::Number;
                self.text.clear();
                self.note(byte);
            }
            _ => {}
        }
        false
    }

    /// Whether what is open is an object, as far as that is of interest.
    fn in_object(&self) -> bool {
        let at = self.depth.checked_sub(1);
        at.and_then(|at| self.is_object.get(at)).copied() == Some(true)
    }

    fn note(&mut self, byte: u8) {
        if self.text.len() <= NAME_LEN_MAX {
            self.text.push(byte);
        }
    }

    fn end_string(&mut self) {
        let text = std::mem::take(&mut self.text);
        match (self.depth, self.is_key_next) {
            (1, true) => self.message_key = text,
            (PARAMS_DEPTH, true) => self.params_key = text,
            (1, false) if self.message_key == b"method" => self.method = text,
            _ => {}
        }
    }

    fn end_number(&mut self) {
        if self.place().key == "streamId" {
            let digits = std::str::from_utf8(&self.text).unwrap_or_default();
            self.stream_id = digits.parse().ok();
        }
    }
}
