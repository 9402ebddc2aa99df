//! What has to work, and what the secret does on the way.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::time::timeout;

use super::rig::{CANARY, PATIENCE, Rig, pieces, policy, status};

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n{headers}\r\n")
}

/// SUB-01, REF-01: a header gets the value and an echo the placeholder.
#[tokio::test]
async fn sub_01_ref_01_a_header_gets_the_value_and_an_echo_the_placeholder() {
    let rig = Rig::usual().await;
    let header = format!("Authorization: Bearer {}\r\n", rig.placeholder);
    let answer = rig.talk_tls(&get("/echo?a=1", &header)).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains(&rig.placeholder), "{answer}");
    let arrived = rig.origin.last();
    assert_eq!(arrived.headers["authorization"], format!("Bearer {CANARY}"));
    assert_eq!(arrived.line, "GET /echo?a=1");
    let records = rig.finish(1).await;
    let record = &records[0];
    assert_eq!(record["decision"], "allow");
    assert_eq!(record["rule"], "override:good.test:443");
    assert_eq!(
        record["secrets"],
        json!([{"name": "KEY", "slots": ["header"], "count": 1}])
    );
    assert_eq!(record["query_keys"], json!(["a"]));
    assert_eq!(record["status"], 200);
}

/// REF-02, REF-03, REF-06, REF-17: in headers, compressed, binary and in single bytes.
#[tokio::test]
async fn ref_every_way_back_is_searched() {
    for path in ["/header", "/coded/gzip", "/binary", "/sliced"] {
        let rig = Rig::usual().await;
        let header = format!(
            "Authorization: Bearer {}\r\nAccept-Encoding: gzip\r\n",
            rig.placeholder
        );
        let answer = rig.talk_tls(&get(path, &header)).await;
        assert_eq!(status(&answer), 200, "{path} {answer}");
        assert!(!answer.to_lowercase().contains("alt-svc"), "{answer}");
        let records = rig.finish(1).await;
        assert!(
            records[0]["scrubbed"].as_u64().unwrap() > 0,
            "{path} {records:?}"
        );
    }
}

/// REF-04: what cannot be searched is not passed on.
#[tokio::test]
async fn ref_04_what_cannot_be_searched_is_not_passed_on() {
    let rig = Rig::usual().await;
    let answer = rig.talk_tls(&get("/unknown-coding", "")).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(answer.contains("unscannable_encoding"), "{answer}");
    rig.finish(1).await;
}

/// REF-07: an event is not held back.
#[tokio::test]
async fn ref_07_an_event_is_not_held_back() {
    let rig = Rig::usual().await;
    let mut sender = rig.connect_http2("good.test").await;
    let request = Request::get("https://good.test/events")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap();
    let mut body = response.into_body();
    let frame = timeout(PATIENCE, body.frame())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let event = frame.into_data().unwrap();
    rig.seen.lock().extend_from_slice(&event);
    assert_eq!(event, format!("data: event 0 {}\n\n", rig.placeholder));
    drop((body, sender));
    rig.finish(1).await;
}

