//! What is measured: a program, a server with its ingress, and a node in memory between
//! the two.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tombolo_client::api::native::{CreateToken, CreatedToken, TOKENS_PATH};
use tombolo_client::{Client, Endpoint, Sandbox, Token};
use tombolo_server::{IngressLimits, IngressOptions, Limits, Server, ServerConfig, TokenHash};
use tombolo_testkit::{FakeNode, Listens, eventually};

use crate::way::Way;

const BASE: &str = "tombolo.localhost";
const ADMIN: &str = "tbo_admin_of_the_bench";
/// The port at which the program listens as the sandbox sees it.
const PORT: u16 = 8000;
/// What the program says.
const ANSWER: &[u8] = &[b'x'; 1024];

/// The file of nginx's and the ingress's certificate and key.
pub(crate) const IDENTITY_FILE: &str = "identity.pem";

pub(crate) struct Stand {
    server: Server,
    /// It ends with its connection.
    sandbox: Sandbox,
    _node: FakeNode,
    program: SocketAddr,
    root: CertificateDer<'static>,
    host: String,
}

impl Stand {
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([format!("*.{BASE}")])?;
        let identity_file = directory.join(IDENTITY_FILE);
        let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        fs_err::write(&identity_file, pem)?;
        let node = FakeNode::start()?;
        let server = Server::start(config(&node, &identity_file)?).await?;
        eventually("the server follows the node", async || {
            (node.watchers() > 0).then_some(())
        })
        .await;
        let program = serve_at_once().await?;
        let endpoint = Endpoint::parse(&format!("http://{}", server.address()))?;
        let client = user(&Client::new(endpoint, Token::new(ADMIN))).await?;
        let sandbox = Sandbox::builder().create(&client).await?;
        let agent = node.agent(&sandbox.id().to_string()).context("no agent")?;
        agent.listen(Listens::OnPort(PORT.into()), program);
        let exposure = sandbox.expose_http(PORT).await?;
        let host = exposure
            .url
            .strip_prefix("https://")
            .context("no address")?;
        Ok(Self {
            server,
            sandbox,
            _node: node,
            program,
            root: made.cert.der().clone(),
            host: host.to_owned(),
        })
    }

    /// The program itself, without TLS.
    pub(crate) fn directly(&self) -> Way {
        Way::plain("the program itself", self.program)
    }

    pub(crate) fn through_ingress(&self) -> anyhow::Result<Way> {
        let address = self.server.addresses().ingress.context("no ingress")?;
        self.way("through the ingress", address)
    }

    /// A way with TLS and the same certificate.
    pub(crate) fn way(&self, name: &'static str, address: SocketAddr) -> anyhow::Result<Way> {
        Way::tls(name, address, &self.host, self.root.clone())
    }

    /// Where the program is.
    pub(crate) fn program(&self) -> SocketAddr {
        self.program
    }

    pub(crate) async fn stop(self) {
        drop(self.sandbox);
        self.server.stop().await;
    }
}

/// Somebody who may create sandboxes.
async fn user(admin: &Client) -> anyhow::Result<Client> {
    let asked = CreateToken {
        name: "bench".to_owned(),
        ..CreateToken::default()
    };
    let made: CreatedToken = admin.send(Method::POST, TOKENS_PATH, &asked).await?;
    let token = Token::new(&made.token);
    Ok(Client::new(admin.endpoint().clone(), token))
}

fn config(node: &FakeNode, identity_file: &Path) -> anyhow::Result<ServerConfig> {
    Ok(ServerConfig {
        listen: "127.0.0.1:0".parse()?,
        base_url: None,
        node_socket: node.socket(),
        egress_socket: None,
        database: node.directory().join("server.db"),
        admin_token: Some(TokenHash::of(ADMIN)),
        region: tombolo_ids::Region::DEFAULT,
        limits: Limits::STANDARD,
        ingress: Some(IngressOptions {
            listen: "127.0.0.1:0".parse()?,
            base: BASE.parse()?,
            identity_file: identity_file.to_owned(),
            acme: None,
            // What it does when it is asked for more is for tests.
            limits: IngressLimits {
                requests_per_second: 1_000_000,
                burst: 1_000_000,
                ..IngressLimits::STANDARD
            },
        }),
        ssh: None,
        retires: false,
    })
}

/// A program that answers at once.
async fn serve_at_once() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _client)) = listener.accept().await {
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let answer = service_fn(async |_request| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(ANSWER))))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(address)
}
