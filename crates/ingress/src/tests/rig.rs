//! An ingress on a free port, programs behind it that are functions, and clients.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tombolo_ids::ExposureName;

use crate::{
    Backend, ConnectError, Exposure, Found, Identity, Ingress, IngressConfig, Limits, Listening,
    Meter, Target,
};

pub(super) const BASE: &str = "tombolo.localhost";
pub(super) const PUBLIC: &str = "0123456789abcdef0123456789abcdef";
pub(super) const OTHER: &str = "00000000000000000000000000000001";
pub(super) const TOKEN: &str = "opensesame";
/// Everything here takes less.
const PATIENCE: Duration = Duration::from_secs(20);
const PIPE_LEN: usize = 64 * 1024;

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// What a program does with a connection.
pub(super) type Program = Arc<dyn Fn(DuplexStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// What comes of connecting to a program.
#[derive(Clone)]
pub(super) enum Door {
    Program(Program),
    Nobody,
    NoProcess,
    Never,
    Full,
    Away,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) found: Found,
    pub(super) door: Door,
}

/// Exposures of a test.
#[derive(Clone, Default)]
pub(super) struct Memory {
    entries: Arc<Mutex<HashMap<ExposureName, Entry>>>,
    /// Connections that were opened.
    pub(super) opened: Arc<Mutex<usize>>,
}

impl Memory {
    pub(super) fn put(&self, name: &str, entry: Entry) {
        self.entries.lock().insert(name.parse().unwrap(), entry);
    }
}

impl Backend for Memory {
    type Stream = DuplexStream;

    async fn find(&self, name: &ExposureName) -> Found {
        let entry = self.entries.lock().get(name).cloned();
        entry.map_or(Found::Unknown, |entry| entry.found)
    }

    fn admits(&self, _: &Exposure, token: &str) -> bool {
        token == TOKEN
    }

    async fn connect(&self, exposure: &Exposure) -> Result<DuplexStream, ConnectError> {
        let entry = self.entries.lock().get(&exposure.name).cloned().unwrap();
        match entry.door {
            Door::Program(program) => {
                *self.opened.lock() += 1;
                let (ours, theirs) = tokio::io::duplex(PIPE_LEN);
                tokio::spawn(program(theirs));
                Ok(ours)
            }
            Door::Nobody => Err(ConnectError::NothingListens),
            Door::NoProcess => Err(ConnectError::NoProcess),
            Door::Full => Err(ConnectError::TooMany),
            Door::Away => Err(ConnectError::Away("no node".into())),
            Door::Never => std::future::pending().await,
        }
    }
}

pub(super) fn exposure(name: &str) -> Exposure {
    Exposure {
        name: name.parse().unwrap(),
        owner: format!("sandbox of {name}"),
        target: Target::Port(NonZero::new(8000).unwrap()),
        is_private: false,
        meter: Arc::new(Meter::default()),
    }
}

/// A program that reads what comes and says these bytes.
pub(super) fn says(bytes: &'static str) -> Door {
    Door::Program(Arc::new(move |mut stream| {
        Box::pin(async move {
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok() {
                stream.write_all(bytes.as_bytes()).await.unwrap_or_default();
            }
        })
    }))
}

/// A program that speaks HTTP/1.1.
pub(super) fn serves<F, Answer, B>(answer: F) -> Door
where
    F: Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Door::Program(Arc::new(move |stream| {
        let answer = answer.clone();
        Box::pin(async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // The other side may go away at any moment.
            drop(served.await);
        })
    }))
}

/// A program that answers with this text.
pub(super) fn answers(text: &'static str) -> Door {
    serves(move |_| async move { Response::new(Full::<Bytes>::from(text)) })
}

/// Limits under which nothing takes long.
pub(super) fn quick() -> Limits {
    Limits {
        connect_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(300),
        handshake_timeout: Duration::from_millis(300),
        shutdown_grace: Duration::from_secs(2),
        ..Limits::STANDARD
    }
}

pub(super) struct Rig {
    pub(super) memory: Memory,
    pub(super) ingress: Ingress<Memory>,
    address: SocketAddr,
    client: Arc<ClientConfig>,
    _directory: TempDir,
}

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = within(body.collect()).await.unwrap().to_bytes();
        Self {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

impl Rig {
    /// With a limit that matters to nobody but the test.
    pub(super) async fn start(limits: Limits) -> Self {
        let directory = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed([format!("*.{BASE}")]).unwrap();
        let path = directory.path().join("identity.pem");
        let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        fs_err::write(&path, pem).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let memory = Memory::default();
        let listening = Listening::at("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let config = IngressConfig {
            base: BASE.parse().unwrap(),
            identity: Identity::read(&path).unwrap(),
            limits,
        };
        let ingress = Ingress::start(listening, config, memory.clone());
        Self {
            memory,
            address: ingress.address(),
            ingress,
            client: Arc::new(client),
            _directory: directory,
        }
    }

    /// With one exposure of this program.
    pub(super) async fn with(limits: Limits, door: Door) -> Self {
        let rig = Self::start(limits).await;
        rig.expose(PUBLIC, door);
        rig
    }

    pub(super) fn expose(&self, name: &str, door: Door) -> Arc<Meter> {
        let exposure = exposure(name);
        let meter = Arc::clone(&exposure.meter);
        let found = Found::Exposure(exposure);
        self.memory.put(name, Entry { found, door });
        meter
    }

    pub(super) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) async fn tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        let mut client = (*self.client).clone();
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from(format!("{PUBLIC}.{BASE}")).unwrap();
        let connected = TlsConnector::from(Arc::new(client)).connect(name, self.tcp().await);
        within(connected).await.unwrap()
    }

    /// A connection of HTTP/1.1 that says these bytes; all that comes back.
    pub(super) async fn raw(&self, request: &str) -> String {
        let mut stream = self.tls("http/1.1").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The end may be without TLS's own.
        within(stream.read_to_end(&mut answer))
            .await
            .unwrap_or_default();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(super) async fn http1<B>(&self) -> http1::SendRequest<B>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.tls("http/1.1").await);
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        sender
    }

    pub(super) async fn http2<B>(&self) -> http2::SendRequest<B>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.tls("h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        sender
    }

    /// `GET` over HTTP/1.1.
    pub(super) async fn get(&self, name: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header("host", format!("{name}.{BASE}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.http1().await;
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        Answer::read(response).await
    }
}