/// SUB-15: gRPC streams both ways with trailers.
#[tokio::test]
async fn sub_15_grpc_streams_both_ways_with_trailers() {
    let rig = Rig::usual().await;
    let mut sender = rig.connect_http2("good.test").await;
    let (send, pieces) = pieces();
    let request = Request::post("https://good.test/grpc")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", rig.placeholder))
        .body(pieces)
        .unwrap();
    let response = timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let mut body = response.into_body();
    for message in ["one", "two"] {
        send.send(Bytes::from(message)).await.unwrap();
        let frame = timeout(PATIENCE, body.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
    }
    drop(send);
    let trailers = timeout(PATIENCE, body.frame())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-trailer"], rig.placeholder.as_str());
    assert_eq!(
        rig.origin.last().headers["authorization"],
        format!("Bearer {CANARY}")
    );
    drop((body, sender));
    let records = rig.finish(1).await;
    assert_eq!(records[0]["proto"], "grpc");
}

/// SUB-08: a body gets the value and its length.
#[tokio::test]
async fn sub_08_a_body_gets_the_value_and_its_length() {
    let rig = Rig::new(policy(|document| {
        document["secrets"]["KEY"]["in"] = json!(["json"]);
    }))
    .await;
    let body = format!("{{\"key\":\"{}\"}}", rig.placeholder);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = rig.talk_tls(&request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let arrived = rig.origin.last();
    let value: serde_json::Value = serde_json::from_slice(&arrived.body).unwrap();
    assert_eq!(value["key"], CANARY);
    let records = rig.finish(1).await;
    assert_eq!(records[0]["secrets"][0]["slots"], json!(["json"]));
    assert_eq!(records[0]["req_bytes"], body.len());
}

/// SUB-09: a body without a length is substituted across chunks.
#[tokio::test]
async fn sub_09_a_body_without_a_length_is_substituted_across_chunks() {
    let rig = Rig::new(policy(|document| {
        document["secrets"]["KEY"]["in"] = json!(["text"]);
    }))
    .await;
    let mut request = "POST / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for byte in format!("<{}>", rig.placeholder).chars() {
        request.extend(["1\r\n", &byte.to_string(), "\r\n"]);
    }
    request.push_str("0\r\n\r\n");
    let answer = rig.talk_tls(&request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(rig.origin.last().body, format!("<{CANARY}>").into_bytes());
    rig.finish(1).await;
}

/// SUB-03, SUB-19, SUB-20: elsewhere the placeholder stays what it is.
#[tokio::test]
async fn sub_03_19_20_elsewhere_the_placeholder_stays_what_it_is() {
    let rig = Rig::usual().await;
    let stream = rig.connect("plain.test", 80).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        rig.placeholder
    );
    let answer = rig.talk(stream, request.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(
        rig.origin.last().headers["authorization"],
        format!("Bearer {}", rig.placeholder)
    );
    // The same host without TLS.
    let stream = rig.connect("good.test", 80).await;
    let request = request.replace("plain.test", "good.test");
    let answer = rig.talk(stream, request.as_bytes()).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(
        rig.origin.last().headers["authorization"],
        format!("Bearer {}", rig.placeholder)
    );
    let records = rig.finish(2).await;
    assert_eq!(records[0]["ineligible"][0]["reason"], "host");
    assert!(
        records[1]["ineligible"][0]["reason"].is_string(),
        "{records:?}"
    );
}

/// SUB-14, REF-08: messages of a `WebSocket` in both directions.
#[tokio::test]
async fn websocket_messages_are_relayed_and_searched() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    let rig = Rig::new(policy(|document| {
        document["secrets"]["KEY"]["in"] = json!(["websocket"]);
    }))
    .await;
    let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let (mut socket, _) = tokio_tungstenite::client_async("wss://good.test/socket", stream)
        .await
        .unwrap();
    socket
        .send(Message::text(format!("hello {}", rig.placeholder)))
        .await
        .unwrap();
    let reply = timeout(PATIENCE, socket.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap();
    rig.seen.lock().extend_from_slice(reply.as_bytes());
    assert_eq!(reply, format!("got hello {0} and {0}", rig.placeholder));
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = timeout(PATIENCE, socket.next()).await.unwrap() {}
    let records = rig.finish(1).await;
    assert_eq!(records[0]["proto"], "ws");
    assert_eq!(records[0]["secrets"][0]["slots"], json!(["websocket"]));
}

/// HTTP-26: the next request on an open connection is held to the new policy.
#[tokio::test]
async fn keep_alive_uses_one_connection_and_a_new_policy_at_once() {
    let rig = Rig::usual().await;
    let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("/")
            .header("host", "good.test")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        sender.ready().await.unwrap();
    }
    let mut document = rig.document.clone();
    document["generation"] = json!(2);
    document["net"] =
        json!({"rules": [{"id": "writes-only", "host": "good.test", "method": "POST"}]});
    rig.replace(&document, crate::rules::SecretState::Active, 1);
    let request = Request::get("/")
        .header("host", "good.test")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 403);
    drop((response, sender));
    let records = rig.finish(4).await;
    assert_eq!(records[3]["policy_gen"], 2);
    assert_eq!(records[3]["reason"], "no_rule_allows");
}
