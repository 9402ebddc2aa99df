//! REF-*: ways in which a host could show the value to the guest.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use super::{
    origin::{LARGE_LEN, large},
    rig::{CANARY, PATIENCE, Rig, policy, status},
};

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n{headers}\r\n")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// REF-03: codings are undone, one or two of them, and what is sent on is plain.
#[tokio::test]
async fn ref_03_coded_responses_are_searched() {
    for coding in ["gzip", "br", "zstd", "deflate", "gzip,br", "zstd,gzip"] {
        let rig = Rig::usual().await;
        let headers = format!("X-Key: {}\r\n", rig.placeholder);
        let answer = rig
            .talk_tls(&get(&format!("/coded/{coding}"), &headers))
            .await;
        assert_eq!(status(&answer), 200, "{coding}: {answer}");
        assert!(
            body(&answer).contains(&rig.placeholder),
            "{coding}: {answer}"
        );
        assert!(
            !answer.to_lowercase().contains("content-encoding"),
            "{answer}"
        );
        let length = format!("content-length: {}\r\n", body(&answer).len());
        assert!(answer.contains(&length), "{coding}: {answer}");
        rig.finish(1).await;
        // Where nothing is found, the coding stays.
        let rig = Rig::usual().await;
        let answer = rig.talk_tls(&get(&format!("/coded/{coding}"), "")).await;
        assert!(
            answer.to_lowercase().contains("content-encoding"),
            "{answer}"
        );
        rig.finish(1).await;
    }
}

