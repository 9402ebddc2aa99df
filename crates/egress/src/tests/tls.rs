//! TLS-* and the decisions about whole connections.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rustls::{KeyLogFile, pki_types::ServerName};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::rig::{PATIENCE, Rig, policy, status};
use crate::rules::SecretState;
use tombolo_proc::Command;

const GET: &str = "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n";

/// A connection that was refused ends at once.
async fn assert_ended(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    let read = timeout(PATIENCE, stream.read(&mut buffer))
        .await
        .expect("not refused");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

/// TLS-02, TLS-06: the name is that of the address.
#[tokio::test]
async fn tls_02_06_the_name_is_that_of_the_address() {
    for (sni, is_accepted) in [
        ("good.test", true),
        ("GOOD.TEST", true),
        ("bad.test", false),
        ("plain.test", false),
        ("good.test.evil.test", false),
    ] {
        let rig = Rig::usual().await;
        let mut config = rig.tls_config(&["http/1.1"]);
        config.enable_sni = true;
        let result = rig.try_tls("good.test", sni, config).await;
        match result {
            Ok(stream) if is_accepted => {
                let answer = rig.talk(stream, GET.as_bytes()).await;
                assert_eq!(status(&answer), 200, "{sni} {answer}");
            }
            Err(error) if !is_accepted => {
                assert!(
                    error.to_string().contains("UnrecognisedName"),
                    "{sni} {error}"
                );
                assert_eq!(rig.origin.lines().len(), 0);
            }
            other => panic!("{sni} {:?}", other.map(drop)),
        }
        rig.finish(1).await;
    }
}

/// TLS-11: a host that asks for a client certificate is shown the operator's, with and without
/// an allow list, and no other host is.
#[tokio::test]
async fn tls_11_a_host_that_asks_is_shown_the_operators_certificate() {
    let allow = json!(["mutual.test", "stranger.test"]);
    for (host, allow_net, alpn, expected) in [
        ("mutual.test", allow.clone(), "http/1.1", 200),
        ("mutual.test", json!(null), "http/1.1", 200),
        ("stranger.test", allow, "http/1.1", 502),
    ] {
        let rig = Rig::new(policy(|document| {
            document["allow_net"] = allow_net;
            document["secrets"] = json!({});
        }))
        .await;
        let stream = rig.connect_tls(host, &[alpn]).await;
        let answer = rig
            .talk(stream, GET.replace("good.test", host).as_bytes())
            .await;
        assert_eq!(status(&answer), expected, "{host}: {answer}");
        let arrived = usize::from(expected == 200);
        assert_eq!(rig.origin.lines().len(), arrived, "{host}");
        rig.finish(1).await;
    }
}

/// TLS-01: without a name the address tells it.
#[tokio::test]
async fn tls_01_without_a_name_the_address_tells_it() {
    let rig = Rig::usual().await;
    let mut config = rig.tls_config(&["http/1.1"]);
    config.enable_sni = false;
    let stream = rig.try_tls("good.test", "good.test", config).await.unwrap();
    let answer = rig.talk(stream, GET.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    rig.finish(1).await;
}

/// TLS-05: a hello in single bytes is read.
#[tokio::test]
async fn tls_05_a_hello_in_single_bytes_is_read() {
    let rig = Rig::usual().await;
    let config = rig.tls_config(&["h2", "http/1.1"]);
    let name = ServerName::try_from("good.test").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = rig.connect("good.test", 443).await;
    stream.set_nodelay(true).unwrap();
    for byte in hello {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut record = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut record))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record[..3], [22, 3, 3], "no ServerHello");
    drop(stream);
    rig.finish(1).await;
}

/// TLS-07, TLS-16: what is no HTTP is refused.
#[tokio::test]
async fn tls_07_16_what_is_no_http_is_refused() {
    let rig = Rig::usual().await;
    let unknown = rig
        .try_tls("good.test", "good.test", rig.tls_config(&["ssh"]))
        .await;
    assert!(unknown.is_err());
    let stream = rig.connect_tls("good.test", &[]).await;
    let answer = rig.talk(stream, b"SSH-2.0-OpenSSH_9.9\r\n").await;
    assert_eq!(answer, "");
    assert_eq!(rig.origin.lines().len(), 0);
    rig.finish(2).await;
}

/// TLS-08: a host without a right certificate gets nothing.
#[tokio::test]
async fn tls_08_a_host_without_a_right_certificate_gets_nothing() {
    let rig = Rig::new(policy(|document| {
        document["allow_net"] = json!(["other.test"]);
        document["secrets"]["KEY"]["hosts"] = json!(["other.test"]);
    }))
    .await;
    let stream = rig.connect_tls("other.test", &["http/1.1"]).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\nX-Key: {}\r\n\r\n",
        rig.placeholder
    );
    let answer = rig.talk(stream, request.as_bytes()).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(answer.contains("upstream_tls"), "{answer}");
    assert_eq!(rig.origin.lines().len(), 0);
    let records = rig.finish(1).await;
    assert_eq!(records[0]["err"], "upstream_tls");
}

