//! The keys by which a person leaves a terminal: Ctrl-P Ctrl-Q, as Docker has it.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Watches what is typed. A Ctrl-P is held until it is known what follows.
#[derive(Debug, Default)]
pub(crate) struct DetachKeys {
    has_ctrl_p: bool,
}

impl DetachKeys {
    /// What goes on to the process, and whether the person leaves: what was typed
    /// after that goes nowhere.
    pub(crate) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for byte in typed.iter().copied() {
            if self.has_ctrl_p {
                if byte == CTRL_Q {
                    return (passed, true);
                }
                passed.push(CTRL_P);
                self.has_ctrl_p = false;
            }
            if byte == CTRL_P {
                self.has_ctrl_p = true;
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typed at a time, what of it goes on, and whether the person leaves.
    type Case<'a> = (&'a [&'a [u8]], &'a [u8], bool);

    #[test]
    fn only_one_after_the_other_leaves() {
        let cases: [Case<'_>; 8] = [
            (&[b"ls\r"], b"ls\r", false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"\x10", b"\x10", b"\x11"], b"\x10", true),
            (&[b"\x10x\x11"], b"\x10x\x11", false),
            (&[b"\x11\x10"], b"\x11", false),
            (&[b"\x11\x10", b"p"], b"\x11\x10p", false),
            (&[b"\x10\x10\x10\r"], b"\x10\x10\x10\r", false),
        ];
        for (typed, expected, leaves) in cases {
            let mut keys = DetachKeys::default();
            let (mut passed, mut has_left) = (Vec::new(), false);
            for piece in typed {
                let (bytes, leaves) = keys.pass(piece);
                passed.extend(bytes);
                has_left |= leaves;
            }
            assert_eq!(
                (passed.as_slice(), has_left),
                (expected, leaves),
                "{typed:?}"
            );
        }
    }
}
