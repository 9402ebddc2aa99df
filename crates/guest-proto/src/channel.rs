//! How the two sides find the start of a conversation on a serial port.
//!
//! A virtio-serial port has no connections: when a host process dies, bytes of
//! the old conversation may still be under way in both directions. So the host
//! opens with [`MAGIC`] and a random nonce, the agent skips whatever comes
//! before the magic and answers with [`MAGIC`] and the same nonce, and the host
//! skips whatever comes before that. After it, HTTP/2 flows both ways.
//!
//! ```text
//! host:  MAGIC, nonce (16 bytes), length (4, little-endian), introduction
//! agent: MAGIC, nonce (16 bytes), verdict (1)
//! ```
//!
//! The introduction is empty or an encoded `PersonalizeRequest`: who a restored
//! guest is comes with the first bytes it reads, since every further turn, and
//! HTTP/2 most of all, is slow in a guest whose processor is emulated and has
//! done none of it yet.

/// Starts the preamble of both sides. Not a prefix of any HTTP/2 frame we send.
pub const MAGIC: [u8; 16] = *b"\xffTombolo-agent-1";
/// Bytes of randomness after the magic.
pub const NONCE_LEN: usize = 16;
/// Length of what both sides begin with: the magic and the nonce.
pub const PREAMBLE_LEN: usize = MAGIC.len() + NONCE_LEN;
/// The longest introduction.
pub const INTRODUCTION_LEN_MAX: usize = 1024 * 1024;
/// The agent's verdict on the introduction.
pub const TAKEN: u8 = 0;
/// The agent could not do what the introduction asks.
pub const REFUSED: u8 = 1;
const LENGTH_LEN: usize = 4;
/// Name of the virtio-serial port, as seen in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "tombolo.agent";

/// What a host opens a conversation with. With an introduction longer than
/// [`INTRODUCTION_LEN_MAX`] it is none to the agent, and goes unanswered.
#[must_use]
pub fn opening(nonce: [u8; NONCE_LEN], introduction: &[u8]) -> Vec<u8> {
    let len = u32::try_from(introduction.len()).unwrap_or(u32::MAX);
    [&MAGIC[..], &nonce, &len.to_le_bytes(), introduction].concat()
}

/// A conversation that a host has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// To be answered with.
    pub nonce: [u8; NONCE_LEN],
    /// May be empty.
    pub introduction: Vec<u8>,
    /// How many of the bytes that were pushed last follow it.
    pub rest: usize,
}

/// Finds an opening in a stream of bytes that arrives in pieces.
#[derive(Debug, Default)]
pub struct OpeningScanner {
    buffer: Vec<u8>,
}

impl OpeningScanner {
    /// Takes the next bytes. Answers as soon as an opening is complete.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Opening> {
        self.buffer.extend_from_slice(bytes);
        loop {
            let found = self
                .buffer
                .windows(MAGIC.len())
                .position(|window| window == MAGIC);
            let Some(start) = found else {
                let keep = self.buffer.len().min(MAGIC.len() - 1);
                self.buffer.drain(..self.buffer.len() - keep);
                return None;
            };
            self.buffer.drain(..start);
            let (nonce, after) = self.buffer.get(MAGIC.len()..)?.split_first_chunk()?;
            let (len, after) = after.split_first_chunk::<LENGTH_LEN>()?;
            let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
            if len > INTRODUCTION_LEN_MAX {
                // The magic was part of something else.
                self.buffer.drain(..1);
                continue;
            }
            let introduction = after.get(..len)?.to_vec();
            let opening = Opening {
                nonce: *nonce,
                introduction,
                rest: after.len() - len,
            };
            self.buffer.clear();
            return Some(opening);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_opening_however_it_is_cut() {
        for introduction in [&b""[..], b"who you are"] {
            let stream = [
                &b"left over \xff\xffTombolo"[..],
                &opening([7; NONCE_LEN], introduction),
                b"PRI",
            ]
            .concat();
            for cut in 1..stream.len() {
                let mut scanner = OpeningScanner::default();
                let found = stream.chunks(cut).find_map(|piece| scanner.push(piece));
                let found = found.unwrap();
                assert_eq!(found.nonce, [7; NONCE_LEN], "cut into {cut}");
                assert_eq!(found.introduction, introduction, "cut into {cut}");
            }
        }
    }

    #[test]
    fn says_what_follows() {
        let stream = [&opening([1; NONCE_LEN], b"x")[..], b"PRI"].concat();
        let found = OpeningScanner::default().push(&stream).unwrap();
        assert_eq!(found.rest, 3);
    }

    #[test]
    fn a_length_beyond_the_bound_is_no_opening() {
        let long = [&MAGIC[..], &[1; NONCE_LEN], &[0xff; LENGTH_LEN]].concat();
        let stream = [&long[..], &opening([2; NONCE_LEN], b"")].concat();
        let found = OpeningScanner::default().push(&stream).unwrap();
        assert_eq!(found.nonce, [2; NONCE_LEN]);
    }
}
