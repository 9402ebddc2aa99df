//! One sandbox with its proxy, and what its guest can do.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_policy::{HostName, OperatorRules};
use tombolo_secret::{Placeholder, SecretName, SecretValue};

use super::origin::{Origin, authority, client_certificate};
use crate::{
    audit::{Audit, Line},
    authority::Authority,
    clock::{Clock, unix_seconds},
    counters::Counters,
    flow,
    rules::{HeldSecret, Rules, SecretState},
    sandbox::{Sandbox, SandboxIdentity, Shared},
    upstream::{Identities, Resolver},
};

/// The value that must never come back.
pub(super) const CANARY: &str = "cAnArY-7f3a91d2\"+/e5b8c46d0f12a39b";
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a request that a test sends in pieces.
pub(super) type Pieces = UnsyncBoxBody<Bytes, Infallible>;

/// Such a body, and what takes its pieces. It ends when that is dropped.
pub(super) fn pieces() -> (mpsc::Sender<Bytes>, Pieces) {
    let (send, receive) = mpsc::channel(1);
    let frames = ReceiverStream::new(receive).map(|data| Ok(Frame::data(data)));
    (send, StreamBody::new(frames).boxed_unsync())
}

/// A sandbox under test.
pub(super) struct Rig {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) origin: Arc<Origin>,
    pub(super) placeholder: String,
    pub(super) names: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    lines: mpsc::Receiver<Arc<Line>>,
    /// Everything that the guest received, decrypted.
    pub(super) seen: Mutex<Vec<u8>>,
    pub(super) document: Value,
    operator: OperatorRules,
}

/// What is different from the usual policy.
pub(super) fn policy(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "version": 1,
        "generation": 1,
        "allow_net": ["good.test", "plain.test:80", "raw.test:5432", "*.wild.test", "old.test", "canned.test:80", "private.test", "unresolved.test"],
        "secrets": { "KEY": { "hosts": ["good.test", "old.test"] } },
    });
    change(&mut document);
    document
}

impl Rig {
    pub(super) async fn usual() -> Self {
        Self::new(policy(|_| {})).await
    }

