//! HTTP-*: requests that two programs may read differently, written by hand.

use serde_json::json;
use tombolo_node_proto::egress::{ExplainHeader, ExplainRequest};

use super::rig::{CANARY, Rig, policy, status};
use crate::rules::SecretState;

/// One hostile request over TLS, and what has to come of it.
struct Case {
    id: &'static str,
    request: &'static str,
    status: u16,
    /// What the host sees of it: method and target.
    arrives: &'static [&'static str],
}

const CASES: [Case; 31] = [
    case(
        "HTTP-01",
        "GET / HTTP/1.1\r\nHost: bad.test\r\n{C}\r\n\r\n",
        421,
        &[],
    ),
    case(
        "HTTP-01 port",
        "GET / HTTP/1.1\r\nHost: good.test:8443\r\n{C}\r\n\r\n",
        421,
        &[],
    ),
    case(
        "HTTP-01 same",
        "GET / HTTP/1.1\r\nHost: GOOD.test.:443\r\n{C}\r\n\r\n",
        200,
        &["GET /"],
    ),
    case(
        "HTTP-01 user",
        "GET / HTTP/1.1\r\nHost: bad.test@good.test\r\n{C}\r\n\r\n",
        421,
        &[],
    ),
    case("HTTP-01 none", "GET / HTTP/1.1\r\n{C}\r\n\r\n", 400, &[]),
    case(
        "HTTP-02 good first",
        "GET / HTTP/1.1\r\nHost: good.test\r\nHost: bad.test\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-02 evil first",
        "GET / HTTP/1.1\r\nHost: bad.test\r\nHost: good.test\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-02 twice the same",
        "GET / HTTP/1.1\r\nHost: good.test\r\nHost: good.test\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-03",
        "GET https://bad.test/ HTTP/1.1\r\nHost: good.test\r\n{C}\r\n\r\n",
        421,
        &[],
    ),
    case(
        "HTTP-03 scheme",
        "GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\n{C}\r\n\r\n",
        421,
        &[],
    ),
    case(
        "HTTP-03 same",
        "GET https://good.test/x HTTP/1.1\r\nHost: good.test\r\n{C}\r\n\r\n",
        200,
        &["GET /x"],
    ),
    case(
        "HTTP-08 differing",
        "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n{C}\r\n\r\nab",
        400,
        &[],
    ),
    case(
        "HTTP-08 sign",
        "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: +1\r\n{C}\r\n\r\na",
        400,
        &[],
    ),
    case(
        "HTTP-08 hexadecimal",
        "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 0x1\r\n{C}\r\n\r\na",
        400,
        &[],
    ),
    case(
        "HTTP-08 list",
        "POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1,1\r\n{C}\r\n\r\na",
        400,
        &[],
    ),
    case(
        "HTTP-09 two codings",
        "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: gzip, chunked\r\n{C}\r\n\r\n0\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-09 two lines",
        "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n{C}\r\n\r\n0\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-09 unknown",
        "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: xchunked\r\n{C}\r\n\r\n0\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-09 HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-10 space before colon",
        "GET / HTTP/1.1\r\nHost : good.test\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-10 folded",
        "GET / HTTP/1.1\r\nHost: good.test\r\nX: a\r\n b\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-10 bare CR",
        "GET / HTTP/1.1\r\nHost: good.test\r\nX: a\rb\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-10 NUL",
        "GET / HTTP/1.1\r\nHost: good.test\r\nX: a\0b\r\n{C}\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-11 overflow",
        "POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n{C}\r\n\r\nfffffffffffffffff\r\n",
        400,
        &["POST /"],
    ),
    case(
        "HTTP-12 expectation",
        "GET / HTTP/1.1\r\nHost: good.test\r\nExpect: a-pony\r\n{C}\r\n\r\n",
        417,
        &[],
    ),
    case(
        "HTTP-13 h2c",
        "GET /up HTTP/1.1\r\nHost: good.test\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: close, Upgrade, HTTP2-Settings\r\n\r\n",
        200,
        &["GET /up"],
    ),
    case(
        "HTTP-13 unasked",
        "GET /upgrade HTTP/1.1\r\nHost: good.test\r\n{C}\r\n\r\n",
        502,
        &["GET /upgrade"],
    ),
    case(
        "HTTP-14 version",
        "GET /socket HTTP/1.1\r\nHost: good.test\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-14 key",
        "GET /socket HTTP/1.1\r\nHost: good.test\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        400,
        &[],
    ),
    case(
        "HTTP-15",
        "CONNECT good.test:443 HTTP/1.1\r\nHost: good.test:443\r\n{C}\r\n\r\n",
        405,
        &[],
    ),
    case(
        "HTTP-15 other",
        "CONNECT bad.test:443 HTTP/1.1\r\nHost: good.test\r\n{C}\r\n\r\n",
        405,
        &[],
    ),
];

