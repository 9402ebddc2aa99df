//! Headers: in which a placeholder becomes a value, and what counts as a
//! credential.

use std::borrow::Cow;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use zeroize::Zeroizing;

/// Headers that servers echo or log, and headers that frame or route the
/// message. A name that ends in `-` or `*` stands for all that begin so.
const EXCLUDED: [&str; 38] = [
    "accept*",
    "baggage",
    "cf-*",
    "connection",
    "content-*",
    "date",
    "expect",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "if-*",
    "keep-alive",
    "link",
    "max-forwards",
    "origin",
    "prefer",
    "priority",
    "proxy-connection",
    "range",
    "referer",
    "referrer",
    "sec-*",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-b3-*",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-forwarded-*",
    "x-request-id",
];

/// Headers that carry a credential. With [`crate::Requirement::Required`] they
/// may carry no other than ours. Cookies are not among them: services set some
/// that are no credential, and clients return them.
const CREDENTIAL_HEADERS: [&str; 13] = [
    "api-key",
    "apikey",
    "authorization",
    "ocp-apim-subscription-key",
    "private-token",
    "proxy-authorization",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-key",
    "x-auth-token",
    "x-goog-api-key",
    "x-token",
];

/// Query parameters that carry a credential, likewise.
const CREDENTIAL_PARAMETERS: [&str; 10] = [
    "access_token",
    "api_key",
    "api-key",
    "apikey",
    "auth_token",
    "key",
    "sig",
    "token",
    "x-amz-signature",
    "x-goog-signature",
];

/// The subprotocol of a WebSocket, which is the only `Sec-` header that clients
/// put a token into.
const SUBPROTOCOL: &str = "sec-websocket-protocol";

/// Decodes as leniently as servers do.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A header that Tombolo sets. It replaces all of its name that the guest sent,
/// and must not be kept in a compression table (HPACK's never-indexed, RFC 7541,
/// 6.2.3).
#[derive(Clone)]
pub struct InjectedHeader {
    /// Its name in lower case.
    pub name: String,
    /// Its value.
    pub value: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for InjectedHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InjectedHeader({}, hidden)", self.name)
    }
}

/// Whether a header is left as it is, whatever is in it.
#[must_use]
pub fn is_header_excluded(name: &str) -> bool {
    let name = lower_case(name);
    name != SUBPROTOCOL
        && EXCLUDED
            .iter()
            .any(|excluded| match excluded.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *excluded,
            })
}

/// A name of a header in lower case. Those of HTTP/2 are already.
pub(crate) fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether a header carries credentials; in lower case.
pub(crate) fn is_credential_header(name: &str) -> bool {
    CREDENTIAL_HEADERS.contains(&name)
}

/// Whether a query parameter carries credentials.
pub(crate) fn is_credential_parameter(name: &str) -> bool {
    CREDENTIAL_PARAMETERS.contains(&name.to_ascii_lowercase().as_str())
}

/// Whether a header may be injected: a name (RFC 9110, 5.6.2) that is not
/// excluded.
pub(crate) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token) && !is_header_excluded(name)
}

/// The scheme and the token of `Authorization: Basic` (RFC 7617).
pub(crate) fn basic_token(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (scheme, token) = text.split_once([' ', '\t'])?;
    let token = token.trim_start();
    let plain = !token.is_empty() && !token.contains([' ', '\t', ',']);
    (scheme.eq_ignore_ascii_case("basic") && plain).then_some(token)
}

/// Decodes base64 in either alphabet, padded or not.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let standard = |byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => *byte,
    };
    let text: Vec<u8> = text.iter().map(standard).collect();
    let end = text
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |at| at + 1);
    let digits = text.get(..end).unwrap_or_default();
    LENIENT.decode(digits).ok().map(Zeroizing::new)
}

/// The canonical form: standard alphabet, padded.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    general_purpose::STANDARD.encode(bytes)
}

/// Whether a text is one token that contains a placeholder, behind at most a
/// scheme: nothing of the guest's own is then a credential.
pub(crate) fn is_only_placeholder(value: &[u8], placeholder_len: usize) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words.as_slice() {
        [token] | [_, token] => token.len() == placeholder_len,
        _ => false,
    }
}
