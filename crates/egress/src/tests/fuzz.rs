//! The parsers of what guests and hosts send, and the ways through them, with generated
//! input: for a moment here, and for as long as wanted with `cargo xtask fuzz`.

use std::{future::Future, net::SocketAddr, sync::OnceLock, time::Duration};

use hickory_proto::{
    op::{Message, MessageType},
    rr::RecordType,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;
use tombolo_fuzz::{Harness, Result, Unstructured, cut, text};
use tombolo_policy::{HostName, VirtualAddresses};

use super::rig::{CANARY, PATIENCE, Rig};
use crate::{
    audit::Record,
    dns::answer::{Answer, answer},
    flow::FlowFacts,
    sniff::{Protocol, SNIFF_LEN_MAX, sniff},
    stream::Rewound,
};

/// After so long nothing more is to come.
const QUIET: Duration = Duration::from_millis(5);

const HARNESSES: [(&str, Harness); 6] = [
    ("dns", dns),
    ("first-bytes", first_bytes),
    ("client-hello", client_hello),
    ("http1", http1),
    ("websocket-guest", websocket_guest),
    ("websocket-host", websocket_host),
];

/// DNS-10, TLS-05, TLS-15, HTTP-10, HTTP-14: generated input at each parser.
#[test]
fn every_harness_holds() {
    let rig = rig();
    tombolo_fuzz::hold(&HARNESSES);
    // Whatever it was sent, it goes on.
    let request = b"GET / HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n";
    let seen = wait(whole_answer(request));
    assert!(
        seen.starts_with(b"HTTP/1.1 200 "),
        "{}",
        seen.escape_ascii()
    );
    assert!(!rig.sandbox.closed.is_cancelled());
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(async { timeout(PATIENCE, future).await.expect("it does not end") })
}

fn wait_for<T>(future: impl Future<Output = T>, input: &[u8]) -> T {
    let ended = runtime().block_on(async { timeout(PATIENCE, future).await });
    ended.unwrap_or_else(|_elapsed| panic!("no end after {}", input.escape_ascii()))
}

/// One sandbox for all inputs, whose records nobody keeps.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let mut rig = wait(Rig::usual());
        // Once a proxy cannot get rid of its records, it goes no further.
        let mut records = rig.take_records();
        runtime().spawn(async move { while records.recv().await.is_some() {} });
        rig
    })
}

fn facts() -> FlowFacts {
    let address: SocketAddr = "192.0.2.1:53".parse().unwrap();
    FlowFacts {
        id: 1,
        organisation: "o".into(),
        sandbox: "s".into(),
        source: address,
        original: address,
        name: None,
    }
}

/// Pieces of messages: headers, labels, pointers, types, options.
const DNS_PIECES: [&str; 16] = [
    "\0\x07\x01\0\0\x01\0\0\0\0\0\0",
    "\0\x07\x01\0\0\x01\0\0\0\0\0\x01",
    "\0\x07\x28\0\0\x01\0\0\0\0\0\0",
    "\0\x07\0\0\0\x02\0\x01\0\0\0\0",
    "\x04good\x04test\0",
    "\x04GOOD\x04test\0",
    "\x04evil\x04test\0",
    "\x01.\0",
    "\0\x01\0\x01",
    "\0\x1c\0\x01",
    "\0\x41\0\x01",
    "\0\x7f\0\x03",
    "\0\0\x29\x10\0\0\0\0\0\0\0",
    "\x3f",
    "\0",
    "\x0c",
];

/// Whatever is asked, an answer is an answer to that question, about nothing but addresses
/// of permitted names, and repeats no option.
fn dns(source: &mut Unstructured<'_>) -> Result<()> {
    let mut question = text(source, &DNS_PIECES)?;
    if source.ratio(1, 4)? {
        // A pointer of compression (RFC 1035, section 4.1.4), also one that leads to itself.
        question.extend([0xc0, source.arbitrary()?]);
    }
    let mut record = Record::new(&facts(), "dns");
    let rules = rig().sandbox.rules();
    let given = answer(&question, &mut record, |name: &HostName| {
        let decision = rules.policy.network().decide_name(name);
        if decision.is_allowed() {
            let addresses = VirtualAddresses {
                v4: [198, 18, 0, 1].into(),
                v6: "fd54:6f6d:626f:1::1".parse().unwrap(),
            };
            Answer::Addresses(decision, addresses)
        } else {
            Answer::Denied(decision)
        }
    });
    let Some(given) = given else {
        return Ok(());
    };
    assert!(given.len() <= question.len() + 128, "an amplifier");
    let given = Message::from_vec(&given).unwrap();
    assert_eq!(given.metadata.message_type, MessageType::Response);
    assert_eq!(given.metadata.id.to_be_bytes(), question[..2]);
    for answer in &given.answers {
        assert!(matches!(
            answer.record_type(),
            RecordType::A | RecordType::AAAA
        ));
        assert!(
            answer
                .name
                .to_lowercase()
                .to_string()
                .starts_with("good.test")
        );
    }
    let options = given.edns.map(|edns| edns.options().as_ref().len());
    assert_eq!(options.unwrap_or_default(), 0);
    Ok(())
}

