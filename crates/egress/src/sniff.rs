//! Which protocol a client speaks, by its first bytes and never by the port (TLS-15).

/// As many bytes as can be needed to tell.
pub(crate) const SNIFF_LEN_MAX: usize = 32;

/// What a client's first bytes are the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A TLS record with a handshake message.
    Tls,
    /// A request line of HTTP/1.
    Http1,
    /// The preface of HTTP/2 without TLS (RFC 9113, section 3.4).
    Http2,
    /// Anything else.
    Other,
}

/// What a connection of HTTP/2 begins with.
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HTTP2_START: &[u8] = b"PRI *";

/// What `bytes` begin, or none when more are needed to tell.
pub(crate) fn sniff(bytes: &[u8]) -> Option<Protocol> {
    let first = *bytes.first()?;
    // RFC 8446, section 5.1: a record of type handshake, version 3.x.
    if first == 0x16 {
        return match bytes.get(1) {
            None => None,
            Some(3) => Some(Protocol::Tls),
            Some(_) => Some(Protocol::Other),
        };
    }
    // No request of HTTP/1 begins so, because `*` is the target of OPTIONS alone: what follows
    // does not matter, and is not waited for.
    let compared = bytes.len().min(HTTP2_START.len());
    if bytes.get(..compared) == HTTP2_START.get(..compared) {
        return (compared == HTTP2_START.len()).then_some(Protocol::Http2);
    }
    sniff_http1(bytes)
}

/// A method is a token, and what follows it is a space (RFC 9112, section 3).
fn sniff_http1(bytes: &[u8]) -> Option<Protocol> {
    // Empty lines before a request are to be ignored (RFC 9112, section 2.2), and some
    // servers do; so they are HTTP here, where they are read by a strict parser.
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let rest = bytes.get(start..).unwrap_or_default();
    for byte in rest {
        match byte {
            b' ' => return Some(Protocol::Http1),
            byte if byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte) => {}
            _ => return Some(Protocol::Other),
        }
    }
    (bytes.len() >= SNIFF_LEN_MAX).then_some(Protocol::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TLS-15: first bytes decide.
    #[test]
    fn tls_15_first_bytes_decide() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Protocol::Tls)),
            (b"\x16\x02", Some(Protocol::Other)),
            (b"GET", None),
            (b"GET /", Some(Protocol::Http1)),
            (b"P", None),
            (b"PRI ", None),
            (b"PRI *", Some(Protocol::Http2)),
            (b"PRI * \x16", Some(Protocol::Http2)),
            (b"PROPFIND /x", Some(Protocol::Http1)),
            (b"PRI /x HTTP/1.1", Some(Protocol::Http1)),
            (b"\r\n", None),
            (b"\r\n\nGET /", Some(Protocol::Http1)),
            (b"SSH-2.0-x", None),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Some(Protocol::Other)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(Protocol::Other)),
            (b"*3\r\n$3\r\nSET", Some(Protocol::Other)),
            (&[b'a'; SNIFF_LEN_MAX], Some(Protocol::Other)),
        ] {
            assert_eq!(sniff(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn more_bytes_never_change_what_was_told() {
        let texts: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\n",
            HTTP2_PREFACE,
            b"\x16\x03\x01\x02\x00",
            b"\0\0",
        ];
        for text in texts {
            let mut told = None;
            for end in 0..=text.len().min(SNIFF_LEN_MAX) {
                let now = sniff(&text[..end]);
                assert!(told.is_none() || told == now, "{end} of {text:?}");
                told = now;
            }
            assert!(told.is_some());
        }
    }
}
