//! Envelopes, heartbeats, malformed and oversized messages.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::harness::Harness;
use crate::guest::Dialect;
use crate::rpc::{RpcLimits, SessionEnd};

#[tokio::test]
async fn an_answer_echoes_the_id_and_always_has_its_key() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for id in [
        "0",
        "1",
        "\"0\"",
        "\"a b\"",
        "-7",
        "9007199254740991",
        "1.5",
        "null",
    ] {
        let request =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"envDelete","params":{{"key":"A"}}}}"#);
        client.send_text(&request).await;
        let Some(Message::Text(answer)) = client.message().await else {
            panic!("no answer");
        };
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"ok":null}}}}"#);
        assert_eq!(answer.as_str(), expected);
    }
}

/// What is sent, the id of the answer, and the code of its error.
const FAULTS: &[(&str, &str, i32)] = &[
    ("not json", "null", -32700),
    ("{\"jsonrpc\":\"2.0\",\"id\":1", "null", -32700),
    ("[]", "null", -32600),
    ("{}", "null", -32600),
    (r#"{"jsonrpc":"1.0","id":1,"method":"spawn"}"#, "1", -32600),
    (r#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#, "1", -32601),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"download","params":{}}"#,
        "1",
        -32601,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"vscode","params":{}}"#,
        "1",
        -32602,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"$sandbox.stream.start"}"#,
        "1",
        -32601,
    ),
    (r#"{"jsonrpc":"2.0","id":1,"method":"spawn"}"#, "1", -32602),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"spawn","params":[]}"#,
        "1",
        -32602,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"stat","params":{"path":7}}"#,
        "1",
        -32602,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"abort","params":{}}"#,
        "1",
        -32602,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"writeFile","params":{"path":"a"}}"#,
        "1",
        -32602,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"writeFile","params":{"path":"a","content":"?"}}"#,
        "1",
        -32602,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"writeFile","params":{"path":"a","contentStreamId":"x"}}"#,
        "1",
        -32602,
    ),
];

#[tokio::test]
async fn what_is_wrong_is_told_and_the_connection_goes_on() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for (text, id, code) in FAULTS {
        client.send_text(text).await;
        let answer = client.json().await;
        assert_eq!(answer["id"].to_string(), *id, "{text}");
        assert_eq!(answer["error"]["code"], *code, "{text}");
        assert!(answer.get("result").is_none(), "{text}");
    }
    // Notifications have no answer, however wrong.
    for text in [
        r#"{"jsonrpc":"2.0","method":"nope"}"#,
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":7}"#,
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"?"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"ok":null}}"#,
    ] {
        client.send_text(text).await;
    }
    assert_eq!(client.ok("envGet", json!({"key": "A"})).await, Value::Null);
}

#[tokio::test]
async fn unknown_methods_and_bad_parameters_have_the_words_the_python_sdk_reads() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    let unknown = client.call("download", json!({})).await;
    assert_eq!(unknown["error"]["message"], "Method not found");
    let invalid = client.call("spawn", json!({"command": 7})).await;
    let data = &invalid["error"]["data"];
    assert_eq!(data["constructorName"], "ZodError");
    let issues: Value = serde_json::from_str(data["message"].as_str().unwrap()).unwrap();
    assert_eq!(issues[0]["path"], json!(["command"]));
    for key in ["expected", "code", "message"] {
        assert!(issues[0][key].is_string(), "{issues}");
    }
}

#[tokio::test]
async fn a_heartbeat_is_answered_and_binary_messages_are_understood() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.send_text("ping").await;
    assert_eq!(client.message().await, Some(Message::text("pong")));
    let request = br#"{"jsonrpc":"2.0","id":1,"method":"envGet","params":{"key":"A"}}"#;
    client
        .socket
        .send(Message::binary(&request[..]))
        .await
        .unwrap();
    assert_eq!(client.json().await["result"], json!({"ok": null}));
}

