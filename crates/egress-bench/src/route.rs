//! The ways from a client to the origin: straight, through the proxy as a guest
//! goes, and with CONNECT through another proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::guest::HTTPS_PORT;
use crate::machine::{self, Cores};
use crate::origin;

/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(90);
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// A guest's name server; every address of the namespace is one.
const NAME_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 53);
const DNS_LEN_MAX: usize = 512;
const CONNECT_REPLY_LEN_MAX: usize = 4096;

/// One way.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// What a request calls the origin.
    pub(crate) authority: String,
    /// What a request shows to the origin.
    pub(crate) credential: String,
    /// Whom the client trusts, in PEM.
    pub(crate) trusted_pem: String,
    /// Whose cost is measured.
    pub(crate) process: Option<u32>,
    /// Whether it ends HTTP/2 of a client.
    pub(crate) has_http2: bool,
    /// Requests that were answered well.
    pub(crate) answered: Arc<AtomicU64>,
}

/// How a connection begins.
#[derive(Debug)]
pub(crate) enum Way {
    Direct(SocketAddr),
    /// In this namespace, to the address that DNS answers.
    Guest(OwnedFd),
    /// Through a proxy at this address.
    Connect(SocketAddr),
}

/// A client's side of a route, on the thread that uses it.
#[derive(Debug)]
pub(crate) struct Client {
    target: SocketAddr,
    /// Whom to ask the proxy at `target` for.
    connect: Option<String>,
    server_name: ServerName<'static>,
    config: Arc<ClientConfig>,
    authority: String,
    credential: String,
    version: Version,
    answered: Arc<AtomicU64>,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Sender {
    connection: Connection,
    answered: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Route {
    /// Runs a measurement with a client of this route, on the load's processor.
    pub(crate) fn measure<T: Send>(
        &self,
        cores: Cores,
        version: Version,
        work: impl AsyncFnOnce(Arc<Client>) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let inside = || {
            machine::pin(cores.load)?;
            if let Way::Guest(namespace) = &self.way {
                machine::enter(namespace)?;
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let client = Arc::new(self.client(version).await?);
                let measured = timeout(PATIENCE, work(client)).await;
                measured.context("a measurement does not end")?
            })
        };
        let measured = std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        measured.with_context(|| format!("cannot measure the way \"{}\"", self.name))
    }

    async fn client(&self, version: Version) -> anyhow::Result<Client> {
        let (target, connect) = match &self.way {
            Way::Direct(address) => (*address, None),
            Way::Connect(address) => (*address, Some(self.authority.clone())),
            Way::Guest(_) => ((look_up(origin::NAME).await?, HTTPS_PORT).into(), None),
        };
        let host = self.authority.split(':').next().unwrap_or_default();
        Ok(Client {
            target,
            connect,
            server_name: ServerName::try_from(host.to_owned())?,
            config: Arc::new(config(&self.trusted_pem, version)?),
            authority: self.authority.clone(),
            credential: self.credential.clone(),
            version,
            answered: Arc::clone(&self.answered),
        })
    }
}

/// TLS that resumes nothing, so that every connection costs what the first does.
fn config(trusted_pem: &str, version: Version) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trusted_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name: &[u8] = if version == Version::HTTP_2 {
        b"h2"
    } else {
        b"http/1.1"
    };
    config.alpn_protocols = vec![name.to_vec()];
    Ok(config)
}

/// Asks as a guest does.
async fn look_up(name: &str) -> anyhow::Result<IpAddr> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(
        Name::from_ascii(format!("{name}."))?,
        RecordType::A,
    ));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(NAME_SERVER).await?;
    socket.send(&question.to_vec()?).await?;
    let mut answer = [0; DNS_LEN_MAX];
    let received = timeout(DNS_TIMEOUT, socket.recv(&mut answer));
    let len = received.await.context("no name server answers")??;
    let answer = Message::from_vec(answer.get(..len).unwrap_or_default())?;
    let mut addresses = answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        });
    addresses.next().context("the name is not answered")
}

impl Client {
    /// Opens a connection.
    pub(crate) async fn open(&self) -> anyhow::Result<Sender> {
        let mut stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        if let Some(authority) = &self.connect {
            connect_through(&mut stream, authority).await?;
        }
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.server_name.clone(), stream).await?;
        let stream = TokioIo::new(stream);
        // A connection that ends early fails the request that is sent on it.
        let connection = if self.version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            Connection::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(connection);
            Connection::Http1(sender)
        };
        Ok(Sender {
            connection,
            answered: Arc::clone(&self.answered),
        })
    }

    pub(crate) fn request(&self, path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
        let request = Request::get(path);
        let request = if self.version == Version::HTTP_2 {
            request.uri(format!("https://{}{path}", self.authority))
        } else {
            request.header(header::HOST, &self.authority)
        };
        let credential = format!("Bearer {}", self.credential);
        let request = request.header(header::AUTHORIZATION, credential);
        Ok(request.body(Empty::new())?)
    }
}

async fn connect_through(stream: &mut TcpStream, authority: &str) -> anyhow::Result<()> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    // Nothing else comes before the client has spoken TLS.
    while !reply.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(reply.len() < CONNECT_REPLY_LEN_MAX, "an endless reply");
        let read = stream.read_buf(&mut reply).await?;
        anyhow::ensure!(read > 0, "the proxy closed the connection");
    }
    let is_connected = reply.get(8..12) == Some(b" 200");
    anyhow::ensure!(
        is_connected,
        "the proxy refused: {}",
        String::from_utf8_lossy(&reply)
    );
    Ok(())
}

impl Sender {
    pub(crate) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>> {
        let response = match &mut self.connection {
            Connection::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Connection::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        if response.status() == StatusCode::OK {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// One request and all of its answer, which must be good and so long.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Empty<Bytes>>,
        expected_bytes: usize,
    ) -> anyhow::Result<()> {
        let response = self.send(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        if status != StatusCode::OK {
            let said = body.collect().await?.to_bytes();
            anyhow::bail!(
                "the answer was {status}: {}",
                String::from_utf8_lossy(&said)
            );
        }
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        anyhow::ensure!(bytes == expected_bytes, "the answer had {bytes} bytes");
        Ok(())
    }

    /// Another stream of the same connection; HTTP/1.1 has none.
    pub(crate) fn another(&self) -> Option<Self> {
        match &self.connection {
            Connection::Http1(_) => None,
            Connection::Http2(sender) => Some(Self {
                connection: Connection::Http2(sender.clone()),
                answered: Arc::clone(&self.answered),
            }),
        }
    }
}
