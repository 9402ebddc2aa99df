//! TLS from the guest: the name in the `ClientHello` must be the one that the address
//! stands for, and then it ends here or is passed on.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};
use tombolo_policy::HostName;

use super::{Admission, Flow, refuse, relay::relay};
use crate::{
    audit::Draft,
    clock::unix_seconds,
    http::{self, HttpFlow},
    identity::{Peer, Scheme},
    rules::Rules,
    sniff::{HTTP2_PREFACE, Protocol},
    stream::{Rewound, Sniffed},
};

/// How long a `ClientHello` may take (TLS-05).
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where all that is owed is a reason.
const DENIED_HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the rest of the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may be silent after the handshake.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A fatal alert, `unrecognized_name` (RFC 6066, section 3), in a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

pub(super) async fn serve(
    flow: Arc<Flow>,
    mut stream: Rewound<TcpStream>,
    rules: &Rules,
    mut draft: Draft,
) {
    draft.record.proto = "tls";
    stream.keep();
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let Ok(Ok(start)) = timeout(HELLO_TIMEOUT, acceptor).await else {
        // What an alert can say was said.
        draft.record.refused("tls_hello");
        return draft.keep().await;
    };
    let named = start.client_hello().server_name().map(str::to_owned);
    let is_named = named.is_none_or(|name| flow.place.peer.is_named(&name));
    if !is_named {
        return reject(draft, start.io, "sni_mismatch").await;
    }
    if rules.terminates(&flow.place) {
        let peer = flow.place.peer.clone();
        return terminate(flow, &peer, start, draft).await;
    }
    let mut stream = start.io;
    stream.rewind();
    draft.record.proto = "tls-splice";
    relay(&flow, stream, rules, draft).await;
}

/// Ends TLS whose requests will all be refused, so that they are told why. A client that
/// does not trust the sandbox's authority is not.
pub(super) async fn serve_denied(
    flow: Arc<Flow>,
    mut stream: Rewound<TcpStream>,
    mut draft: Draft,
) {
    draft.record.proto = "tls";
    stream.keep();
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let Ok(Ok(start)) = timeout(DENIED_HELLO_TIMEOUT, acceptor).await else {
        return draft.keep().await;
    };
    let named = start.client_hello().server_name().map(str::to_owned);
    let peer = if flow.admission == Admission::RefusedName {
        // It chooses a certificate and nothing else: nothing goes on from here.
        let name = named.and_then(|name| HostName::parse(&name).ok());
        name.map(Peer::Name)
    } else {
        let peer = flow.place.peer.clone();
        let is_named = named.is_none_or(|name| peer.is_named(&name));
        is_named.then_some(peer)
    };
    if let Some(peer) = peer {
        terminate(flow, &peer, start, draft).await;
    } else {
        draft.keep().await;
        start.io.reset();
    }
}

async fn reject(mut draft: Draft, mut stream: Rewound<TcpStream>, code: &'static str) {
    // The connection is reset next, so a failure changes nothing.
    let told = timeout(HELLO_TIMEOUT, stream.write_all(&UNRECOGNIZED_NAME)).await;
    if told.is_ok_and(|written| written.is_ok()) {
        draft.record.refused(code);
        draft.keep().await;
        // An orderly end: a reset could overtake the alert.
        drop(stream.shutdown().await);
        return;
    }
    refuse(draft, stream, code).await;
}

async fn terminate(
    flow: Arc<Flow>,
    peer: &Peer,
    mut start: StartHandshake<Rewound<TcpStream>>,
    mut draft: Draft,
) {
    start.io.forget();
    let config = match flow.sandbox.authority.server_config(peer, unix_seconds()) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "cannot make a certificate for a guest");
            draft.record.failed("certificate");
            return;
        }
    };
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, start.into_stream(config)).await else {
        // Often a client that does not trust the sandbox's authority.
        draft.record.failed("tls_handshake");
        return;
    };
    serve_terminated(flow, stream, draft).await;
}

/// What is inside TLS must be HTTP (TLS-16).
async fn serve_terminated(
    flow: Arc<Flow>,
    stream: TlsStream<Rewound<TcpStream>>,
    mut draft: Draft,
) {
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut stream = Rewound::new(stream);
    let protocol = match timeout(REQUEST_TIMEOUT, first_words(&mut stream, is_http2)).await {
        Ok(Ok(Some(protocol))) => protocol,
        Ok(Ok(None) | Err(_)) => return,
        Err(_elapsed) => {
            draft.record.refused("silent");
            return draft.keep().await;
        }
    };
    match protocol {
        Protocol::Http1 => {
            let flow = HttpFlow::new(flow, Scheme::Https, "http/1.1", draft);
            http::serve_http1(flow, stream).await;
        }
        Protocol::Http2 => {
            let flow = HttpFlow::new(flow, Scheme::Https, "h2", draft);
            http::serve_http2(flow, stream).await;
        }
        Protocol::Tls | Protocol::Other => {
            draft.record.refused("unknown_protocol");
            draft.keep().await;
        }
    }
}

/// What a client speaks inside TLS. HTTP/2 is waited for until its preface is whole, because
/// the library waits for that without an end. None: the client has gone.
async fn first_words<S: AsyncRead + Unpin>(
    stream: &mut Rewound<S>,
    is_http2: bool,
) -> io::Result<Option<Protocol>> {
    let protocol = match stream.sniff().await? {
        Sniffed::Protocol(protocol) => protocol,
        Sniffed::Closed => return Ok(None),
    };
    if protocol == Protocol::Http2 {
        let begun = stream.fill(HTTP2_PREFACE.len()).await?;
        return Ok(begun.starts_with(HTTP2_PREFACE).then_some(protocol));
    }
    // Who agreed on HTTP/2 speaks nothing else.
    Ok(Some(if is_http2 { Protocol::Other } else { protocol }))
}