#[tokio::test]
async fn the_server_pings() {
    let limits = RpcLimits {
        ping_interval: std::time::Duration::from_millis(20),
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let mut client = harness.connect().await;
    let first = tombolo_testkit::within("a ping", client.socket.next()).await;
    assert!(matches!(first, Some(Ok(Message::Ping(_)))), "{first:?}");
}

#[tokio::test]
async fn a_client_that_falls_silent_is_lost() {
    let limits = RpcLimits {
        ping_interval: std::time::Duration::from_millis(20),
        silence_max: std::time::Duration::from_millis(200),
        ..RpcLimits::default()
    };
    let mut harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    // A client that does not read does not answer pings either.
    let client = harness.connect().await;
    assert_eq!(harness.end().await, SessionEnd::ConnectionLost);
    drop(client);
}

#[tokio::test]
async fn too_large_a_message_is_refused_after_what_is_owed_is_said() {
    let limits = RpcLimits {
        frame_len_max: 100_000,
        ..RpcLimits::default()
    };
    let mut harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let mut client = harness.connect().await;
    let process = client.ok("spawn", json!({"command": "sleep"})).await;
    let wait = client
        .request("processWait", json!({"pid": process["pid"]}))
        .await;
    let stdout = process["stdoutStreamId"].as_u64().unwrap();
    let content = "x".repeat(200_000);
    let write = json!({"jsonrpc": "2.0", "id": 9, "method": "writeTextFile",
        "params": {"path": "a", "content": content}});
    client.send_text(&write.to_string()).await;
    let (messages, code, reason) = client.until_close().await;
    assert_eq!(code, 1009);
    assert!(reason.contains("100000 bytes"), "{reason}");
    let has = |wanted: &dyn Fn(&Value) -> bool| messages.iter().any(wanted);
    assert!(has(&|message| message["id"] == json!(wait)), "{messages:?}");
    assert!(has(&|message| message["method"] == "$sandbox.stream.end"
        && message["params"]["streamId"] == json!(stdout)));
    assert_eq!(harness.end().await, SessionEnd::ProtocolFault);
}

#[tokio::test]
async fn the_largest_message_is_taken() {
    let limits = RpcLimits {
        frame_len_max: 300_000,
        messages_held_max: 64 * 1024,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let mut client = harness.connect().await;
    // Each is more than may be held at once, so they follow one another.
    for turn in 0..4 {
        let path = format!("/{turn}");
        let content = "é".repeat(140_000);
        let request = json!({"jsonrpc": "2.0", "id": turn, "method": "writeTextFile",
            "params": {"path": path, "content": content}});
        client.send_text(&request.to_string()).await;
    }
    for turn in 0..4 {
        assert_eq!(client.answer(turn).await["result"], json!({"ok": null}));
        let written = harness.agent.written(&format!("/{turn}"));
        assert!(written.is_complete);
        assert_eq!(written.bytes.len(), 280_000);
    }
}

#[tokio::test]
async fn frames_that_are_not_websocket_end_the_connection() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    // A frame with all reserved bits set.
    client
        .socket
        .get_mut()
        .write_all(&[0xff; 16])
        .await
        .unwrap();
    let (_, code, _) = client.until_close().await;
    assert_eq!(code, 1002);
    assert_eq!(harness.end().await, SessionEnd::ProtocolFault);
}

#[tokio::test]
async fn more_calls_than_allowed_are_refused_not_forgotten() {
    let limits = RpcLimits {
        calls_in_flight_max: 3,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let mut client = harness.connect().await;
    let pid = client.ok("spawn", json!({"command": "sleep"})).await["pid"].take();
    for _ in 0..3 {
        client.request("processWait", json!({"pid": pid})).await;
    }
    let refused = client.error("processWait", json!({"pid": pid})).await;
    assert_eq!(refused["constructorName"], "Busy");
    harness.agent.exit(super::agent::FIRST_PID, 0, 0);
    for id in 1..=3 {
        assert_eq!(client.answer(id).await["result"]["ok"]["code"], 0);
    }
}
