//! `ClientHello`s and connections that no client library would make (TLS-*).

use std::{
    io,
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
    version::TLS12,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::rig::{CANARY, PATIENCE, Rig, policy, status};

const GET: &str = "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n";
/// Record and handshake types (RFC 8446).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Alerts.
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;
/// Extensions.
const SERVER_NAME: u16 = 0;
const PADDING: u16 = 21;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// A hello of TLS 1.2, whose answer has the certificate in the clear, as its parts.
struct Hello {
    /// Version, random, session, cipher suites and compression.
    start: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    fn new(rig: &Rig, name: &str) -> Self {
        let config = restricted(&rig.tls_config(&["http/1.1"]), rig);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut record = Vec::new();
        client.write_tls(&mut record).unwrap();
        Self::parse(&record[9..])
    }

    /// From the body of the message.
    fn parse(body: &[u8]) -> Self {
        let mut at = 2 + 32;
        at += 1 + usize::from(body[at]);
        at += 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
        at += 1 + usize::from(body[at]);
        let start = body[..at].to_vec();
        let mut rest = &body[at + 2..];
        let mut extensions = Vec::new();
        while let [k1, k2, l1, l2, more @ ..] = rest {
            let (value, next) = more.split_at(usize::from(u16::from_be_bytes([*l1, *l2])));
            extensions.push((u16::from_be_bytes([*k1, *k2]), value.to_vec()));
            rest = next;
        }
        Self { start, extensions }
    }

    fn set(&mut self, kind: u16, value: Option<Vec<u8>>) {
        self.extensions.retain(|(known, _)| *known != kind);
        self.extensions.extend(value.map(|value| (kind, value)));
    }

    fn put_first(&mut self, kind: u16, value: Vec<u8>) {
        self.extensions.insert(0, (kind, value));
    }

    /// The message, without records.
    fn message(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, value) in &self.extensions {
            list.extend(kind.to_be_bytes());
            list.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            list.extend_from_slice(value);
        }
        let mut body = self.start.clone();
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1, len[1], len[2], len[3]], body.as_slice()].concat()
    }

    fn records(&self, len: usize) -> Vec<u8> {
        records(&self.message(), len)
    }
}

/// The same client, of TLS 1.2 alone.
fn restricted(config: &ClientConfig, rig: &Rig) -> ClientConfig {
    let provider = Arc::clone(config.crypto_provider());
    let pem = rig.sandbox.authority.certificate_pem();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A handshake message in records of at most so many bytes.
fn records(message: &[u8], len: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let len = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[HANDSHAKE, 3, 1, len[0], len[1]], part].concat()
    };
    message.chunks(len).flat_map(record).collect()
}

/// What a server name extension holds (RFC 6066, section 3).
fn server_name(name: &[u8]) -> Vec<u8> {
    let len = u16::try_from(name.len()).unwrap();
    let mut value = (len + 3).to_be_bytes().to_vec();
    value.push(0);
    value.extend(len.to_be_bytes());
    value.extend_from_slice(name);
    value
}

/// What came back to a hello.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A certificate with this name came.
    Leaf(&'static str),
    Alert(u8),
    /// It ended without a word.
    Ended,
}

/// Sends pieces and reads until something can be told.
async fn answer(rig: &Rig, port: u16, pieces: impl Iterator<Item = &[u8]>) -> Answer {
    let mut stream = rig.connect("good.test", port).await;
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let len = timeout(PATIENCE, stream.read(&mut chunk))
            .await
            .expect("no answer")
            .unwrap_or(0);
        read.extend_from_slice(&chunk[..len]);
        for name in ["good.test", "bad.test", "evil.test"] {
            if read.windows(name.len()).any(|part| part == name.as_bytes()) {
                return Answer::Leaf(name);
            }
        }
        match read.as_slice() {
            [ALERT, _, _, _, 2, _, code, ..] => return Answer::Alert(*code),
            _ if len == 0 => return Answer::Ended,
            _ => {}
        }
    }
}

async fn answer_at_once(rig: &Rig, bytes: &[u8]) -> Answer {
    answer(rig, 443, std::iter::once(bytes)).await
}