const fn case(
    id: &'static str,
    request: &'static str,
    status: u16,
    arrives: &'static [&'static str],
) -> Case {
    Case {
        id,
        request,
        status,
        arrives,
    }
}

/// HTTP-01, HTTP-02, HTTP-03, HTTP-08, HTTP-09, HTTP-10, HTTP-11, HTTP-12, HTTP-13, HTTP-14, HTTP-15: one request each.
#[tokio::test]
async fn http_requests_that_two_may_read_differently() {
    for case in &CASES {
        let rig = Rig::usual().await;
        let answer = rig
            .talk_tls(&case.request.replace("{C}", "Connection: close"))
            .await;
        let arrived = rig.origin.lines();
        assert_eq!(status(&answer), case.status, "{}: {answer}", case.id);
        // An aborted request may have arrived or not; a refused one never.
        assert!(
            arrived == case.arrives || arrived.is_empty() && case.status == 400,
            "{}: {arrived:?}",
            case.id
        );
        for arrived in rig.origin.arrived.lock().iter() {
            assert!(!arrived.headers.contains_key("upgrade"), "{}", case.id);
            assert!(
                !arrived.headers.contains_key("http2-settings"),
                "{}",
                case.id
            );
        }
        rig.finish(1).await;
    }
}

/// HTTP-07: a request with two lengths is refused, the first of its connection or a later one,
/// and nothing after it is read.
#[tokio::test]
async fn http_07_a_request_with_two_lengths_is_refused() {
    let (length, chunked) = ("Content-Length: 40\r\n", "Transfer-Encoding: chunked\r\n");
    let before = "POST /before HTTP/1.1\r\nHost: good.test\r\nContent-Length: 2\r\n\r\nab";
    for (first, second) in [(length, chunked), (chunked, length)] {
        for (before, count) in [("", 0), (before, 1)] {
            let rig = Rig::usual().await;
            // It does not ask for the connection to be closed.
            let request = format!(
                "{before}POST /a HTTP/1.1\r\nHost: good.test\r\n{first}{second}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n"
            );
            let answer = rig.talk_tls(&request).await;
            assert_eq!(answer.matches("HTTP/1.1 ").count(), count + 1, "{answer}");
            assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains("two_lengths"), "{answer}");
            assert_eq!(rig.origin.lines(), vec!["POST /before"; count]);
            let records = rig.finish(count + 1).await;
            assert!(
                records
                    .iter()
                    .any(|record| record["reason"] == "two_lengths")
            );
        }
    }
}

/// HTTP-12: what the guest expects the host does not hear.
#[tokio::test]
async fn http_12_what_the_guest_expects_the_host_does_not_hear() {
    let rig = Rig::usual().await;
    let answer = rig.talk_tls("POST / HTTP/1.1\r\nHost: good.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab").await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    let arrived = rig.origin.last();
    assert!(!arrived.headers.contains_key("expect"));
    assert_eq!(arrived.body, b"ab");
    rig.finish(1).await;
}

