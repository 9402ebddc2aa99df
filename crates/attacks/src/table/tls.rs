//! Rows of the chapters about TLS and HTTP.

use super::{Holds, Partly, Row, row};

pub(super) const ROWS: &[Row] = &[
    row("TLS-01", "no server name", Holds),
    row(
        "TLS-02",
        "a server name that is an address, or not that of the address",
        Holds,
    ),
    row("TLS-03", "one host's name outside, another's inside", Holds),
    row(
        "TLS-04",
        "an encrypted ClientHello, meant or meaningless",
        Partly("only a meaningless one is tried: no client here can make another"),
    ),
    row(
        "TLS-05",
        "a ClientHello in single bytes, many records, beyond every buffer",
        Holds,
    ),
    row(
        "TLS-06",
        "server names in other forms: upper case, dots, NUL, `*`, too long",
        Holds,
    ),
    row("TLS-07", "unknown protocols in ALPN", Holds),
    row(
        "TLS-08",
        "hosts with certificates that are untrusted, expired or for another name",
        Partly("revocation is not asked for"),
    ),
    row(
        "TLS-09",
        "sessions of one host used for another, early data",
        Holds,
    ),
    row("TLS-10", "old versions of TLS, renegotiation", Holds),
    row("TLS-11", "hosts that ask for a client certificate", Holds),
    row("TLS-12", "clients that pin certificates", Holds),
    row(
        "TLS-13",
        "strict verifiers of our certificates",
        Partly(
            "those tried are strict Python, strict OpenSSL and curl, and rustls in the tests of the proxy",
        ),
    ),
    row(
        "TLS-14",
        "the authority's key, and its certificates in another sandbox",
        Holds,
    ),
    row("TLS-15", "plain HTTP on 443, TLS on other ports", Holds),
    row("TLS-16", "other protocols inside TLS", Holds),
    row("HTTP-01", "`Host` is not the server name", Holds),
    row("HTTP-02", "two `Host` headers", Holds),
    row(
        "HTTP-03",
        "an absolute target with another authority",
        Holds,
    ),
    row(
        "HTTP-04",
        "HTTP/2: `:authority` is another, missing, twice",
        Holds,
    ),
    row("HTTP-05", "HTTP/2: `host` beside `:authority`", Holds),
    row(
        "HTTP-06",
        "HTTP/2: another host on the same connection",
        Holds,
    ),
    row("HTTP-07", "`Content-Length` and `Transfer-Encoding`", Holds),
    row("HTTP-08", "lengths that differ or are no numbers", Holds),
    row(
        "HTTP-09",
        "transfer codings that are not exactly `chunked`",
        Holds,
    ),
    row("HTTP-10", "line ends, folding, spaces, NUL", Holds),
    row("HTTP-11", "chunk sizes, extensions and trailers", Holds),
    row(
        "HTTP-12",
        "pipelining, expectations, requests inside others",
        Holds,
    ),
    row("HTTP-13", "`Upgrade: h2c`, unasked upgrades", Holds),
    row("HTTP-14", "handshakes of WebSocket that are none", Holds),
    row("HTTP-15", "CONNECT", Holds),
    row("HTTP-16", "paths that mean another one", Holds),
    row(
        "HTTP-17",
        "headers and parameters that override the method",
        Holds,
    ),
    row(
        "HTTP-18",
        "`Connection` names a header that is to stay",
        Holds,
    ),
    row(
        "HTTP-19",
        "redirections to elsewhere, with the credential",
        Holds,
    ),
    row("HTTP-20", "bodies that rules misread", Holds),
    row(
        "HTTP-21",
        "the attacker's own credential at an allowed host",
        Holds,
    ),
    row(
        "HTTP-22",
        "the attacker's own account at an allowed host",
        Holds,
    ),
    row("HTTP-23", "responses that are framed wrongly", Holds),
    row("HTTP-24", "floods of HTTP/2 frames", Holds),
    row("HTTP-25", "malformed HTTP/2 requests", Holds),
    row(
        "HTTP-26",
        "a connection that stays over a change of policy or secret",
        Holds,
    ),
    row(
        "HTTP-27",
        "connections to hosts that sandboxes share",
        Holds,
    ),
];