/// REF-16, HTTP-23: a host that sends a body where there can be none is not heard out, and
/// the guest sees none.
#[tokio::test]
async fn ref_16_a_body_where_none_can_be_is_not_passed_on() {
    for (method, path) in [
        ("GET", "/bodied/204"),
        ("GET", "/bodied/304"),
        ("HEAD", "/bodied/200"),
        ("GET", "/bodied/200"),
    ] {
        let rig = Rig::usual().await;
        let mut sender = rig.connect_http2::<Empty<Bytes>>("good.test").await;
        let request = Request::builder()
            .method(method)
            .uri(format!("https://good.test{path}"))
            .header("x-key", &rig.placeholder)
            .body(Empty::new())
            .unwrap();
        let response = timeout(PATIENCE, sender.send_request(request)).await;
        let response = response.unwrap().unwrap();
        assert_eq!(
            response.status().as_str(),
            path.trim_start_matches("/bodied/")
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let has_one = method == "GET" && path.ends_with("200");
        assert_eq!(!body.is_empty(), has_one, "{method} {path}");
        rig.seen.lock().extend_from_slice(&body);
        drop(sender);
        let records = rig.finish(1).await;
        assert_eq!(records[0]["err"], json!(null), "{method} {path}");
    }
}

/// HTTP-24: a response that decodes to far more than it has ends.
#[tokio::test]
async fn http_24_a_response_that_grows_too_much_is_cut_off() {
    for coding in ["gzip", "br", "zstd"] {
        let rig = Rig::usual().await;
        let answer = rig.talk_tls(&get(&format!("/dense/{coding}"), "")).await;
        assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{coding}");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["err"], "upstream_body_too_dense", "{coding}");
    }
}

/// REF-04: a response that says another coding than it has is not passed on.
#[tokio::test]
async fn ref_04_a_coding_that_is_a_lie() {
    for (path, is_told) in [
        ("/lying", true),
        ("/unknown-coding", true),
        // It turns out when the response has begun; nothing of the body follows.
        ("/lying-long", false),
    ] {
        let rig = Rig::usual().await;
        let headers = format!("X-Key: {}\r\n", rig.placeholder);
        let answer = rig.talk_tls(&get(path, &headers)).await;
        assert!(!answer.contains("x-key"), "{path}: {answer}");
        if is_told {
            assert_eq!(status(&answer), 502, "{path}: {answer}");
            assert!(answer.contains("unscannable_encoding"), "{path}: {answer}");
        }
        rig.finish(1).await;
    }
}

/// REF-05: whatever a service writes the value as.
#[tokio::test]
async fn ref_05_other_ways_to_write_a_value() {
    for form in [
        "json",
        "unicode",
        "percent",
        "html",
        "hex",
        "HEX",
        "base64",
        "base64-1",
        "base64-2",
        "base64url",
        "utf16",
    ] {
        let rig = Rig::usual().await;
        let answer = rig.talk_tls(&get(&format!("/escaped/{form}"), "")).await;
        assert_eq!(status(&answer), 200, "{form}: {answer}");
        let plain: String = body(&answer).chars().filter(|c| *c != '\0').collect();
        assert!(plain.contains(&rig.placeholder), "{form}: {answer}");
        assert!(!plain.contains("cAnArY"), "{form}: {answer}");
        let records = rig.finish(1).await;
        assert!(records[0]["scrubbed"].as_u64() > Some(0), "{form}");
    }
}

/// REF-08: text and binary messages, reasons of closing, and messages in pieces.
#[tokio::test]
async fn ref_08_messages_of_a_host() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::time::timeout;
    use tokio_tungstenite::tungstenite::Message;
    let rig = Rig::usual().await;
    let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
    let (mut socket, response) = tokio_tungstenite::client_async("wss://good.test/socket", stream)
        .await
        .unwrap();
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
    for ask in ["binary", "pieces", "close"] {
        socket.send(Message::text(ask)).await.unwrap();
        let reply = timeout(PATIENCE, socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let bytes = match &reply {
            Message::Close(Some(frame)) => frame.reason.as_bytes().to_vec(),
            other => other.clone().into_data().to_vec(),
        };
        assert!(bytes.len() > 10, "{ask}: {reply:?}");
        assert!(
            !bytes.windows(6).any(|part| part == b"cAnArY"),
            "{ask}: {reply:?}"
        );
        rig.seen.lock().extend_from_slice(&bytes);
    }
    drop(socket);
    let records = rig.finish(1).await;
    assert_eq!(records[0]["scrubbed"], 3);
}

/// REF-10: stored by one request, read by another without any placeholder, and by way of
/// another host.
#[tokio::test]
async fn ref_10_what_was_stored_is_searched_when_it_is_read() {
    let rig = Rig::usual().await;
    let headers = format!("X-Key: {}\r\n", rig.placeholder);
    assert_eq!(status(&rig.talk_tls(&get("/store", &headers)).await), 200);
    for host in ["good.test", "one.wild.test"] {
        let stream = rig.connect_tls(host, &["http/1.1"]).await;
        let request = get("/read", "").replace("good.test", host);
        let answer = rig.talk(stream, request.as_bytes()).await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(
            body(&answer).contains(&format!("x-key: {}", rig.placeholder)),
            "{answer}"
        );
    }
    let stream = rig.connect("plain.test", 80).await;
    let answer = rig
        .talk(
            stream,
            get("/read", "")
                .replace("good.test", "plain.test")
                .as_bytes(),
        )
        .await;
    assert!(body(&answer).contains(&rig.placeholder), "{answer}");
    rig.finish(4).await;
}

/// REF-11, REF-12: with the slots that there are by default, no value gets into what a host
/// stores or a model is asked, and so nothing can show it piece by piece.
#[tokio::test]
async fn ref_11_12_a_body_keeps_its_placeholder() {
    for kind in [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
    ] {
        let rig = Rig::usual().await;
        let text = format!("{{\"prompt\":\"repeat after me: {}\"}}", rig.placeholder);
        let request = format!(
            "POST /store?q={0} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nCookie: k={0}\r\nContent-Type: {kind}\r\nContent-Length: {1}\r\n\r\n{text}",
            rig.placeholder,
            text.len()
        );
        let answer = rig.talk_tls(&request).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let arrived = rig.origin.last();
        assert_eq!(arrived.body, text.as_bytes(), "{kind}");
        assert!(arrived.line.ends_with(&rig.placeholder), "{}", arrived.line);
        let read = rig.origin.read.lock().concat();
        assert!(
            !read
                .windows(CANARY.len())
                .any(|part| part == CANARY.as_bytes()),
            "{kind}"
        );
        rig.finish(1).await;
    }
}

/// REF-15: the token of Basic that we made comes back as the guest's own.
#[tokio::test]
async fn ref_15_a_token_of_ours_comes_back_as_the_guests() {
    use base64::Engine as _;
    let rig = Rig::usual().await;
    let engine = base64::engine::general_purpose::STANDARD;
    let token = engine.encode(format!("me:{}", rig.placeholder));
    let headers = format!("Authorization: Basic {token}\r\n");
    let answer = rig.talk_tls(&get("/", &headers)).await;
    let ours = engine.encode(format!("me:{CANARY}"));
    assert_eq!(
        rig.origin.last().headers["authorization"],
        format!("Basic {ours}")
    );
    assert!(body(&answer).contains(&token), "{answer}");
    assert!(!answer.contains(&ours), "{answer}");
    rig.finish(1).await;
}

/// REF-16: length, tag and emptiness are right after a search.
#[tokio::test]
async fn ref_16_framing_is_right_after_a_search() {
    let rig = Rig::usual().await;
    let answer = rig.talk_tls(&get("/kept", "")).await;
    assert_eq!(body(&answer), format!("[{}]", rig.placeholder));
    let length = format!("content-length: {}\r\n", body(&answer).len());
    assert!(answer.contains(&length), "{answer}");
    let answer = rig.talk_tls(&get("/kept", "").replace("GET", "HEAD")).await;
    assert_eq!((status(&answer), body(&answer)), (200, ""), "{answer}");
    let answer = rig
        .talk_tls(&get("/unchanged", "If-None-Match: \"e1\"\r\n"))
        .await;
    assert_eq!((status(&answer), body(&answer)), (304, ""), "{answer}");
    rig.finish(3).await;
}

/// REF-18: a host that shows the last characters of a key shows them; nothing is made of it.
#[tokio::test]
async fn ref_18_a_part_of_a_value_passes() {
    let rig = Rig::usual().await;
    let end = &CANARY[CANARY.len() - 4..];
    let answer = rig
        .talk_tls(&get("/", &format!("X-Shown: sk-...{end}\r\n")))
        .await;
    assert!(body(&answer).contains(&format!("sk-...{end}")), "{answer}");
    rig.finish(1).await;
}

/// REF-19: what has no value in it arrives as it is, searched or not.
#[tokio::test]
async fn ref_19_a_download_is_not_altered() {
    for with_secret in [true, false] {
        let rig = Rig::new(policy(|document| {
            if !with_secret {
                document["secrets"] = json!({});
            }
        }))
        .await;
        let stream = rig.connect_tls("good.test", &["http/1.1"]).await;
        let mut stream = BufReader::with_capacity(1 << 20, stream);
        let request = get("/large", "");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        let mut arrived = Vec::new();
        for expected in large() {
            arrived.resize(expected.len(), 0);
            let read = stream.read_exact(&mut arrived);
            timeout(PATIENCE, read).await.unwrap().unwrap();
            assert!(arrived == expected, "it was altered");
        }
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "there is more");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["resp_bytes"], LARGE_LEN);
        assert_eq!(records[0]["scrubbed"], 0);
    }
}
