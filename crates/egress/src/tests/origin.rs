//! A host on the internet: TLS and plain HTTP, which answers by path and remembers what it
//! was sent.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
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
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::rig::CANARY;
use crate::config::ClientCertificate;

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
    /// Which connection it came on, in the order of their beginning.
    pub(super) connection: usize,
}

pub(super) struct Origin {
    pub(super) tls: SocketAddr,
    /// The same without HTTP/2.
    pub(super) old: SocketAddr,
    /// The same for clients that show a certificate of the authority.
    pub(super) mutual: SocketAddr,
    pub(super) plain: SocketAddr,
    /// Answers each connection with [`Self::canned`], whatever it is asked.
    pub(super) raw: SocketAddr,
    pub(super) canned: Mutex<Vec<u8>>,
    pub(super) arrived: Mutex<Vec<Arrived>>,
    /// What came on each connection, decrypted, up to a bound.
    pub(super) read: Mutex<Vec<Vec<u8>>>,
    /// What was stored with `/store`, for `/read`.
    stored: Mutex<Vec<u8>>,
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
    /// Certificates are for `good.test`, `old.test` and names below `wild.test` alone.
    pub(super) async fn start() -> Arc<Self> {
        let (tls, old) = (acceptor(&["h2", "http/1.1"]), acceptor(&["http/1.1"]));
        let mutual = mutual_acceptor();
        let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listeners = [
            listener().await.unwrap(),
            listener().await.unwrap(),
            listener().await.unwrap(),
            listener().await.unwrap(),
            listener().await.unwrap(),
        ];
        let [first, second, third, fourth, fifth] =
            listeners.each_ref().map(|l| l.local_addr().unwrap());
        let origin = Arc::new(Self {
            tls: first,
            old: second,
            mutual: fifth,
            plain: third,
            raw: fourth,
            canned: Mutex::default(),
            arrived: Mutex::default(),
            read: Mutex::default(),
            stored: Mutex::default(),
        });
        let [first, second, third, fourth, fifth] = listeners;
        for (listener, acceptor) in [(first, tls), (second, old), (fifth, mutual)] {
            let own = Arc::clone(&origin);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&own).serve_tls(acceptor.clone(), stream));
                }
            });
        }
        let own = Arc::clone(&origin);
        tokio::spawn(async move {
            while let Ok((stream, _)) = third.accept().await {
                let own = Arc::clone(&own);
                tokio::spawn(async move { own.serve(stream).await });
            }
        });
        let own = Arc::clone(&origin);
        tokio::spawn(async move {
            while let Ok((stream, _)) = fourth.accept().await {
                tokio::spawn(Arc::clone(&own).serve_canned(stream));
            }
        });
        origin
    }

    /// Reads one head, answers what was prepared, and closes.
    async fn serve_canned(self: Arc<Self>, mut stream: TcpStream) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let serial = self.begin();
        self.note(serial, &head);
        let canned = self.canned.lock().clone();
        // The other end may have seen enough.
        drop(stream.write_all(&canned).await);
    }

    fn begin(&self) -> usize {
        let mut read = self.read.lock();
        read.push(Vec::new());
        read.len() - 1
    }

    fn note(&self, serial: usize, bytes: &[u8]) {
        let mut read = self.read.lock();
        // Who wants to know nothing of what was before forgets it.
        let Some(read) = read.get_mut(serial) else {
            return;
        };
        let room = READ_KEPT_MAX.saturating_sub(read.len()).min(bytes.len());
        read.extend_from_slice(&bytes[..room]);
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
        let connection = self.begin();
        let stream = Tap {
            inner: stream,
            connection,
            origin: Arc::clone(&self),
        };
        let service = service_fn(move |request| Arc::clone(&self).handle(connection, request));
        let builder = auto::Builder::new(TokioExecutor::new());
        drop(
            builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await,
        );
    }

    async fn handle(
        self: Arc<Self>,
        connection: usize,
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
                connection,
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
            connection,
        };
        self.arrived.lock().push(arrived.clone());
        if path == "/store" {
            *self.stored.lock() = echo(&arrived).into_bytes();
        }
        if path == "/read" {
            let stored = self.stored.lock().clone();
            let body = Full::new(Bytes::from(stored)).boxed_unsync();
            return Ok(text_response().body(body).unwrap());
        }
        Ok(answer(&path, &arrived, upgrade))
    }
}

