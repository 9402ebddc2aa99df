//! What to do with a body, from its head alone: decisions without bytes.

use crate::{BodyKind, Refusal};

/// How much of one body is held so that its new length can be declared, in bytes,
/// unless the caller says otherwise.
pub const BODY_BUFFER_LEN_MAX: u64 = 8 << 20;
/// How much of a response is held so that its new length can be declared.
const RESPONSE_BUFFER_LEN_MAX: u64 = 64 << 10;
/// More codings on one message are taken for an attack on the decoder.
const CODINGS_MAX: usize = 2;

/// Headers whose value depends on the body's bytes.
const DIGEST_HEADERS: [&str; 6] = [
    "content-digest",
    "content-md5",
    "digest",
    "repr-digest",
    "x-amz-content-sha256",
    "x-goog-hash",
];
const DIGEST_PREFIX: &str = "x-amz-checksum-";
/// The value of `x-amz-content-sha256` that depends on no byte.
const UNSIGNED: &[u8] = b"UNSIGNED-PAYLOAD";

/// What is known of a body's length before it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none, or it is empty.
    Empty,
    /// Declared, in bytes, as it is sent.
    Known(u64),
    /// It ends when it ends.
    Unknown,
}

/// A content coding that can be undone (RFC 9110, 8.4.1; RFC 8878; RFC 7932).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip` and `x-gzip`.
    Gzip,
    /// `deflate`.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// The codings of a message, in the order in which they were applied: undo the
/// last one first. Empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codings(pub Vec<Coding>);

/// A coding that cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown content coding")]
pub struct UnknownCoding;

impl Codings {
    /// Reads the value of `Content-Encoding`, of all its lines joined with `,`.
    pub fn parse(value: &str) -> Result<Self, UnknownCoding> {
        let mut codings = Vec::new();
        for name in value
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            codings.extend(coding(name)?);
        }
        if codings.len() > CODINGS_MAX {
            return Err(UnknownCoding);
        }
        Ok(Self(codings))
    }

    /// Whether the body is as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn coding(name: &str) -> Result<Option<Coding>, UnknownCoding> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "identity" => None,
        "gzip" | "x-gzip" => Some(Coding::Gzip),
        "deflate" => Some(Coding::Deflate),
        "br" => Some(Coding::Brotli),
        "zstd" => Some(Coding::Zstd),
        _ => return Err(UnknownCoding),
    })
}

/// What is left of `Accept-Encoding` when only codings that can be undone remain
/// (REF-03), and of those the ones that are wanted. `identity` if nothing does.
#[must_use]
pub fn accepted_codings(value: &str, is_wanted: impl Fn(Coding) -> bool) -> String {
    let known = value.split(',').map(str::trim).filter(|item| {
        let name = item.split(';').next().unwrap_or_default().trim();
        // `*` would allow a server what nobody here can read.
        let is_wanted = |coding: Option<Coding>| coding.is_none_or(&is_wanted);
        !name.is_empty() && coding(name).is_ok_and(is_wanted)
    });
    let left: Vec<&str> = known.collect();
    if left.is_empty() {
        return "identity".to_owned();
    }
    left.join(", ")
}

/// Whether a header, with its value, is a digest of the body.
#[must_use]
pub fn is_digest_header(name: &str, value: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let listed = DIGEST_HEADERS.contains(&name.as_str()) || name.starts_with(DIGEST_PREFIX);
    listed && !value.eq_ignore_ascii_case(UNSIGNED)
}

/// What the host can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFraming {
    /// HTTP/2: a length is optional.
    Http2,
    /// HTTP/1.1: without a length, chunks.
    Http1,
    /// HTTP/1.1 to a host that refuses chunks, as many uploads do.
    Http1LengthOnly,
}

/// What the head of a request says of its body.
#[derive(Clone, Debug)]
pub struct RequestFraming {
    /// From `Content-Type`.
    pub kind: Option<BodyKind>,
    /// From `Content-Length` and the framing.
    pub length: BodyLength,
    /// From `Content-Encoding`.
    pub codings: Result<Codings, UnknownCoding>,
    /// Whether any header [is a digest](is_digest_header) of the body.
    pub has_digest: bool,
    /// What the host can be sent.
    pub upstream: UpstreamFraming,
    /// How much may be held, in bytes: [`BODY_BUFFER_LEN_MAX`] or what is left.
    pub buffer_max_bytes: u64,
    /// Whether a body of unknown coding is refused instead of passed on.
    pub is_strict: bool,
}

