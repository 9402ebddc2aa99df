//! How the two sides find the start of a conversation on a serial port.
//!
//! A virtio-serial port has no connections: when a host process dies, bytes of
//! the old conversation may still be under way in both directions. So the host
//! opens with [`MAGIC`] and a random nonce, the agent skips whatever comes
//! before the magic and answers with [`MAGIC`] and the same nonce, and the host
//! skips whatever comes before that. After it, HTTP/2 flows both ways.

/// Starts the preamble of both sides. Not a prefix of any HTTP/2 frame we send.
pub const MAGIC: [u8; 16] = *b"\xffTombolo-agent-1";
/// Bytes of randomness after the magic.
pub const NONCE_LEN: usize = 16;
/// Length of a whole preamble.
pub const PREAMBLE_LEN: usize = MAGIC.len() + NONCE_LEN;
/// Name of the virtio-serial port, as seen in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "tombolo.agent";

/// Finds a preamble in a stream of bytes that arrives in pieces.
#[derive(Debug, Default)]
pub struct PreambleScanner {
    buffer: Vec<u8>,
}

impl PreambleScanner {
    /// Takes the next bytes. Answers the nonce, and how many of `bytes` belong
    /// to what follows the preamble, as soon as one is complete.
    pub fn push(&mut self, bytes: &[u8]) -> Option<([u8; NONCE_LEN], usize)> {
        self.buffer.extend_from_slice(bytes);
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
        let nonce = self.buffer.get(MAGIC.len()..PREAMBLE_LEN)?;
        let nonce = nonce.try_into().ok()?;
        let rest = self.buffer.len() - PREAMBLE_LEN;
        self.buffer.clear();
        Some((nonce, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preamble(nonce: u8) -> Vec<u8> {
        [&MAGIC[..], &[nonce; NONCE_LEN]].concat()
    }

    #[test]
    fn finds_a_preamble_however_it_is_cut() {
        let stream = [&b"left over \xff\xffTombolo"[..], &preamble(7), b"PRI"].concat();
        for cut in 1..stream.len() {
            let mut scanner = PreambleScanner::default();
            let mut answer = None;
            for piece in stream.chunks(cut) {
                answer = scanner.push(piece).map(|(nonce, _)| nonce).or(answer);
            }
            assert_eq!(answer, Some([7; NONCE_LEN]), "cut into {cut}");
        }
    }

    #[test]
    fn says_what_follows() {
        let stream = [&preamble(1)[..], b"PRI"].concat();
        let (_, rest) = PreambleScanner::default().push(&stream).unwrap();
        assert_eq!(rest, 3);
    }
}
