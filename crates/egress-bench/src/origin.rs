//! The host on the internet: TLS, HTTP/1.1 and HTTP/2, on a processor of the
//! load's. It answers only who shows the secret, so every request that is
//! counted is one in which the placeholder became the value.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, crypto::ring};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::machine::{self, now_nanos};
use crate::pacer::Pacer;

/// The name by which it is known to guests.
pub(crate) const NAME: &str = "api.bench.test";
/// The value of the secret that it wants to see.
pub(crate) const VALUE: &str = "sk-bench-7f3a91d2e5b8c46d0f12a39b64c8e1f0";
/// 1 KiB of JSON.
pub(crate) const ITEM: &str = "/v1/items/1";
/// Answers with what it was told as authorisation.
pub(crate) const REFLECT: &str = "/v1/reflect";
/// A long body.
pub(crate) const BULK: &str = "/v1/bulk";
/// An event every few milliseconds, without end.
pub(crate) const EVENTS: &str = "/v1/events";
/// How long the body of [`ITEM`] is.
pub(crate) const ITEM_BYTES: usize = 1024;
/// How long the body of [`BULK`] is.
pub(crate) const BULK_BYTES: usize = BULK_CHUNKS * CHUNK_BYTES;

const BULK_CHUNKS: usize = 4096;
const CHUNK_BYTES: usize = 64 << 10;
const EVENT_PERIOD_NANOS: u64 = 5_000_000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Where it is, and whom to trust.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// The authority that signed for it, in PEM.
    pub(crate) authority_pem: String,
}

/// What it answers with.
#[derive(Debug)]
struct Contents {
    item: Bytes,
    chunk: Bytes,
}

impl Origin {
    /// Starts it on a thread of its own, which lasts as long as the process.
    pub(crate) fn start(core: usize) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (acceptor, authority_pem) = acceptor()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let work = move || {
            machine::pin(core)?;
            runtime.block_on(serve(listener, acceptor))
        };
        std::thread::Builder::new()
            .name("origin".to_owned())
            .spawn(work)?;
        Ok(Self {
            address,
            authority_pem,
        })
    }
}

/// A certificate for all names by which it is asked, and who signed it.
fn acceptor() -> anyhow::Result<(TlsAcceptor, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // OpenSSL takes a certificate for self-signed that has its issuer's name.
    let authority_name = "authority of the origin";
    params
        .distinguished_name
        .push(DnType::CommonName, authority_name);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([NAME.to_owned(), "localhost".to_owned()])?
        .signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), issuer.pem()))
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let contents = Arc::new(Contents {
        item: Bytes::from(item()),
        chunk: Bytes::from(chunk()),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = connection(stream, acceptor.clone(), Arc::clone(&contents));
        // A client that breaks off is counted by the client.
        tokio::spawn(connection);
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    contents: Arc<Contents>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let service = service_fn(move |request| {
        let response = answer(&request, &contents);
        async move { response }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow::anyhow!(error))
}

fn answer(request: &Request<Incoming>, contents: &Contents) -> anyhow::Result<Response<Body>> {
    let shown = request.headers().get(header::AUTHORIZATION);
    let shown = shown.and_then(|shown| shown.to_str().ok()).unwrap_or("");
    let response = Response::builder();
    if shown.strip_prefix("Bearer ") != Some(VALUE) {
        let response = response.status(StatusCode::UNAUTHORIZED);
        return Ok(response.body(whole(Bytes::new()))?);
    }
    let json = Response::builder().header(header::CONTENT_TYPE, "application/json");
    let response = match request.uri().path() {
        ITEM => json.body(whole(contents.item.clone())),
        REFLECT => json.body(whole(Bytes::from(shown.to_owned()))),
        BULK => {
            let chunk = contents.chunk.clone();
            let frames = (0..BULK_CHUNKS).map(move |_| Ok(Frame::data(chunk.clone())));
            let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
            response
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_LENGTH, BULK_BYTES)
                .body(body)
        }
        EVENTS => response
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(events()?),
        _ => response
            .status(StatusCode::NOT_FOUND)
            .body(whole(Bytes::new())),
    };
    response.context("a response that cannot be written")
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// Each event says when it was sent.
fn events() -> anyhow::Result<Body> {
    let pacer = Pacer::new(now_nanos(), EVENT_PERIOD_NANOS)?;
    let frames = stream::unfold(pacer, async |mut pacer| {
        pacer.next().await.ok()?;
        let event = format!("data: {}\n\n", now_nanos());
        Some((Ok(Frame::data(Bytes::from(event))), pacer))
    });
    Ok(StreamBody::new(Box::pin(frames)).boxed_unsync())
}

/// JSON of exactly [`ITEM_BYTES`].
fn item() -> String {
    let empty = r#"{"id":1,"text":""}"#.len();
    let text: String = text().take(ITEM_BYTES - empty).map(char::from).collect();
    format!(r#"{{"id":1,"text":"{text}"}}"#)
}

fn chunk() -> Vec<u8> {
    text().take(CHUNK_BYTES).collect()
}

/// Letters and digits that no two places have alike, the same in each run.
fn text() -> impl Iterator<Item = u8> {
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let [high, ..] = state.to_be_bytes();
        let place = usize::from(high) % letters.len();
        letters.get(place).copied().unwrap_or(b'a')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_as_long_as_they_say_and_hold_no_secret() {
        assert_eq!(item().len(), ITEM_BYTES);
        assert!(serde_json::from_str::<serde_json::Value>(&item()).is_ok());
        assert_eq!(chunk().len(), CHUNK_BYTES);
        let chunk = String::from_utf8(chunk()).unwrap();
        assert!(!chunk.contains(VALUE) && chunk.is_ascii());
    }
}