const FIRST_PIECES: [&str; 10] = [
    "GET ",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01",
    "\x16",
    "\r\n",
    "SSH-2.0-",
    "POST / HTTP/1.1\r\n",
    "\0",
    "!#$",
    "PRI",
];

/// What was told of the first bytes stays so with more of them, and is told in the end.
fn first_bytes(source: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = text(source, &FIRST_PIECES)?;
    // More is never looked at.
    bytes.truncate(SNIFF_LEN_MAX);
    let mut told = None;
    for end in 0..=bytes.len() {
        let now = sniff(&bytes[..end]);
        assert!(told.is_none() || told == now, "{end} of {bytes:?}");
        told = now;
    }
    let is_noise = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    assert!(
        told.is_some() || bytes.len() < SNIFF_LEN_MAX || is_noise,
        "{bytes:?}"
    );
    if told == Some(Protocol::Tls) {
        assert_eq!(bytes[..2], [22, 3]);
    }
    Ok(())
}

/// A real hello with bytes of chance in it, in pieces of chance: it is read or refused, and
/// what was read is read again unchanged.
fn client_hello(source: &mut Unstructured<'_>) -> Result<()> {
    let mut hello = super::hello::usual_hello();
    for _ in 0..source.int_in_range(0..=8)? {
        let at = source.choose_index(hello.len())?;
        match source.int_in_range(0..=3)? {
            0 => hello[at] = source.arbitrary()?,
            1 => hello.insert(at, source.arbitrary()?),
            2 => drop(hello.remove(at)),
            _ => hello.truncate(at + 1),
        }
    }
    let pieces = cut(source, &hello)?;
    wait(async {
        let (mut guest, proxy) = tokio::io::duplex(1 << 20);
        for piece in &pieces {
            guest.write_all(piece).await.unwrap();
        }
        guest.shutdown().await.unwrap();
        let mut stream = Rewound::new(proxy);
        let sniffed = stream.sniff().await;
        drop(sniffed);
        stream.keep();
        let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let Ok(start) = acceptor.await else { return };
        let mut stream = start.io;
        stream.rewind();
        let mut again = Vec::new();
        stream.read_to_end(&mut again).await.unwrap();
        assert_eq!(again, hello);
    });
    Ok(())
}

/// Sends, and reads until nothing comes any more; then ends, and reads the rest.
async fn exchange(port: u16, name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream: TcpStream = rig().connect(name, port).await;
    // The other end may refuse before it has read all.
    drop(stream.write_all(bytes).await);
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(len)) = timeout(QUIET, stream.read(&mut chunk)).await
        && len > 0
    {
        read.extend_from_slice(&chunk[..len]);
    }
    drop(stream.shutdown().await);
    drop(stream.read_to_end(&mut read).await);
    read
}

/// Sends a request that is the last on its connection, and reads the answer.
async fn whole_answer(request: &[u8]) -> Vec<u8> {
    let mut stream: TcpStream = rig().connect("plain.test", 80).await;
    stream.write_all(request).await.unwrap();
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    read
}

const HTTP_PIECES: [&str; 30] = [
    "GET / HTTP/1.1\r\n",
    "POST /x HTTP/1.1\r\n",
    "GET http://plain.test/ HTTP/1.1\r\n",
    "GET http://evil.test/ HTTP/1.1\r\n",
    "Host: plain.test\r\n",
    "Host: evil.test\r\n",
    "Host : plain.test\r\n",
    "host:plain.test\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: +3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "Connection: host, x\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "\r\n",
    "\n",
    "abc",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "3;a=b\r\n",
    "0\r\nHost: evil.test\r\n\r\n",
    " ",
    "\t",
    "X: y\r\n z\r\n",
    "\r",
    "HTTP/1.0\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: plain.test\r\n\r\n",
];