/// TLS-05: in whatever pieces, records and order a hello comes, the leaf is the right one.
#[tokio::test]
async fn tls_05_a_hello_is_read_in_any_pieces() {
    let rig = Rig::usual().await;
    let mut count = 0;
    for padding in [0, 1000, 2000, 17_000, 40_000] {
        let mut hello = Hello::new(&rig, "good.test");
        if padding > 0 {
            // So the name is far behind, and behind a large key share first of all.
            hello.put_first(PADDING, vec![0; padding]);
        }
        for record_len in [1, 7, 100, 1024, 16_384] {
            // Not so many pieces that the test takes long.
            if padding / record_len > 2000 {
                continue;
            }
            let bytes = hello.records(record_len);
            let pieces = [1, 3, 1024, 100_000].into_iter();
            for piece_len in pieces.filter(|len| bytes.len() / len <= 3000) {
                let answer = answer(&rig, 443, bytes.chunks(piece_len)).await;
                assert_eq!(
                    answer,
                    Answer::Leaf("good.test"),
                    "{padding} {record_len} {piece_len}"
                );
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count}");
    rig.finish(count).await;
}

/// TLS-05: a hello without an end is not waited for, however much of it comes.
#[tokio::test]
async fn tls_05_a_hello_that_is_too_long_is_refused() {
    let rig = Rig::usual().await;
    let mut hello = Hello::new(&rig, "good.test");
    hello.put_first(PADDING, vec![0; 60_000]);
    let message = hello.message();
    // The message says that it is longer than it is, and goes on.
    let long = [&[1, 0x03, 0, 0], &message[4..], &vec![0; 100_000]].concat();
    let answer = answer(&rig, 443, records(&long, 16_384).chunks(4096)).await;
    assert!(
        matches!(answer, Answer::Ended | Answer::Alert(_)),
        "{answer:?}"
    );
    let records = rig.finish(1).await;
    assert_eq!(records[0]["reason"], "tls_hello");
}

/// TLS-02, TLS-06: names in forms that are none, and names that are others.
#[tokio::test]
async fn tls_06_server_names_in_every_form() {
    let good = Answer::Leaf("good.test");
    let long = "a".repeat(63) + ".";
    let long = long.repeat(4) + "test";
    let cases: [(&[u8], Option<Answer>); 12] = [
        (b"good.test", Some(good)),
        (b"GooD.TesT", Some(Answer::Leaf("good.test"))),
        (b"evil.test", Some(Answer::Alert(UNRECOGNIZED_NAME))),
        (b"*.test", None),
        (b"good.test\0.evil.test", None),
        (
            b"good.test.evil.test",
            Some(Answer::Alert(UNRECOGNIZED_NAME)),
        ),
        (b"good_test", Some(Answer::Alert(UNRECOGNIZED_NAME))),
        (b"xn--good-5qa.test", Some(Answer::Alert(UNRECOGNIZED_NAME))),
        (b"good test", None),
        (b"", None),
        (b"g\xc3\xb6\xc3\xb6d.test", None),
        (long.as_bytes(), None),
    ];
    for (name, expected) in cases {
        let rig = Rig::usual().await;
        let mut hello = Hello::new(&rig, "good.test");
        hello.set(SERVER_NAME, Some(server_name(name)));
        let answer = answer_at_once(&rig, &hello.records(16_384)).await;
        let text = String::from_utf8_lossy(name).into_owned();
        match expected {
            Some(expected) => assert_eq!(answer, expected, "{text}"),
            None => assert!(
                matches!(answer, Answer::Alert(_) | Answer::Ended),
                "{text} {answer:?}"
            ),
        }
        assert!(rig.origin.read.lock().is_empty(), "{text}");
        rig.finish(1).await;
    }
}

/// TLS-01, TLS-02: a server name that is an address is none at all (RFC 6066, section 3), so
/// the leaf is for the name of the address that was dialled; two names are an error.
#[tokio::test]
async fn tls_02_an_address_is_no_server_name() {
    for name in ["93.184.216.34", "169.254.169.254"] {
        let rig = Rig::usual().await;
        let mut hello = Hello::new(&rig, "good.test");
        hello.set(SERVER_NAME, Some(server_name(name.as_bytes())));
        let answer = answer_at_once(&rig, &hello.records(16_384)).await;
        assert_ne!(answer, Answer::Leaf("evil.test"));
        assert!(rig.origin.read.lock().is_empty());
        rig.finish(1).await;
    }
    let rig = Rig::usual().await;
    let mut hello = Hello::new(&rig, "good.test");
    hello
        .extensions
        .push((SERVER_NAME, server_name(b"evil.test")));
    let answer = answer_at_once(&rig, &hello.records(16_384)).await;
    assert!(
        matches!(answer, Answer::Alert(_) | Answer::Ended),
        "{answer:?}"
    );
    rig.finish(1).await;
}

/// What an outer hello holds (RFC 9849): HPKE with X25519, or what looks like it.
fn encrypted_hello() -> Vec<u8> {
    let mut value = vec![0, 0, 1, 0, 1, 7, 0, 32];
    value.extend([0x5a; 32]);
    value.extend([0, 239]);
    value.extend([0xa5; 239]);
    value
}

/// TLS-04: an encrypted hello, or one that only looks so, changes nothing: where TLS ends
/// here it is not read, and where it is passed through the address is fixed already.
#[tokio::test]
async fn tls_04_an_encrypted_hello_leads_nowhere_else() {
    for passthrough in [json!([]), json!(["good.test"])] {
        let rig = Rig::new(policy(|document| {
            document["secrets"] = json!({});
            document["net"] = json!({ "passthrough": passthrough });
        }))
        .await;
        for (outer, expected) in [
            ("good.test", Answer::Leaf("good.test")),
            ("evil.test", Answer::Alert(UNRECOGNIZED_NAME)),
        ] {
            let mut hello = Hello::new(&rig, outer);
            hello.set(ENCRYPTED_CLIENT_HELLO, Some(encrypted_hello()));
            let answer = answer_at_once(&rig, &hello.records(16_384)).await;
            assert_eq!(answer, expected, "{passthrough} {outer}");
        }
        rig.finish(2).await;
    }
}

/// TLS-07: what is not offered is not spoken, and who offers nothing has to speak HTTP.
#[tokio::test]
async fn tls_07_protocols_are_those_of_http() {
    for (offered, agreed) in [
        (&[][..], Some(None)),
        (&["h2"], Some(Some("h2"))),
        (&["http/1.1", "h2"], Some(Some("h2"))),
        (&["postgresql", "http/1.1"], Some(Some("http/1.1"))),
        (&["postgresql"], None),
        (&["acme-tls/1"], None),
        (&["h3"], None),
    ] {
        let rig = Rig::usual().await;
        let config = rig.tls_config(offered);
        let result = rig.try_tls("good.test", "good.test", config).await;
        let found = result.as_ref().ok().map(|stream| {
            let alpn = stream.get_ref().1.alpn_protocol();
            alpn.map(|name| String::from_utf8(name.to_vec()).unwrap())
        });
        assert_eq!(
            found.as_ref().map(|name| name.as_deref()),
            agreed,
            "{offered:?}"
        );
        drop(result);
        rig.finish(1).await;
    }
}

/// TLS-10: nothing older than TLS 1.2 is spoken.
#[tokio::test]
async fn tls_10_old_versions_are_refused() {
    for version in [[3, 0], [3, 1], [3, 2]] {
        let rig = Rig::usual().await;
        let mut hello = Hello::new(&rig, "good.test");
        hello.start[..2].copy_from_slice(&version);
        hello.set(SUPPORTED_VERSIONS, None);
        let answer = answer_at_once(&rig, &hello.records(16_384)).await;
        assert_eq!(answer, Answer::Alert(PROTOCOL_VERSION), "{version:?}");
        rig.finish(1).await;
    }
    // SSL 2 is not even told from noise.
    let rig = Rig::usual().await;
    let answer = answer_at_once(&rig, &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]).await;
    assert_eq!(answer, Answer::Ended);
    rig.finish(1).await;
}

/// Gives the session of one name to every other.
#[derive(Debug)]
struct SharedSessions {
    inner: ClientSessionMemoryCache,
    last: Mutex<Option<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for SharedSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.inner.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.inner.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.inner.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.inner.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.inner.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        *self.last.lock().unwrap() = Some(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.last.lock().unwrap().take()
    }
}

/// TLS-09: a ticket is good for the name that gave it and for no other, and nobody sends
/// data with it before the handshake.
#[tokio::test]
async fn tls_09_a_ticket_is_of_one_name() {
    for (second, expected) in [
        ("good.test", HandshakeKind::Resumed),
        ("one.wild.test", HandshakeKind::Full),
    ] {
        let rig = Rig::usual().await;
        let sessions = Arc::new(SharedSessions {
            inner: ClientSessionMemoryCache::new(8),
            last: Mutex::default(),
        });
        let mut config = rig.tls_config(&["http/1.1"]);
        config.resumption = Resumption::store(Arc::<SharedSessions>::clone(&sessions));
        config.enable_early_data = true;
        for (name, expected) in [("good.test", HandshakeKind::Full), (second, expected)] {
            let stream = rig.try_tls(name, name, config.clone()).await.unwrap();
            let client = stream.get_ref().1;
            assert_eq!(client.handshake_kind(), Some(expected), "{name} {second}");
            assert!(!client.is_early_data_accepted());
            let answer = rig
                .talk(stream, GET.replace("good.test", name).as_bytes())
                .await;
            assert_eq!(status(&answer), 200, "{answer}");
            let ticket = sessions.last.lock().unwrap();
            assert_eq!(
                ticket
                    .as_ref()
                    .map(Tls13ClientSessionValue::max_early_data_size),
                Some(0)
            );
        }
        rig.finish(2).await;
    }
}

/// TLS-14: no sandbox believes in the authority of another.
#[tokio::test]
async fn tls_14_each_sandbox_has_an_authority_of_its_own() {
    let [rig, other] = [Rig::usual().await, Rig::usual().await];
    let pems = [&rig, &other].map(|rig| rig.sandbox.authority.certificate_pem());
    assert_ne!(pems[0], pems[1]);
    let config = other.tls_config(&["http/1.1"]);
    let error = rig
        .try_tls("good.test", "good.test", config)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    rig.finish(1).await;
    other.finish(0).await;
}

/// TLS-15: the protocol is what is spoken, whatever the port, and the policy is the same.
#[tokio::test]
async fn tls_15_the_port_says_nothing() {
    // HTTP on the port of HTTPS: the same name, but no TLS and so no value.
    let rig = Rig::usual().await;
    let stream = rig.connect("good.test", 443).await;
    let request = GET.replace(
        "\r\n\r\n",
        &format!("\r\nX-Key: {}\r\n\r\n", rig.placeholder),
    );
    rig.talk(
        stream,
        request.replace("good.test", "good.test:443").as_bytes(),
    )
    .await;
    let read = rig.origin.read.lock().concat();
    assert!(
        !read
            .windows(CANARY.len())
            .any(|part| part == CANARY.as_bytes())
    );
    let stream = rig.connect("good.test", 443).await;
    let answer = rig
        .talk(stream, GET.replace("good.test", "bad.test:443").as_bytes())
        .await;
    assert_eq!(status(&answer), 421, "{answer}");
    rig.finish(2).await;
    // TLS on the port of HTTP, and on one that is not listed.
    let rig = Rig::usual().await;
    let stream = rig.connect("plain.test", 80).await;
    let name = ServerName::try_from("plain.test").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(rig.tls_config(&["http/1.1"])));
    let stream = timeout(PATIENCE, connector.connect(name, stream))
        .await
        .unwrap()
        .unwrap();
    let answer = rig
        .talk(stream, GET.replace("good.test", "evil.test").as_bytes())
        .await;
    assert_eq!(status(&answer), 421, "{answer}");
    let stream = rig.connect("plain.test", 8080).await;
    let name = ServerName::try_from("plain.test").unwrap();
    let stream = timeout(PATIENCE, connector.connect(name, stream))
        .await
        .unwrap()
        .unwrap();
    let answer = rig
        .talk(
            stream,
            GET.replace("good.test", "plain.test:8080").as_bytes(),
        )
        .await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(answer.contains("port_not_listed"), "{answer}");
    rig.finish(2).await;
}

