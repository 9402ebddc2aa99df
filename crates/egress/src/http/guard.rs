//! What is refused or removed before anything is decided: everything that two programs may
//! read differently, and everything that is about one connection alone.
//!
//! hyper refuses much by itself (RFC 9112's framing errors, RFC 9113's malformed messages).
//! What it lets through is here; `docs/design/0010-egress-proxy.md` has the list.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header,
    request::Parts, uri::Authority,
};

use tombolo_policy::HostName;

use super::{HttpFlow, answer::Stop};
use crate::identity::{Place, Scheme};

/// Headers that are about one connection (RFC 9110, section 7.6.1), and those of old proxies.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Marks a request that came with both `Content-Length` and `Transfer-Encoding`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TwoLengths;

/// What kind of request passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// A handshake of RFC 6455.
    WebSocket,
}

/// Checks a head and takes out of it what is not to be forwarded.
pub(super) fn check(parts: &mut Parts, flow: &HttpFlow) -> Result<Kind, Stop> {
    if parts.method == Method::CONNECT {
        return Err(refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "connect_refused",
            "CONNECT is not served here.",
        ));
    }
    check_target(&parts.uri, &parts.method)?;
    check_authority(parts, flow)?;
    check_framing(parts)?;
    check_expect(&mut parts.headers)?;
    let kind = if is_websocket(parts, flow)? {
        Kind::WebSocket
    } else {
        Kind::Plain
    };
    remove_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::HOST);
    Ok(kind)
}

/// The name that a request is for, as the guest says; for requests that go nowhere.
pub(super) fn named<B>(request: &Request<B>) -> Option<HostName> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(request.headers().get(header::HOST)?.as_bytes()).ok()?,
    };
    HostName::parse(authority.host()).ok()
}

/// Takes out what is about one connection: the listed headers and what `Connection` names
/// (HTTP-18). `TE` is kept where it says that trailers are understood, for gRPC.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    let wants_trailers = headers.get_all(header::TE).iter().any(|value| {
        let value = value.as_bytes();
        value
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii() == b"trailers")
    });
    headers.remove(header::TE);
    if wants_trailers && is_grpc(headers) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a message is gRPC by its type. Only there do trailers pass (HTTP-11).
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn check_target(uri: &Uri, method: &Method) -> Result<(), Stop> {
    let path = uri.path();
    let is_asterisk = path == "*" && *method == Method::OPTIONS;
    if path.starts_with('/') || is_asterisk {
        return Ok(());
    }
    Err(bad(
        "request_target",
        "The target of the request is not a path.",
    ))
}

/// One name: what the address stands for is what the request says, wherever it says it
/// (TLS-03, HTTP-01 to HTTP-06).
fn check_authority(parts: &Parts, flow: &HttpFlow) -> Result<(), Stop> {
    let place = &flow.flow.place;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(bad("duplicate_host", "There is more than one Host."));
    }
    if parts
        .uri
        .scheme_str()
        .is_some_and(|scheme| scheme != flow.scheme.as_str())
    {
        return Err(misdirected());
    }
    if let Some(authority) = parts.uri.authority()
        && !means(place, flow.scheme, authority.as_str())
    {
        return Err(misdirected());
    }
    if let Some(host) = host {
        let host = host
            .to_str()
            .map_err(|_not_text: header::ToStrError| misdirected())?;
        if !means(place, flow.scheme, host) {
            return Err(misdirected());
        }
    }
    let is_optional = parts.version < Version::HTTP_11 || parts.uri.authority().is_some();
    // RFC 9112, section 3.2: also beside an absolute target.
    let is_missing = host.is_none() && (!is_optional || parts.version == Version::HTTP_11);
    if is_missing {
        return Err(bad("missing_host", "There is no Host."));
    }
    Ok(())
}

/// Whether an authority means this place: the same host, and the same port.
fn means(place: &Place, scheme: Scheme, text: &str) -> bool {
    // User information is no part of an authority in HTTP (RFC 9110, section 4.2.4).
    if text.contains('@') {
        return false;
    }
    let Ok(authority) = text.parse::<Authority>() else {
        return false;
    };
    let suffix = text.get(authority.host().len()..).unwrap_or_default();
    let port = match suffix {
        "" | ":" => Some(scheme.default_port()),
        _ => suffix
            .strip_prefix(':')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok()),
    };
    port == Some(place.port) && place.peer.is_named(authority.host())
}

/// One length (HTTP-07): `chunked` and nothing else (HTTP-09), or that of `Content-Length`.
/// hyper reads `gzip, chunked` as chunked.
fn check_framing(parts: &mut Parts) -> Result<(), Stop> {
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => {
            return Err(bad(
                "transfer_encoding",
                "Transfer-Encoding can only be chunked.",
            ));
        }
    }
    if parts.extensions.remove::<TwoLengths>().is_some() {
        return Err(bad(
            "two_lengths",
            "Content-Length and Transfer-Encoding exclude each other.",
        ));
    }
    Ok(())
}

/// hyper answers `100 Continue` when the body is first wanted; the host is not asked
/// (HTTP-12).
fn check_expect(headers: &mut HeaderMap) -> Result<(), Stop> {
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers
        .get_all(header::EXPECT)
        .iter()
        .any(|value| !is_known(value))
    {
        return Err(refused(
            StatusCode::EXPECTATION_FAILED,
            "expectation",
            "The expectation is not known.",
        ));
    }
    headers.remove(header::EXPECT);
    Ok(())
}

/// Whether this is a handshake of RFC 6455, section 4.2.1. Other upgrades are not made; the
/// request goes on without (HTTP-13).
fn is_websocket(parts: &Parts, flow: &HttpFlow) -> Result<bool, Stop> {
    let wants = has_token(&parts.headers, header::UPGRADE, "websocket")
        && has_token(&parts.headers, header::CONNECTION, "upgrade");
    if !wants || flow.is_http2() {
        return Ok(false);
    }
    let mut versions = parts.headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    let is_version =
        versions.next().is_some_and(|value| value == "13") && versions.next().is_none();
    let mut keys = parts.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let is_key = keys.next().is_some_and(|key| key.len() == 24) && keys.next().is_none();
    let is_get = parts.method == Method::GET && parts.version == Version::HTTP_11;
    if is_version && is_key && is_get {
        return Ok(true);
    }
    Err(bad(
        "websocket_handshake",
        "This is not a handshake of WebSocket version 13.",
    ))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn misdirected() -> Stop {
    refused(
        StatusCode::MISDIRECTED_REQUEST,
        "authority_mismatch",
        "The request is for another host than the connection.",
    )
}

fn bad(code: &'static str, message: &str) -> Stop {
    refused(StatusCode::BAD_REQUEST, code, message)
}

fn refused(status: StatusCode, code: &'static str, message: &str) -> Stop {
    Stop::refused(status, code, message)
}