/// However requests are written, what arrives is for the host that was connected to, and
/// what was not asked for by a whole request line does not arrive.
fn http1(source: &mut Unstructured<'_>) -> Result<()> {
    let bytes = text(source, &HTTP_PIECES)?;
    let rig = rig();
    rig.origin.arrived.lock().clear();
    rig.origin.read.lock().clear();
    let seen = wait_for(exchange(80, "plain.test", &bytes), &bytes);
    let arrived = std::mem::take(&mut *rig.origin.arrived.lock());
    let lines = bytes.windows(5).filter(|part| *part == b"HTTP/").count();
    assert!(
        arrived.len() <= lines,
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    for request in &arrived {
        let hosts: Vec<_> = request.headers.get_all("host").iter().collect();
        assert_eq!(hosts, ["plain.test"], "{}", String::from_utf8_lossy(&bytes));
        for name in ["upgrade", "expect", "connection"] {
            assert!(!request.headers.contains_key(name), "{name}");
        }
    }
    assert!(seen.is_empty() || seen.starts_with(b"HTTP/1."));
    Ok(())
}

/// Frames of chance: most are whole, some are not.
fn frames(source: &mut Unstructured<'_>, is_masked: bool) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..source.int_in_range(1..=8)? {
        let first: u8 = if source.ratio(3, 4)? {
            *source.choose(&[0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8a])?
        } else {
            source.arbitrary()?
        };
        let mut payload = text(
            source,
            &["hello ", CANARY, "\u{e9}", "\x03\u{e8}", "DENO_SECRET_"],
        )?;
        payload.truncate(source.int_in_range(0..=300)?);
        let mask = if is_masked { 0x80 } else { 0 };
        bytes.push(first);
        match u8::try_from(payload.len()) {
            Ok(len) if len < 126 => bytes.push(mask | len),
            _ => {
                bytes.push(mask | 0x7e);
                bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        if is_masked {
            // A mask of nothing leaves the payload as it is.
            bytes.extend([0; 4]);
        }
        bytes.extend(payload);
    }
    if source.ratio(1, 8)? {
        bytes.truncate(source.int_in_range(0..=bytes.len())?);
    }
    Ok(bytes)
}

const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nHost: plain.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What follows the handshake in what a guest saw is whole frames that a server may send
/// (RFC 6455, section 5), without a value in them.
fn check_frames(seen: &[u8]) {
    let head = seen.windows(4).position(|part| part == b"\r\n\r\n");
    let Some(head) = head else { return };
    let mut rest = &seen[head + 4..];
    let mut message = Vec::new();
    while let [first, second, more @ ..] = rest {
        let (is_last, code) = (first & 0x80 != 0, first & 0x0f);
        assert_eq!(first & 0x70, 0, "a reserved bit");
        assert!(second & 0x80 == 0, "masked by a server");
        let (len, more) = match second {
            126 => (
                usize::from(u16::from_be_bytes([more[0], more[1]])),
                &more[2..],
            ),
            127 => (
                usize::try_from(u64::from_be_bytes(more[..8].try_into().unwrap())).unwrap(),
                &more[8..],
            ),
            len => (usize::from(*len), more),
        };
        assert!(code < 8 || (is_last && len <= 125), "a long control frame");
        assert!(matches!(code, 0 | 1 | 2 | 8 | 9 | 10), "a reserved code");
        let Some(payload) = more.get(..len) else {
            // The connection ended in the middle.
            return;
        };
        if code < 8 {
            message.extend_from_slice(payload);
        }
        for text in [payload, &message] {
            let found = text
                .windows(CANARY.len())
                .any(|part| part == CANARY.as_bytes());
            assert!(!found, "{}", String::from_utf8_lossy(text));
        }
        if is_last && code < 8 {
            message.clear();
        }
        rest = &more[len..];
    }
}

/// Whatever a guest sends on a `WebSocket`, the host answers messages or nothing.
fn websocket_guest(source: &mut Unstructured<'_>) -> Result<()> {
    let sent = [HANDSHAKE.as_bytes(), &frames(source, true)?].concat();
    let seen = wait(exchange(80, "plain.test", &sent));
    // On a busy machine it may have been given up before the answer.
    assert!(
        seen.is_empty() || seen.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&seen)
    );
    check_frames(&seen);
    Ok(())
}

/// Whatever a host sends on one, the guest sees frames, and no value.
fn websocket_host(source: &mut Unstructured<'_>) -> Result<()> {
    let rig = rig();
    rig.origin.read.lock().clear();
    *rig.origin.canned.lock() = [ACCEPTED.as_bytes(), &frames(source, false)?].concat();
    let handshake = HANDSHAKE.replace("plain.test", "canned.test");
    let seen = wait(exchange(80, "canned.test", handshake.as_bytes()));
    check_frames(&seen);
    Ok(())
}
