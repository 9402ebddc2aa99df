//! Reads a JSON string that comes in pieces (RFC 8259, section 7).

/// What stands for half a pair of surrogates, which is no character. A
/// JavaScript string may hold one; written as UTF-8 it becomes this.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Reads from behind the quote that begins the string to the one that ends it.
#[derive(Debug, Default)]
pub(super) struct Unescaper {
    state: State,
    /// The first half of a pair, whose second may follow.
    high: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Plain,
    Escape,
    /// Digits seen of `\uXXXX`, and their value.
    Unit(u8, u16),
}

impl Unescaper {
    /// Adds the text of a piece. Answers how much of the piece belongs to the
    /// string, its last quote included, and whether it has ended; `None` if it
    /// is not JSON.
    pub(super) fn push(&mut self, piece: &[u8], text: &mut Vec<u8>) -> Option<(usize, bool)> {
        let mut at = 0;
        while let Some(byte) = piece.get(at) {
            match self.state {
                State::Plain => {
                    let rest = piece.get(at..).unwrap_or_default();
                    let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
                    let len = rest.iter().position(is_special).unwrap_or(rest.len());
                    if len > 0 {
                        self.end_half(text);
                        text.extend_from_slice(rest.get(..len).unwrap_or_default());
                        at += len;
                        continue;
                    }
                    match byte {
                        b'"' => {
                            self.end_half(text);
                            return Some((at + 1, true));
                        }
                        b'\\' => self.state = State::Escape,
                        _ => return None,
                    }
                }
                State::Escape => self.escape(*byte, text)?,
                State::Unit(digits, value) => self.digit(*byte, digits, value, text)?,
            }
            at += 1;
        }
        Some((piece.len(), false))
    }

    fn escape(&mut self, byte: u8, text: &mut Vec<u8>) -> Option<()> {
        let plain = match byte {
            b'u' => {
                self.state = State::Unit(0, 0);
                return Some(());
            }
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => return None,
        };
        self.end_half(text);
        text.push(plain);
        self.state = State::Plain;
        Some(())
    }

    fn digit(&mut self, byte: u8, digits: u8, value: u16, text: &mut Vec<u8>) -> Option<()> {
        let digit = char::from(byte).to_digit(16)?;
        let value = (value << 4) | u16::try_from(digit).ok()?;
        if digits < 3 {
            self.state = State::Unit(digits + 1, value);
            return Some(());
        }
        self.state = State::Plain;
        match (self.high, value) {
            (Some(high), 0xdc00..=0xdfff) => {
                self.high = None;
                push(text, char::decode_utf16([high, value]).next());
            }
            (_, 0xd800..=0xdbff) => {
                self.end_half(text);
                self.high = Some(value);
            }
            _ => {
                self.end_half(text);
                push(text, char::decode_utf16([value]).next());
            }
        }
        Some(())
    }

    /// What follows is no second half.
    fn end_half(&mut self, text: &mut Vec<u8>) {
        if self.high.take().is_some() {
            push(text, None);
        }
    }
}

fn push(text: &mut Vec<u8>, decoded: Option<Result<char, std::char::DecodeUtf16Error>>) {
    let character = decoded.and_then(Result::ok).unwrap_or(REPLACEMENT);
    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}
