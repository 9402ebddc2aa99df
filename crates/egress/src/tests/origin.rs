//! A host on the internet: TLS and plain HTTP, which answers by path and remembers what it
//! was sent.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::rig::CANARY;

/// The authority of the internet in tests.
pub(super) struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) der: CertificateDer<'static>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

pub(super) struct Origin {
    pub(super) tls: SocketAddr,
    pub(super) plain: SocketAddr,
    pub(super) arrived: Mutex<Vec<Arrived>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) fn authority() -> &'static TestAuthority {
    static AUTHORITY: OnceLock<TestAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let der = issuer.der().clone();
        TestAuthority { issuer, der }
    })
}

impl Origin {
    /// Certificates are for `good.test` and names below `wild.test` alone.
    pub(super) async fn start() -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        let names = vec!["good.test".to_owned(), "*.wild.test".to_owned()];
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &authority().issuer)
            .unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let tls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let origin = Arc::new(Self {
            tls: tls.local_addr().unwrap(),
            plain: plain.local_addr().unwrap(),
            arrived: Mutex::default(),
        });
        let own = Arc::clone(&origin);
        tokio::spawn(async move {
            while let Ok((stream, _)) = tls.accept().await {
                tokio::spawn(Arc::clone(&own).serve_tls(acceptor.clone(), stream));
            }
        });
        let own = Arc::clone(&origin);
        tokio::spawn(async move {
            while let Ok((stream, _)) = plain.accept().await {
                let own = Arc::clone(&own);
                tokio::spawn(async move { own.serve(stream).await });
            }
        });
        origin
    }

    /// What arrived, as one line each: method and target.
    pub(super) fn lines(&self) -> Vec<String> {
        self.arrived
            .lock()
            .iter()
            .map(|arrived| arrived.line.clone())
            .collect()
    }

    pub(super) fn last(&self) -> Arrived {
        self.arrived
            .lock()
            .last()
            .cloned()
            .expect("nothing arrived")
    }

    async fn serve_tls(self: Arc<Self>, acceptor: TlsAcceptor, stream: TcpStream) {
        if let Ok(stream) = acceptor.accept(stream).await {
            self.serve(stream).await;
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(move |request| Arc::clone(&self).handle(request));
        let builder = auto::Builder::new(TokioExecutor::new());
        drop(
            builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await,
        );
    }

    async fn handle(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
        if path == "/grpc" {
            self.arrived.lock().push(Arrived {
                line,
                headers: parts.headers,
                body: Vec::new(),
            });
            return Ok(grpc(body));
        }
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes().to_vec())
            .unwrap_or_default();
        let arrived = Arrived {
            line,
            headers: parts.headers,
            body,
        };
        self.arrived.lock().push(arrived.clone());
        Ok(answer(&path, &arrived, upgrade))
    }
}

/// Everything that could be reflected, and the secret itself.
fn echo(arrived: &Arrived) -> String {
    let mut text = arrived.line.clone();
    for (name, value) in &arrived.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        text.extend(["\n", name.as_str(), ": ", &value]);
    }
    text.extend(["\n\n", &String::from_utf8_lossy(&arrived.body)]);
    text
}

fn answer(path: &str, arrived: &Arrived, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    let response = Response::builder().header(header::CONTENT_TYPE, "text/plain");
    let whole = |text: Vec<u8>| Full::new(Bytes::from(text)).boxed_unsync();
    match path {
        "/header" => response
            .header("x-echo", CANARY)
            .header(header::LOCATION, format!("https://evil.test/?t={CANARY}"))
            .header("alt-svc", "h3=\":443\"")
            .body(whole(b"ok".to_vec())),
        "/gzip" => response
            .header(header::CONTENT_ENCODING, "gzip")
            .body(whole(gzip(echo(arrived).as_bytes()))),
        "/unknown-coding" => response
            .header(header::CONTENT_ENCODING, "x-own")
            .body(whole(echo(arrived).into_bytes())),
        "/binary" => response
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(whole([b"\0\x01", CANARY.as_bytes(), b"\xff"].concat())),
        "/sliced" => {
            let bytes = echo(arrived).into_bytes();
            let frames = bytes
                .into_iter()
                .map(|byte| Ok(Frame::data(Bytes::from(vec![byte]))));
            response.body(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        }
        "/events" => response
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(events()),
        "/upgrade" => {
            let mut response = Response::new(whole(Vec::new()));
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response
                .headers_mut()
                .insert(header::UPGRADE, "own".parse().unwrap());
            response
                .headers_mut()
                .insert(header::CONNECTION, "upgrade".parse().unwrap());
            Ok(response)
        }
        "/socket" => Ok(websocket(arrived, upgrade)),
        _ => response.body(whole(echo(arrived).into_bytes())),
    }
    .unwrap()
}

/// One event at once, and the next only after a minute: who waits for more than one sees none.
fn events() -> Body {
    let frames = futures_util::stream::unfold(0, async |number| {
        if number > 0 {
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        let event = Bytes::from(format!("data: event {number} {CANARY}\n\n"));
        Some((Ok(Frame::data(event)), number + 1))
    });
    StreamBody::new(Box::pin(frames)).boxed_unsync()
}

/// Returns every frame, and trailers at the end.
fn grpc(body: Incoming) -> Response<Body> {
    let state = Some(body);
    let frames = futures_util::stream::unfold(state, async |state| {
        let mut body = state?;
        match body.frame().await {
            Some(Ok(frame)) if frame.is_data() => Some((Ok(frame), Some(body))),
            _ => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("x-trailer", CANARY.parse().unwrap());
                Some((Ok(Frame::trailers(trailers)), None))
            }
        }
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(StreamBody::new(Box::pin(frames)).boxed_unsync())
        .unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use tokio::io::AsyncReadExt as _;
    let encoder = async_compression::tokio::bufread::GzipEncoder::new(bytes);
    let mut out = Vec::new();
    let mut encoder = Box::pin(encoder);
    futures_util::FutureExt::now_or_never(encoder.read_to_end(&mut out))
        .unwrap()
        .unwrap();
    out
}

/// Answers each text with what it received and the secret.
fn websocket(arrived: &Arrived, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
    };
    let key = arrived.headers.get(header::SEC_WEBSOCKET_KEY).unwrap();
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                let reply = format!("got {text} and {CANARY}");
                drop(socket.send(Message::text(reply)).await);
            }
        }
    });
    Response::builder()
        .status(101)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(Full::default().boxed_unsync())
        .unwrap()
}