/// What to do with the body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Pass it on unread.
    Untouched,
    /// Pass it on unread, and say in the audit record that its coding is unknown.
    Literal,
    /// Substitute it as it flows; no length changes.
    SameLength,
    /// Undo the codings, substitute it as it flows, and send it without a length
    /// and without codings.
    Stream {
        /// To undo.
        codings: Codings,
    },
    /// Read it whole, undo the codings, substitute, then send it without codings.
    Buffer {
        /// To undo.
        codings: Codings,
        /// What may be held, decoded, in bytes. More is
        /// [`Refusal::BodyTooLarge`].
        max_bytes: u64,
        /// What to do if it became another.
        on_change: OnChange,
    },
}

/// What to do when a body that was read whole became another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Declare the new length.
    DeclareLength,
    /// Answer [`Refusal::DigestWouldBreak`].
    Refuse,
}

/// For a body in which something may be substituted. The order of the cases is
/// that of the table in `docs/design/0008-substitution.md`.
pub(crate) fn plan_request(
    framing: &RequestFraming,
    keeps_length: bool,
) -> Result<BodyPlan, Refusal> {
    if framing.length == BodyLength::Empty {
        return Ok(BodyPlan::Untouched);
    }
    let Ok(codings) = framing.codings.clone() else {
        return if framing.is_strict {
            Err(Refusal::UnknownEncoding)
        } else {
            Ok(BodyPlan::Literal)
        };
    };
    let max_bytes = framing.buffer_max_bytes;
    let fits = match framing.length {
        BodyLength::Known(bytes) => bytes <= max_bytes,
        BodyLength::Empty | BodyLength::Unknown => true,
    };
    if framing.has_digest {
        // Whether the digest stays true is known only at the end.
        return if fits {
            let on_change = OnChange::Refuse;
            Ok(BodyPlan::Buffer {
                codings,
                max_bytes,
                on_change,
            })
        } else {
            Err(Refusal::DigestWouldBreak)
        };
    }
    if keeps_length && codings.is_empty() {
        return Ok(BodyPlan::SameLength);
    }
    let length_needed = framing.upstream == UpstreamFraming::Http1LengthOnly;
    let declared = matches!(framing.length, BodyLength::Known(_));
    if fits && (declared || length_needed) {
        let on_change = OnChange::DeclareLength;
        return Ok(BodyPlan::Buffer {
            codings,
            max_bytes,
            on_change,
        });
    }
    if length_needed {
        return Err(Refusal::BodyTooLarge { max_bytes });
    }
    Ok(BodyPlan::Stream { codings })
}

/// What the head of a response says of its body.
#[derive(Clone, Debug)]
pub struct ResponseFraming<'a> {
    /// `Content-Type`, if there is one.
    pub content_type: Option<&'a str>,
    /// [`BodyLength::Empty`] also for answers to HEAD and for 204 and 304.
    pub length: BodyLength,
    /// From `Content-Encoding`.
    pub codings: Result<Codings, UnknownCoding>,
}

/// What to do with the body of a response to a sandbox that has secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponsePlan {
    /// There is no body. The headers are scrubbed all the same.
    HeadersOnly,
    /// Text: read it whole, undo the codings, put placeholders in the place of
    /// values. Unchanged, it may be passed on as it came, codings and all.
    Buffer {
        /// To undo.
        codings: Codings,
        /// What may be held, decoded, in bytes; more is streamed.
        max_bytes: u64,
    },
    /// Text: undo the codings, put placeholders in the place of values as it
    /// flows, and send it without a length and without codings.
    Stream {
        /// To undo.
        codings: Codings,
    },
    /// Anything else: put asterisks in the place of values. With no codings the
    /// declared length stays.
    Mask {
        /// To undo; if there are any, send it without a length and codings.
        codings: Codings,
    },
}

/// Decides about the body of a response (REF-01, REF-03, REF-04, REF-16,
/// REF-17, REF-19).
pub fn plan_response(framing: &ResponseFraming<'_>) -> Result<ResponsePlan, Refusal> {
    if framing.length == BodyLength::Empty {
        return Ok(ResponsePlan::HeadersOnly);
    }
    let Ok(codings) = framing.codings.clone() else {
        return Err(Refusal::UnscannableEncoding);
    };
    let is_text = framing.content_type.is_some_and(is_text);
    if !is_text {
        return Ok(ResponsePlan::Mask { codings });
    }
    match framing.length {
        BodyLength::Known(bytes) if bytes <= RESPONSE_BUFFER_LEN_MAX => Ok(ResponsePlan::Buffer {
            codings,
            max_bytes: RESPONSE_BUFFER_LEN_MAX,
        }),
        _ => Ok(ResponsePlan::Stream { codings }),
    }
}

/// Whether a reader finds its way by separators and not by lengths.
fn is_text(content_type: &str) -> bool {
    match BodyKind::of_content_type(content_type) {
        // Parts may be binary.
        Some(BodyKind::Multipart { .. }) | None => false,
        Some(_) => true,
    }
}

#[cfg(test)]
mod tests;