/// How much of a connection is kept.
const READ_KEPT_MAX: usize = 64 << 10;

/// Keeps what is read.
struct Tap<S> {
    inner: S,
    connection: usize,
    origin: Arc<Origin>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.origin
            .note(self.connection, &buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// A certificate of a client with its key, as the operator would configure it.
pub(super) fn client_certificate(host: &str) -> ClientCertificate {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["client".to_owned()])
        .unwrap()
        .signed_by(&key, &authority().issuer)
        .unwrap();
    let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
    ClientCertificate {
        host: host.to_owned(),
        path: "client.pem".into(),
        pem: pem.into_bytes().into(),
    }
}

fn acceptor(alpn: &[&str]) -> TlsAcceptor {
    acceptor_of(alpn, Arc::new(NoClientAuth))
}

fn mutual_acceptor() -> TlsAcceptor {
    let mut roots = RootCertStore::empty();
    roots.add(authority().der.clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    acceptor_of(&["h2", "http/1.1"], verifier.build().unwrap())
}

fn acceptor_of(alpn: &[&str], clients: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let names = [
        "good.test",
        "old.test",
        "*.wild.test",
        "mutual.test",
        "stranger.test",
    ];
    let names = names.map(str::to_owned);
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &authority().issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

fn text_response() -> http::response::Builder {
    Response::builder().header(header::CONTENT_TYPE, "text/plain")
}

/// The path `/coded/gzip,br` answers with those codings, in that order.
fn coded(codings: &str, text: &[u8]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for coding in codings.split(',') {
        bytes = encode(coding, &bytes);
    }
    bytes
}

/// A body with one content coding.
pub(super) fn encode(coding: &str, bytes: &[u8]) -> Vec<u8> {
    use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
    use tokio::io::AsyncReadExt as _;
    let mut encoder: Pin<Box<dyn AsyncRead + Send + '_>> = match coding {
        "gzip" => Box::pin(GzipEncoder::new(bytes)),
        "br" => Box::pin(BrotliEncoder::new(bytes)),
        "zstd" => Box::pin(ZstdEncoder::new(bytes)),
        "deflate" => Box::pin(ZlibEncoder::new(bytes)),
        other => panic!("no coding {other}"),
    };
    let mut out = Vec::new();
    futures_util::FutureExt::now_or_never(encoder.read_to_end(&mut out))
        .unwrap()
        .unwrap();
    out
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

/// Answers to paths that say how they are to be answered.
fn formed(form: &str, parameter: &str, arrived: &Arrived) -> Option<Response<Body>> {
    let text = echo(arrived).into_bytes();
    let response = text_response();
    let (response, body) = match form {
        "coded" => (
            response.header(header::CONTENT_ENCODING, parameter),
            coded(parameter, &text),
        ),
        // More than a hundred times as long as it comes.
        "dense" => (
            response.header(header::CONTENT_ENCODING, parameter),
            encode(parameter, "a".repeat(8 << 20).as_bytes()),
        ),
        // A body where none can be.
        "bodied" => (response.status(parameter), text),
        "escaped" => (response, escaped(parameter).into_bytes()),
        _ => return None,
    };
    let body = Full::new(Bytes::from(body)).boxed_unsync();
    Some(response.body(body).unwrap())
}

fn answer(path: &str, arrived: &Arrived, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    let formed = path[1..]
        .split_once('/')
        .map(|(form, parameter)| formed(form, parameter, arrived));
    if let Some(response) = formed.flatten() {
        return response;
    }
    let response = text_response();
    let whole = |text: Vec<u8>| Full::new(Bytes::from(text)).boxed_unsync();
    match path {
        "/header" => response
            .header("x-echo", CANARY)
            .header(header::LOCATION, format!("https://evil.test/?t={CANARY}"))
            .header("alt-svc", "h3=\":443\"")
            .body(whole(b"ok".to_vec())),
        // They say another coding than they have.
        "/lying" => response
            .header(header::CONTENT_ENCODING, "gzip")
            .body(whole(echo(arrived).into_bytes())),
        "/lying-long" => response
            .header(header::CONTENT_ENCODING, "br")
            .body(whole(echo(arrived).repeat(2000).into_bytes())),
        "/redirect" => response
            .status(302)
            .header(header::LOCATION, format!("http://evil.test/?t={CANARY}"))
            .body(whole(Vec::new())),
        "/kept" => response
            .header(header::ETAG, "\"e1\"")
            .body(whole(format!("[{CANARY}]").into_bytes())),
        "/part" => response
            .status(206)
            .header(header::CONTENT_RANGE, "bytes 0-99/200")
            .body(whole(format!("[{CANARY}]").into_bytes())),
        "/unchanged" => response
            .status(304)
            .header(header::ETAG, "\"e1\"")
            .body(whole(Vec::new())),
        "/large" => Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, LARGE_LEN)
            .body(streamed(large())),
        "/unknown-coding" => response
            .header(header::CONTENT_ENCODING, "x-own")
            .body(whole(echo(arrived).into_bytes())),
        "/binary" => Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(whole([b"\0\x01", CANARY.as_bytes(), b"\xff"].concat())),
        "/sliced" => {
            let bytes = echo(arrived).into_bytes();
            let frames = bytes
                .into_iter()
                .map(|byte| Ok(Frame::data(Bytes::from(vec![byte]))));
            response.body(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        }
        "/events" => Response::builder()
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

/// Bytes of what [`large`] is.
pub(super) const LARGE_LEN: usize = 1 << 30;
const PIECE_LEN: usize = 1 << 22;

/// A gibibyte that no value is in, and of which no two pieces are the same.
pub(super) fn large() -> impl Iterator<Item = Bytes> {
    static PIECE: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut state = 1_u64;
        let step = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()
        };
        (0..PIECE_LEN / 8).flat_map(step).collect()
    };
    let piece: &Bytes = PIECE.get_or_init(make);
    // Each begins somewhere else in the same bytes.
    (0..LARGE_LEN / PIECE_LEN).flat_map(|at| [piece.slice(at..), piece.slice(..at)])
}

fn streamed(
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> UnsyncBoxBody<Bytes, Infallible> {
    let frames = pieces.map(|piece| Ok(Frame::data(piece)));
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}

/// The secret as a service might write it.
fn escaped(form: &str) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let each = |write: fn(u8) -> String| CANARY.bytes().map(write).collect::<String>();
    match form {
        "json" => serde_json::to_string(CANARY).unwrap(),
        "unicode" => each(|byte| format!("\\u{byte:04x}")),
        "percent" => each(|byte| format!("%{byte:02X}")),
        "html" => CANARY.replace('"', "&quot;"),
        "hex" => each(|byte| format!("{byte:02x}")),
        "HEX" => each(|byte| format!("{byte:02X}")),
        "base64" => engine.encode(format!("user:{CANARY}")),
        "base64-1" => engine.encode(format!("xuser:{CANARY}")),
        "base64-2" => engine.encode(format!("xyuser:{CANARY}")),
        "base64url" => {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("user:{CANARY}"))
        }
        "utf16" => CANARY.chars().flat_map(|c| [c, '\0']).collect(),
        other => panic!("no form {other}"),
    }
}

/// Answers each text with what it received and the secret.
fn websocket(arrived: &Arrived, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{
            Message,
            handshake::derive_accept_key,
            protocol::{
                CloseFrame, Role,
                frame::{
                    Frame,
                    coding::{CloseCode, Data, OpCode},
                },
            },
        },
    };
    let pieces = |text: &str| {
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(5).collect();
        let last = pieces.len() - 1;
        let frame = |(at, piece): (usize, &&[u8])| {
            let code = if at == 0 { Data::Text } else { Data::Continue };
            let bytes = Bytes::copy_from_slice(piece);
            Message::Frame(Frame::message(bytes, OpCode::Data(code), at == last))
        };
        pieces.iter().enumerate().map(frame).collect::<Vec<_>>()
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
                let replies = match text.as_str() {
                    "binary" => vec![Message::binary(reply)],
                    "close" => vec![Message::Close(Some(CloseFrame {
                        code: CloseCode::Normal,
                        reason: reply.into(),
                    }))],
                    "pieces" => pieces(&reply),
                    _ => vec![Message::text(reply)],
                };
                for reply in replies {
                    drop(socket.send(reply).await);
                }
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