/// TLS-12: what is passed through is held to its name.
#[tokio::test]
async fn tls_12_what_is_passed_through_is_held_to_its_name() {
    let rig = Rig::new(policy(|document| {
        document["secrets"] = json!({});
        document["net"] = json!({"passthrough": ["good.test"]});
    }))
    .await;
    // The guest sees the certificate of the host, which the sandbox's authority did not make.
    let error = rig
        .try_tls("good.test", "good.test", rig.tls_config(&["http/1.1"]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let error = rig
        .try_tls("good.test", "bad.test", rig.tls_config(&["http/1.1"]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    let records = rig.finish(2).await;
    let protos: Vec<_> = records
        .iter()
        .map(|record| record["proto"].as_str().unwrap())
        .collect();
    assert!(protos.contains(&"tls-splice"), "{records:?}");
}

/// NET-01, NET-02, NET-08, NET-20: other addresses and ports are refused.
#[tokio::test]
async fn net_01_02_08_20_other_addresses_and_ports_are_refused() {
    for original in [
        "93.184.216.34:443",
        "169.254.169.254:80",
        "127.0.0.1:22",
        "10.0.0.1:5432",
        "[::ffff:10.0.0.1]:80",
        "198.18.77.77:443",
        "[fd54:6f6d:626f:1::ffff]:443",
    ] {
        let rig = Rig::usual().await;
        let mut stream = rig.connect_to(original.parse().unwrap()).await;
        stream.write_all(b"\x16\x03\x01\x00\x05").await.unwrap();
        assert_ended(stream).await;
        let records = rig.finish(1).await;
        assert_eq!(records[0]["decision"], "deny", "{original}");
    }
    let rig = Rig::usual().await;
    let stream = rig.connect("plain.test", 8080).await;
    let answer = rig
        .talk(stream, b"GET / HTTP/1.1\r\nHost: plain.test:8080\r\n\r\n")
        .await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(answer.contains("port_not_listed"), "{answer}");
    rig.finish(1).await;
}

/// TLS-15, TLS-16: raw bytes pass only where the port is named.
#[tokio::test]
async fn tls_15_16_raw_bytes_pass_only_where_the_port_is_named() {
    let rig = Rig::usual().await;
    let mut stream = rig.connect("plain.test", 80).await;
    stream
        .write_all(b"\0\0\0\x08\x04\xd2\x16\x2f")
        .await
        .unwrap();
    assert_ended(stream).await;
    let mut stream = rig.connect("good.test", 443).await;
    stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    assert_ended(stream).await;
    // The host answers it as HTTP; what matters is that it is the host who answers.
    let mut stream = rig.connect("raw.test", 5432).await;
    stream
        .write_all(b"\0\0\0\x08\x04\xd2\x16\x2f")
        .await
        .unwrap();
    let mut buffer = [0; 64];
    let read = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
    drop((stream, read));
    let records = rig.finish(3).await;
    let last = records
        .iter()
        .find(|record| record["name"] == "raw.test")
        .unwrap();
    assert_eq!(
        (&last["decision"], &last["proto"]),
        (&json!("allow"), &json!("tcp"))
    );
    assert_eq!(last["req_bytes"], 8);
}

/// NET-15: a connection that is no longer allowed ends.
#[tokio::test]
async fn net_15_a_connection_that_is_no_longer_allowed_ends() {
    let rig = Rig::usual().await;
    let mut stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    stream
        .write_all(b"GET /events HTTP/1.1\r\nHost: good.test\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = [0; 4096];
    assert!(
        timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap()
            > 0
    );
    let mut document = rig.document.clone();
    document["generation"] = json!(2);
    document["allow_net"] = json!(["plain.test"]);
    document["secrets"] = json!({});
    rig.replace(&document, SecretState::Active, 1);
    let ended = async { while matches!(stream.read(&mut buffer).await, Ok(len) if len > 0) {} };
    timeout(Duration::from_secs(1), ended)
        .await
        .expect("the connection goes on");
    rig.finish(1).await;
}

/// What asks TLS libraries for a file of keys.
const KEY_LOG_VARIABLE: &str = "SSLKEYLOGFILE";
/// Says that the process is the one with that in its environment.
const CHILD_VARIABLE: &str = "TOMBOLO_TEST_KEY_LOG";

/// LEAK-07: a process that is asked for its keys by its environment logs none, neither of
/// guests nor of hosts. The guest here, which does, shows that the file would have them.
#[test]
fn leak_07_no_key_of_tls_is_logged() {
    if std::env::var_os(CHILD_VARIABLE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(use_the_secret());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    let own = std::env::current_exe().unwrap();
    Command::new(own)
        .args(["--exact", "tests::tls::leak_07_no_key_of_tls_is_logged"])
        .env(KEY_LOG_VARIABLE, &keys)
        .env(CHILD_VARIABLE, "1")
        .run_blocking()
        .unwrap();
    let logged = fs_err::read_to_string(&keys).unwrap();
    // A label, the random bytes of the ClientHello, and the key (RFC 9850).
    let lines: Vec<&str> = logged
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let hellos: BTreeSet<_> = lines.iter().map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(hellos.len(), 1, "{logged}");
    let labels: BTreeSet<_> = lines.iter().map(|line| line.split(' ').next()).collect();
    assert_eq!(labels.len(), lines.len(), "logged by both ends: {logged}");
}

/// TLS on both sides of the proxy, of which the guest's logs its keys.
async fn use_the_secret() {
    let rig = Rig::usual().await;
    let mut config = rig.tls_config(&["http/1.1"]);
    config.key_log = Arc::new(KeyLogFile::new());
    let stream = rig.try_tls("good.test", "good.test", config).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nX-Key: {}\r\n\r\n",
        rig.placeholder
    );
    let answer = rig.talk(stream, request.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    rig.finish(1).await;
}