    pub(super) async fn new(document: Value) -> Self {
        let origin = Origin::start().await;
        let [tls, old, plain, raw, mutual] = [
            origin.tls,
            origin.old,
            origin.plain,
            origin.raw,
            origin.mutual,
        ]
        .map(|address| address.to_string());
        let operator = OperatorRules::parse(
            [
                ("good.test:443", tls.as_str()),
                ("old.test:443", old.as_str()),
                ("one.wild.test:443", tls.as_str()),
                ("canned.test:80", raw.as_str()),
                ("good.test:80", plain.as_str()),
                ("plain.test:80", plain.as_str()),
                ("raw.test:5432", plain.as_str()),
                ("other.test", tls.as_str()),
                ("expired.test", tls.as_str()),
                ("mutual.test:443", mutual.as_str()),
                ("stranger.test:443", mutual.as_str()),
            ],
            [],
        )
        .unwrap()
        .with_client_certificates(["mutual.test"])
        .unwrap();
        let names = Arc::new(Mutex::new(HashMap::new()));
        let counters = Arc::new(Counters::default());
        let (audit, lines) = Audit::new(Arc::clone(&counters), "t".to_owned());
        let mut roots = RootCertStore::empty();
        roots.add(authority().der.clone()).unwrap();
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            audit,
            counters,
            operator: operator.clone(),
            resolver: Resolver::Table(Arc::clone(&names)),
            roots: Arc::new(roots),
            identities: Identities::read(&[client_certificate("mutual.test")]).unwrap(),
            flow_serial: AtomicU64::new(0),
        });
        Self {
            sandbox: sandbox("s1", &document, &operator, shared),
            origin,
            placeholder: Placeholder::from_bytes([0xa7; 32]).to_string(),
            names,
            lines,
            seen: Mutex::default(),
            document,
            operator,
        }
    }

    /// Another sandbox with the same policy, on the same host. Its placeholder is the same
    /// text, its authority another.
    pub(super) fn beside(&self) -> Arc<Sandbox> {
        let shared = Arc::clone(&self.sandbox.shared);
        sandbox("s2", &self.document, &self.operator, shared)
    }

    /// Replaces the policy, and revokes the secret or does not.
    pub(super) fn replace(&self, document: &Value, state: SecretState, secret_generation: u64) {
        self.replace_all(document, &held(state), secret_generation);
    }

    /// Replaces the policy and the secrets.
    pub(super) fn replace_all(&self, document: &Value, held: &[HeldSecret], generation: u64) {
        let rules = rules(document, &self.operator, held, generation);
        self.sandbox.replace_rules(rules);
    }

    /// The virtual address of a name, as DNS would give it, whatever the policy says.
    pub(super) fn address_of(&self, name: &str) -> IpAddr {
        let name = HostName::parse(name).unwrap();
        let now = self.sandbox.shared.clock.now();
        let found = self.sandbox.with_vips(|vips| vips.assign(&name, None, now));
        found.unwrap().v4.into()
    }

    /// Connects as the guest to an address.
    pub(super) async fn connect_to(&self, original: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, source) = accepted.unwrap();
        let serve = flow::serve(Arc::clone(&self.sandbox), stream, source, original);
        self.sandbox.tasks.spawn(serve);
        client.unwrap()
    }

    pub(super) async fn connect(&self, name: &str, port: u16) -> TcpStream {
        self.connect_to((self.address_of(name), port).into()).await
    }

    /// A TLS client that trusts the sandbox's authority.
    pub(super) fn tls_config(&self, alpn: &[&str]) -> ClientConfig {
        let pem = self.sandbox.authority.certificate_pem();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    pub(super) async fn connect_tls(&self, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.try_tls(name, name, self.tls_config(alpn))
            .await
            .unwrap()
    }

    /// Begins HTTP/2 over TLS with the address of a name.
    pub(super) async fn connect_http2<B>(&self, name: &str) -> http2::SendRequest<B>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + Unpin
            + 'static,
    {
        let stream = TokioIo::new(self.connect_tls(name, &["h2"]).await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Connects to the address of one name and says another.
    pub(super) async fn try_tls(
        &self,
        address: &str,
        sni: &str,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.connect(address, 443).await;
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        timeout(PATIENCE, connector.connect(name, stream))
            .await
            .unwrap()
    }

    /// Sends bytes and reads until the other end closes.
    pub(super) async fn talk<S>(&self, mut stream: S, bytes: &[u8]) -> String
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // The other end may close before it has read all.
        drop(stream.write_all(bytes).await);
        self.read(stream).await
    }

    /// Reads until the other end closes.
    pub(super) async fn read(&self, stream: impl AsyncRead + Unpin) -> String {
        let read = self.read_bytes(stream).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    /// The same, for what is no text.
    pub(super) async fn read_bytes(&self, mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut read = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match timeout(PATIENCE, stream.read(&mut chunk)).await.unwrap() {
                Ok(0) | Err(_) => break,
                Ok(len) => read.extend_from_slice(&chunk[..len]),
            }
        }
        self.seen.lock().extend_from_slice(&read);
        read
    }

    /// One request over TLS to `good.test`, written by hand.
    pub(super) async fn talk_tls(&self, request: &str) -> String {
        let stream = self.connect_tls("good.test", &["http/1.1"]).await;
        self.talk(stream, request.as_bytes()).await
    }

    /// All records from now on, for whoever wants them all.
    pub(super) fn take_records(&mut self) -> mpsc::Receiver<Arc<Line>> {
        let (_, none) = mpsc::channel(1);
        std::mem::replace(&mut self.lines, none)
    }

    /// Ends the sandbox and checks what must always hold. Answers the records.
    pub(super) async fn finish(mut self, attempts: usize) -> Vec<Value> {
        timeout(PATIENCE, self.sandbox.close()).await.unwrap();
        let mut records = Vec::new();
        while let Ok(line) = self.lines.try_recv() {
            assert_absent(line.json.as_bytes(), "an audit record");
            records.push(serde_json::from_str(&line.json).unwrap());
        }
        assert_absent(&self.seen.lock(), "what the guest received");
        let text = serde_json::to_string_pretty(&records).unwrap();
        assert_eq!(records.len(), attempts, "{text}");
        records
    }
}

fn sandbox(
    id: &str,
    document: &Value,
    operator: &OperatorRules,
    shared: Arc<Shared>,
) -> Arc<Sandbox> {
    let rules = rules(document, operator, &held(SecretState::Active), 1);
    let identity = SandboxIdentity {
        id: id.into(),
        organisation: "o1".into(),
        labels: BTreeMap::new(),
    };
    let authority = Authority::generate(id, unix_seconds()).unwrap();
    Sandbox::new(identity, rules, authority, shared).unwrap()
}

pub(super) fn held(state: SecretState) -> Vec<HeldSecret> {
    vec![secret("KEY", 0xa7, CANARY, state)]
}

pub(super) fn secret(name: &str, random: u8, value: &str, state: SecretState) -> HeldSecret {
    HeldSecret {
        name: SecretName::parse(name).unwrap(),
        placeholder: Placeholder::from_bytes([random; 32]),
        value: SecretValue::new(value.to_owned()).unwrap(),
        state,
    }
}

fn rules(
    document: &Value,
    operator: &OperatorRules,
    held: &[HeldSecret],
    generation: u64,
) -> Rules {
    let document = serde_json::from_value(document.clone()).unwrap();
    Rules::build(&document, held, operator, &BTreeMap::new(), generation).unwrap()
}

/// G1: the canary in none of the forms in which it could be recognised.
fn assert_absent(bytes: &[u8], what: &str) {
    use base64::Engine as _;
    let hex: Vec<String> = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    let percent: String = CANARY
        .bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let mut forms = vec![
        CANARY.to_owned(),
        CANARY.chars().rev().collect(),
        CANARY.replace('"', "\\\""),
        hex.to_uppercase(),
        hex,
        percent.to_lowercase(),
        percent,
    ];
    for offset in 0..3 {
        let padded = format!("{}{CANARY}", &"xyz"[..offset]);
        for engine in [
            base64::engine::general_purpose::STANDARD,
            base64::engine::general_purpose::URL_SAFE,
        ] {
            let encoded = engine.encode(&padded);
            forms.push(encoded[4..encoded.len() - 4].to_owned());
        }
    }
    for form in forms {
        let found = bytes
            .windows(form.len())
            .any(|window| window == form.as_bytes());
        assert!(
            !found,
            "{form} is in {what}: {}",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// The status of an answer written by hand, and its body.
pub(super) fn status(answer: &str) -> u16 {
    let line = answer
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| answer.strip_prefix("HTTP/1.0 "));
    line.and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}