/// TLS-16: inside of TLS there is HTTP, and no TLS once more.
#[tokio::test]
async fn tls_16_nothing_else_is_inside_of_tls() {
    for inside in [
        Hello::new(&Rig::usual().await, "good.test").records(16_384),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(),
        b"\x05\x01\0".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
    ] {
        for alpn in [&["h2"][..], &["http/1.1"], &[]] {
            let rig = Rig::usual().await;
            let stream = rig.connect_tls("good.test", alpn).await;
            let talk = timeout(std::time::Duration::from_secs(1), rig.talk(stream, &inside));
            assert_eq!(talk.await.expect("it goes on"), "", "{alpn:?} {inside:?}");
            assert!(rig.origin.read.lock().is_empty());
            let records = rig.finish(1).await;
            assert_eq!(records[0]["decision"], "deny");
        }
    }
}

/// TLS-05: key shares of key exchanges that nobody here knows are passed over.
#[tokio::test]
async fn tls_05_unknown_key_shares_are_passed_over() {
    let rig = Rig::usual().await;
    let mut hello = Hello::new(&rig, "good.test");
    // As long as a share of X25519MLKEM768, which browsers send first.
    let mut share = vec![0x11, 0xec, 0x04, 0xc0];
    share.extend([0; 1216]);
    let len = u16::try_from(share.len()).unwrap().to_be_bytes();
    hello.put_first(KEY_SHARE, [&len[..], &share].concat());
    let answer = answer_at_once(&rig, &hello.records(512)).await;
    assert_eq!(answer, Answer::Leaf("good.test"));
    rig.finish(1).await;
}

/// TLS-03: the authority is the name of the connection, in HTTP/1.1 and in HTTP/2.
#[tokio::test]
async fn tls_03_no_other_host_is_reached_through_an_allowed_one() {
    for host in ["bad.test", "one.wild.test", "old.test"] {
        let rig = Rig::usual().await;
        let answer = rig.talk_tls(&GET.replace("good.test", host)).await;
        assert_eq!(status(&answer), 421, "{answer}");
        let mut sender = rig.connect_http2("good.test").await;
        let request = http::Request::get(format!("https://{host}/"));
        let request = request
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(response.status(), 421);
        drop((response, sender));
        assert!(rig.origin.read.lock().is_empty());
        rig.finish(2).await;
    }
}

/// What a client of today sends to `good.test`.
pub(super) fn usual_hello() -> Vec<u8> {
    static HELLO: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("good.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    };
    HELLO.get_or_init(make).clone()
}
