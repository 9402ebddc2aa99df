//! How connections end.

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tombolo_testkit::{eventually, within};

use super::agent::FIRST_PID;
use super::harness::{Client, Harness};
use crate::guest::Dialect;
use crate::rpc::{RpcLimits, SessionEnd};

/// The places of messages in the order they came.
fn place(messages: &[Value], wanted: impl Fn(&Value) -> bool) -> usize {
    let place = messages.iter().position(wanted);
    place.unwrap_or_else(|| panic!("missing in {messages:#?}"))
}

fn is_end(message: &Value, stream: &Value) -> bool {
    message["method"] == "$sandbox.stream.end" && message["params"]["streamId"] == *stream
}

#[tokio::test]
async fn the_end_of_a_sandbox_answers_everything_then_closes() {
    for dialect in [Dialect::JavaScript, Dialect::Python] {
        let mut harness = Harness::new(dialect).await;
        let mut client = harness.connect().await;
        let process = client.ok("spawn", json!({"command": "sleep"})).await;
        let held = client.ok("spawn", json!({"command": "sleep"})).await;
        let wait = client
            .request("processWait", json!({"pid": process["pid"]}))
            .await;
        harness.agent.process(FIRST_PID).stdout.print(b"x");
        client
            .stream_message(process["stdoutStreamId"].as_u64().unwrap())
            .await;
        let cancelled = process["stderrStreamId"].clone();
        client
            .notify("$sandbox.stream.cancel", json!({"streamId": cancelled}))
            .await;
        client.start(1).await;
        let write = client
            .request("writeFile", json!({"path": "/a", "contentStreamId": 1}))
            .await;
        let file = client.ok("open", json!({"path": "/f"})).await["fileHandleId"].take();
        let lock = client
            .request("fileLock", json!({"fileHandleId": file}))
            .await;
        let marker = client.ok("envGet", json!({"key": "A"})).await;
        assert_eq!(marker, Value::Null);
        client
            .unread
            .retain(|message| message["params"]["streamId"] != cancelled);
        harness.ending.cancel();
        let (messages, code, reason) = client.until_close().await;
        assert_eq!((code, reason.as_str()), (1001, "The sandbox has ended"));
        let answers =
            [wait, write, lock].map(|id| place(&messages, |message| message["id"] == json!(id)));
        for answer in answers {
            assert_eq!(
                messages[answer]["result"]["error"]["constructorName"],
                "ConnectionAborted"
            );
        }
        for stream in [
            &process["stdoutStreamId"],
            &held["stdoutStreamId"],
            &held["stderrStreamId"],
        ] {
            let end = place(&messages, |message| is_end(message, stream));
            assert!(answers.iter().all(|answer| *answer < end), "{messages:#?}");
            let ends = messages.iter().filter(|message| is_end(message, stream));
            assert_eq!(ends.count(), 1);
        }
        let about = |message: &&Value| message["params"]["streamId"] == cancelled;
        assert_eq!(messages.iter().find(about), None, "{dialect:?}");
        assert_eq!(harness.end().await, SessionEnd::SandboxEnded);
    }
}

#[tokio::test]
async fn a_sandbox_that_has_ended_already_closes_at_once() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    harness.ending.cancel();
    let mut client = harness.connect().await;
    let (messages, code, _) = client.until_close().await;
    assert_eq!((messages, code), (Vec::new(), 1001));
    drop(client);
    assert_eq!(harness.end().await, SessionEnd::SandboxEnded);
}

#[tokio::test]
async fn calls_on_their_way_when_the_sandbox_ends_are_answered() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for turn in 0..200 {
        if turn == 100 {
            harness.ending.cancel();
        }
        client.request("stat", json!({"path": "/"})).await;
    }
    let (messages, code, _) = client.until_close().await;
    assert_eq!(code, 1001);
    let mut answered: Vec<_> = messages
        .iter()
        .map(|message| message["id"].as_u64().unwrap())
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..200).collect::<Vec<_>>());
}

async fn close(client: &mut Client, code: Option<u16>) {
    let frame = code.map(|code| CloseFrame {
        code: code.into(),
        reason: "".into(),
    });
    client.socket.send(Message::Close(frame)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_closes_gets_its_echo() {
    for code in [None, Some(1000), Some(1001), Some(4000)] {
        let mut harness = Harness::new(Dialect::JavaScript).await;
        let mut client = harness.connect().await;
        let pid = client.ok("spawn", json!({"command": "sleep"})).await["pid"].take();
        client.request("processWait", json!({"pid": pid})).await;
        close(&mut client, code).await;
        loop {
            match client.message().await {
                Some(Message::Close(_)) => break,
                Some(_) => {}
                None => panic!("no echo"),
            }
        }
        assert_eq!(harness.end().await, SessionEnd::ClientClosed, "{code:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_lost() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let client = harness.connect().await;
    drop(client);
    assert_eq!(harness.end().await, SessionEnd::ConnectionLost);
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_hold_up_the_end() {
    let limits = RpcLimits {
        output_hold: std::time::Duration::ZERO,
        ..RpcLimits::default()
    };
    let mut harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let mut client = harness.connect().await;
    client.ok("spawn", json!({"command": "yes"})).await;
    let output = harness.agent.process(FIRST_PID).stdout;
    output.print(&vec![b'y'; 64 * 1024 * 1024]);
    // The socket is full when much less than everything has been read.
    eventually("output flows", async || {
        (output.read() > 1024 * 1024).then_some(())
    })
    .await;
    harness.ending.cancel();
    let end = within("the end", harness.end()).await;
    assert_eq!(end, SessionEnd::SandboxEnded);
}

#[tokio::test]
async fn a_half_closed_connection_is_lost() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.start(0).await;
    client
        .request("writeFile", json!({"path": "/a", "contentStreamId": 0}))
        .await;
    client.enqueue(0, b"half").await;
    let has_half = async || (harness.agent.written("/a").bytes == b"half").then_some(());
    eventually("the guest has half", has_half).await;
    tokio::io::AsyncWriteExt::shutdown(client.socket.get_mut())
        .await
        .unwrap();
    assert_eq!(harness.end().await, SessionEnd::ConnectionLost);
    assert_eq!(harness.agent.written("/a").bytes, b"half");
}
