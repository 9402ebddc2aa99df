//! Whoever is refused and speaks HTTP is told why, also inside TLS, and nothing of it goes
//! on: not by the name that is said, and not when the policy changes meanwhile.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::rig::{PATIENCE, Rig, policy, status};
use crate::rules::SecretState;

/// The address that DNS gives for every refused name.
fn refusal(rig: &Rig) -> IpAddr {
    rig.sandbox.with_vips(|vips| vips.refusal()).v4.into()
}

async fn tls(
    rig: &Rig,
    address: IpAddr,
    sni: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = rig.connect_to((address, 443).into()).await;
    let connector = TlsConnector::from(Arc::new(rig.tls_config(alpn)));
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    timeout(PATIENCE, connector.connect(name, stream))
        .await
        .unwrap()
}

fn body(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap()
}

async fn get(sender: &mut http2::SendRequest<Empty<Bytes>>, url: &str) -> (StatusCode, Value) {
    let request = Request::get(url).body(Empty::new()).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request));
    let (parts, body) = answer.await.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_refused_name_is_told_why() {
    for (host, reason) in [
        ("evil.test", "not_listed"),
        ("EVIL.test", "not_listed"),
        ("metadata.google.internal", "metadata"),
        // Allowed since it was looked up, or a guest that tries another way.
        ("good.test", "ask_again"),
    ] {
        let rig = Rig::usual().await;
        let request = format!("GET /secret HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let plain = rig.connect_to((refusal(&rig), 80).into()).await;
        let plain = rig.talk(plain, request.as_bytes()).await;
        let inside = tls(&rig, refusal(&rig), host, &["http/1.1"]).await.unwrap();
        let inside = rig.talk(inside, request.as_bytes()).await;
        for answer in [plain, inside] {
            assert_eq!(status(&answer), 403, "{answer}");
            assert_eq!(body(&answer)["error"], "egress_denied");
            assert_eq!(body(&answer)["reason"], reason, "{answer}");
            // Nothing of the request is repeated.
            assert!(!answer.to_lowercase().contains(&host.to_lowercase()));
        }
        assert_eq!(rig.origin.lines(), Vec::<String>::new());
        for record in rig.finish(2).await {
            assert_eq!(record["decision"], "deny", "{record}");
            assert_eq!(record["reason"], reason, "{record}");
            assert_eq!(record["name"], host.to_lowercase(), "{record}");
        }
    }
}

#[tokio::test]
async fn what_is_no_http_or_names_nobody_ends_there() {
    let rig = Rig::usual().await;
    let mut raw = rig.connect_to((refusal(&rig), 5432).into()).await;
    let mut read = Vec::new();
    // A reset or an end: both are none of the guest's business to wait for.
    drop(timeout(PATIENCE, raw.read_to_end(&mut read)).await.unwrap());
    assert_eq!(read, b"");
    assert!(tls(&rig, refusal(&rig), "10.0.0.1", &[]).await.is_err());
    let unnamed = rig.connect_to((refusal(&rig), 80).into()).await;
    let unnamed = rig.talk(unnamed, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(body(&unnamed)["reason"], "missing_host");
    for record in rig.finish(3).await {
        assert_eq!(record["decision"], "deny", "{record}");
    }
}

#[tokio::test]
async fn a_refused_address_and_port_are_told_why_inside_tls() {
    let rig = Rig::usual().await;
    let private: IpAddr = "10.0.0.1".parse().unwrap();
    let stream = tls(&rig, private, "10.0.0.1", &["http/1.1"]).await.unwrap();
    let answer = rig
        .talk(
            stream,
            b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(body(&answer)["reason"], "private_address", "{answer}");
    let port = rig.address_of("plain.test");
    let stream = tls(&rig, port, "plain.test", &["http/1.1"]).await.unwrap();
    let answer = rig
        .talk(
            stream,
            b"GET / HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(body(&answer)["reason"], "port_not_listed", "{answer}");
    assert!(tls(&rig, private, "good.test", &[]).await.is_err());
    for record in rig.finish(3).await {
        assert_eq!(record["decision"], "deny", "{record}");
    }
}

#[tokio::test]
async fn a_refused_connection_stays_refused_when_the_policy_allows_its_host() {
    // Before the change the first is the address of refused names, the second has a port that
    // is not listed.
    let rig = Rig::new(policy(|document| {
        document["allow_net"] = json!(["good.test:80"]);
    }))
    .await;
    let addresses = [refusal(&rig), rig.address_of("good.test")];
    let mut senders = Vec::new();
    for address in addresses {
        let stream = tls(&rig, address, "good.test", &["h2"]).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let (status, body) = get(&mut sender, "https://good.test/").await;
        assert_eq!(
            (status, &body["reason"]),
            (StatusCode::FORBIDDEN, &json!("port_not_listed"))
        );
        senders.push(sender);
    }
    let mut document = rig.document.clone();
    document["generation"] = json!(2);
    document["allow_net"] = json!(["good.test"]);
    rig.replace(&document, SecretState::Active, 1);
    for mut sender in senders {
        let (status, body) = get(&mut sender, "https://good.test/").await;
        assert_eq!(
            (status, &body["reason"]),
            (StatusCode::FORBIDDEN, &json!("ask_again"))
        );
    }
    assert_eq!(rig.origin.lines(), Vec::<String>::new());
    rig.finish(4).await;
}
