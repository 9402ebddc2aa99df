//! Reads base64 that comes in pieces.

use base64::Engine as _;

use crate::rpc::frame::BASE64;

/// Characters that make whole bytes.
const GROUP_LEN: usize = 4;

/// Holds the last group back, which alone may be short or padded.
#[derive(Debug, Default)]
pub(super) struct Base64Decoder {
    held: Vec<u8>,
    is_wrong: bool,
}

impl Base64Decoder {
    /// Takes text. Answers the bytes of it; after a mistake, none.
    pub(super) fn push(&mut self, text: &[u8]) -> Vec<u8> {
        if self.is_wrong || text.is_empty() {
            return Vec::new();
        }
        self.held.extend_from_slice(text);
        let whole_len = (self.held.len() - 1) / GROUP_LEN * GROUP_LEN;
        let last = self.held.split_off(whole_len);
        let whole = std::mem::replace(&mut self.held, last);
        if whole.contains(&b'=') {
            self.is_wrong = true;
            return Vec::new();
        }
        BASE64.decode(whole).unwrap_or_else(|_invalid| {
            self.is_wrong = true;
            Vec::new()
        })
    }

    /// The last bytes; `None` if the text was not base64.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        if self.is_wrong {
            return None;
        }
        BASE64.decode(self.held).ok()
    }
}
