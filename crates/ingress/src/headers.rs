//! Headers on their way: what is about one connection ends here, and what is said about
//! the client is said by this program alone.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;

/// What is about one connection (RFC 9110, 7.6.1), besides what `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];
const FORWARDED_PREFIX: &str = "x-forwarded-";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const SAID_HERE: [&str; 4] = ["forwarded", "x-real-ip", "x-tombolo-access", "proxy"];

/// The protocol that a request wants to change to, if it is one that passes: on a
/// connection of its own both ways, whatever it is. HTTP/2 without TLS (`h2c`) is not
/// something a program can be asked through here.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = names(headers).any(|name| name == UPGRADE);
    let protocol = headers.get(UPGRADE).filter(|_| wants)?;
    let is_h2c = protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c");
    (!is_h2c && !protocol.is_empty()).then(|| protocol.clone())
}

/// Puts the protocol of an upgrade back after [`end_to_end`].
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Whether whoever asks understands trailers, which pass through here.
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).iter();
    let mut items = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Says to the program that trailers are understood.
pub(crate) fn want_trailers(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("te"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
}

/// Says that a body comes whose length is not known. Without it one of `GET` would be
/// taken for none.
pub(crate) fn in_chunks(headers: &mut HeaderMap) {
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

/// Takes out what is about the connection it came on.
pub(crate) fn end_to_end(headers: &mut HeaderMap) {
    let named: Vec<_> = names(headers).collect();
    if headers.contains_key(TRANSFER_ENCODING) {
        // The length is that of the chunks, whatever else is said (RFC 9112, 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    for name in named.into_iter().chain(HOP_BY_HOP) {
        // What the routing stands on is not one connection's to take away.
        if name != HOST && name != COOKIE && name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
}

/// A request as the program is to see it: over HTTP/1.1, from this client, for this
/// host.
pub(crate) fn to_program(headers: &mut HeaderMap, client: IpAddr, authority: &Authority) {
    // The client has its answer to it from here.
    headers.remove(EXPECT);
    let said: Vec<_> = headers
        .keys()
        .filter(|name| is_ours_to_say(name))
        .cloned()
        .collect();
    for name in said {
        headers.remove(name);
    }
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(HOST, authority.as_str());
    set(FORWARDED_HOST, authority.as_str());
    set(FORWARDED_FOR, &client.to_canonical().to_string());
    set(FORWARDED_PROTO, "https");
}

/// Whether a header says what only this program knows. Programs behind CGI and what is
/// like it do not tell `_` from `-`, and take `Proxy` for a setting of their own.
fn is_ours_to_say(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with(FORWARDED_PREFIX) || SAID_HERE.contains(&name.as_str())
}

/// HTTP/2 may divide what HTTP/1.1 has in one header (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let parts: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = parts.join(b"; ".as_slice());
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// What `Connection` names.
fn names(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_is_about_one_connection_ends() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "host, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("host", "a"),
            ("content-length", "3"),
            ("x-kept", "1"),
        ]);
        end_to_end(&mut headers);
        let expected = map(&[("host", "a"), ("content-length", "3"), ("x-kept", "1")]);
        assert_eq!(headers, expected);
        let mut two_lengths = map(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        end_to_end(&mut two_lengths);
        assert_eq!(two_lengths, HeaderMap::new());
    }

    #[test]
    fn what_is_said_of_the_client_is_said_here() {
        let mut headers = map(&[
            ("host", "other"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-anything", "1"),
            ("x-real-ip", "10.0.0.1"),
            ("x_real-ip", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("proxy", "http://10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("expect", "100-continue"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        let authority = "name.base:8443".parse().unwrap();
        join_cookies(&mut headers);
        to_program(
            &mut headers,
            "::ffff:192.0.2.1".parse().unwrap(),
            &authority,
        );
        let expected = map(&[
            ("host", "name.base:8443"),
            ("x-forwarded-host", "name.base:8443"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("cookie", "a=1; b=2"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn only_what_asks_for_an_upgrade_is_upgraded() {
        let cases = [
            (
                &[("connection", "Upgrade"), ("upgrade", "websocket")][..],
                Some("websocket"),
            ),
            (
                &[("connection", "keep-alive, upgrade"), ("upgrade", "x/1")],
                Some("x/1"),
            ),
            (&[("upgrade", "websocket")], None),
            (&[("connection", "upgrade")], None),
            (
                &[
                    ("connection", "upgrade, http2-settings"),
                    ("upgrade", "h2c"),
                ],
                None,
            ),
        ];
        for (pairs, expected) in cases {
            let found = upgrade(&map(pairs));
            assert_eq!(
                found.as_ref().map(|value| value.to_str().unwrap()),
                expected,
                "{pairs:?}"
            );
        }
    }
}