/// HTTP-12: pipelined requests are decided one by one.
#[tokio::test]
async fn http_12_pipelined_requests_are_decided_one_by_one() {
    let rules = json!({"rules": [{"id": "read", "host": "good.test", "method": "GET"}]});
    let rig = Rig::new(policy(|document| document["net"] = rules)).await;
    let answer = rig.talk_tls("GET /1 HTTP/1.1\r\nHost: good.test\r\n\r\nDELETE /2 HTTP/1.1\r\nHost: good.test\r\n\r\nGET /3 HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 3, "{answer}");
    assert_eq!(rig.origin.lines(), ["GET /1", "GET /3"]);
    let records = rig.finish(3).await;
    let mut decisions: Vec<_> = records
        .iter()
        .map(|record| {
            (
                record["path"].as_str().unwrap(),
                record["decision"].as_str().unwrap(),
            )
        })
        .collect();
    decisions.sort_unstable();
    assert_eq!(
        decisions,
        [("/1", "allow"), ("/2", "deny"), ("/3", "allow")]
    );
}

/// HTTP-16: the path that was decided about is the one that is sent.
#[tokio::test]
async fn http_16_the_path_that_was_decided_about_is_the_one_that_is_sent() {
    for (sent, expected) in [
        ("/pub/a", Some("GET /pub/a")),
        ("/pub/../admin", None),
        ("/pub/%2e%2e/admin", None),
        ("/pub/./a", Some("GET /pub/a")),
        ("/pub/%2e/a", Some("GET /pub/a")),
        ("/pub/..%2fadmin", None),
        ("/pub/..\\admin", None),
        ("/admin/../pub/a", Some("GET /pub/a")),
    ] {
        let rules = json!({"rules": [{"id": "pub", "host": "good.test", "path": "/pub/**"}]});
        let rig = Rig::new(policy(|document| document["net"] = rules)).await;
        let answer = rig
            .talk_tls(&format!(
                "GET {sent} HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n"
            ))
            .await;
        let arrived = rig.origin.lines();
        assert_eq!(
            arrived.first().map(String::as_str),
            expected,
            "{sent}: {answer}"
        );
        rig.finish(1).await;
    }
}

/// HTTP-18: connection cannot take a secret out.
#[tokio::test]
async fn http_18_connection_cannot_take_a_secret_out() {
    let rig = Rig::usual().await;
    let answer = rig.talk_tls(&format!("GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close, x-drop\r\nX-Drop: 1\r\nKeep-Alive: 1\r\nProxy-Authorization: Basic eDp5\r\nX-Key: {}\r\n\r\n", rig.placeholder)).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let arrived = rig.origin.last();
    assert_eq!(arrived.headers["x-key"], CANARY);
    for name in ["x-drop", "keep-alive", "proxy-authorization", "connection"] {
        assert!(!arrived.headers.contains_key(name), "{name}");
    }
    rig.finish(1).await;
}

/// HTTP-21: only our credential goes to a host that requires it, and what is explained
/// beforehand is what happens.
#[tokio::test]
async fn http_21_only_our_credential_goes_to_a_host_that_requires_it() {
    for (header, expected, code) in [
        ("Authorization: Bearer {}", 200, ""),
        (
            "Authorization: Bearer sk-somebody-elses",
            403,
            "foreign_credential",
        ),
        ("X-Other: 1", 403, "credential_missing"),
        (
            "X-Api-Key: {}\r\nAuthorization: Bearer mine",
            403,
            "foreign_credential",
        ),
    ] {
        let rig = Rig::new(policy(|document| {
            document["secrets"]["KEY"]["require"] = json!(true);
        }))
        .await;
        let header = header.replace("{}", &rig.placeholder);
        let headers = header.split("\r\n").filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some(ExplainHeader {
                name: name.to_owned(),
                value: value.to_owned(),
            })
        });
        let asked = ExplainRequest {
            method: "GET".to_owned(),
            url: "https://good.test/".to_owned(),
            headers: headers.collect(),
            ..ExplainRequest::default()
        };
        let explained = crate::control::explain::explain(&rig.sandbox, &asked).unwrap();
        let (verdict, refused_by) = if expected == 200 {
            ("allow", json!(null))
        } else {
            ("deny", json!("credentials"))
        };
        assert_eq!(explained["verdict"], verdict, "{explained}");
        assert_eq!(explained["refused_by"], refused_by, "{explained}");
        let reason = explained["credentials"]["reason"].as_str();
        assert_eq!(reason.unwrap_or_default(), code, "{explained}");
        let answer = rig
            .talk_tls(&format!(
                "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n{header}\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(answer.contains(code), "{answer}");
        assert_eq!(rig.origin.lines().len(), usize::from(expected == 200));
        rig.finish(1).await;
    }
}

/// REF-09: no part of a response is asked for where a secret is known.
#[tokio::test]
async fn ref_09_no_part_of_a_response_is_asked_for_where_a_secret_is_known() {
    let rig = Rig::usual().await;
    let answer = rig.talk_tls("GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nRange: bytes=0-9\r\nAccept-Encoding: sdch, gzip;q=0.5, *\r\n\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let arrived = rig.origin.last();
    assert!(!arrived.headers.contains_key("range"));
    assert_eq!(arrived.headers["accept-encoding"], "gzip;q=0.5");
    rig.finish(1).await;
}

/// REF-09: parts are asked for where every secret of the host allows it, and then uncoded; a
/// value that is whole in a part is found there, and its part keeps its length.
#[tokio::test]
async fn ref_09_parts_are_asked_for_where_every_secret_allows_them() {
    let both = |key, other| json!({"KEY": {"hosts": ["good.test"], "allow_range": key}, "OTHER": {"hosts": ["*.wild.test", "good.test"], "allow_range": other}});
    for (secrets, is_allowed) in [(both(true, true), true), (both(true, false), false)] {
        let rig = Rig::new(policy(|document| document["secrets"] = secrets)).await;
        let answer = rig.talk_tls("GET /part HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nRange: bytes=0-99\r\nIf-Range: \"e1\"\r\nAccept-Encoding: gzip\r\n\r\n").await;
        assert_eq!(status(&answer), 206, "{answer}");
        let masked = format!("[{}]", "*".repeat(CANARY.len()));
        assert!(answer.ends_with(&masked), "{answer}");
        let arrived = rig.origin.last().headers;
        assert_eq!(arrived.contains_key("range"), is_allowed);
        assert_eq!(arrived.contains_key("if-range"), is_allowed);
        let coding = if is_allowed { "identity" } else { "gzip" };
        assert_eq!(arrived["accept-encoding"], coding);
        rig.finish(1).await;
    }
}

/// SUB-23: a revoked secret is refused at once.
#[tokio::test]
async fn sub_23_a_revoked_secret_is_refused_at_once() {
    let rig = Rig::usual().await;
    rig.replace(&rig.document, SecretState::Revoked, 2);
    let answer = rig
        .talk_tls(&format!(
            "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nX-Key: {}\r\n\r\n",
            rig.placeholder
        ))
        .await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert!(answer.contains("secret_revoked"), "{answer}");
    assert_eq!(rig.origin.lines().len(), 0);
    rig.finish(1).await;
}

/// SUB-24: a guess is only text.
#[tokio::test]
async fn sub_24_a_guess_is_only_text() {
    let rig = Rig::usual().await;
    let guess = rig.placeholder.replace('a', "b");
    let answer = rig
        .talk_tls(&format!(
            "GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\nX-Key: {guess}\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(rig.origin.last().headers["x-key"], guess.as_str());
    let records = rig.finish(1).await;
    assert_eq!(records[0]["ineligible"][0]["reason"], "foreign_placeholder");
}

/// REF-14: an answer of ours repeats nothing.
#[tokio::test]
async fn ref_14_an_answer_of_ours_repeats_nothing() {
    let rules = json!({"rules": [{"id": "read", "host": "good.test", "action": "deny", "method": "DELETE", "guidance": "Only reading."}]});
    let rig = Rig::new(policy(|document| document["net"] = rules)).await;
    let answer = rig.talk_tls("DELETE /SeCrEtPaTh?q=QuErY HTTP/1.1\r\nHost: good.test\r\nX-Header: HeAdEr\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), 403, "{answer}");
    for part in [
        "\"rule\":\"rule:read\"",
        "\"error\":\"egress_denied\"",
        "Only reading.",
    ] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    for part in ["SeCrEtPaTh", "QuErY", "HeAdEr", "DELETE"] {
        assert!(!answer.contains(part), "{part}: {answer}");
    }
    rig.finish(1).await;
}
