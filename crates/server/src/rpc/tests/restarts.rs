//! The node goes away and comes back while connections and sandboxes live on.

use serde_json::{Value, json};
use tombolo_testkit::eventually;

use super::agent::FIRST_PID;
use super::harness::Harness;
use crate::guest::Dialect;

#[tokio::test]
async fn a_process_is_waited_for_and_heard_across_a_restart() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let process = client.ok("spawn", json!({"command": "sleep"})).await;
    let wait = client
        .request("processWait", json!({"pid": process["pid"]}))
        .await;
    let stdout = process["stdoutStreamId"].as_u64().unwrap();
    let output = harness.agent.process(FIRST_PID).stdout;
    output.print(b"before ");
    client.stream_message(stdout).await;
    let first = client.stream_message(stdout).await;
    assert_eq!(first["params"]["data"], "YmVmb3JlIA==");
    harness.node.kill();
    output.print(b"meanwhile ");
    harness.node.restart().unwrap();
    let second = client.stream_message(stdout).await;
    assert_eq!(second["params"]["data"], "bWVhbndoaWxlIA==");
    output.print(b"after");
    harness.agent.exit(FIRST_PID, 5, 0);
    let third = client.stream_message(stdout).await;
    assert_eq!(third["params"]["data"], "YWZ0ZXI=");
    assert_eq!(
        client.stream_message(stdout).await["method"],
        "$sandbox.stream.end"
    );
    assert_eq!(client.answer(wait).await["result"]["ok"]["code"], 5);
}

#[tokio::test]
async fn calls_wait_for_a_node_that_restarts() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.ok("stat", json!({"path": "/"})).await;
    harness.node.kill();
    // One only reads; the other cannot have left.
    let stat = client.request("stat", json!({"path": "/"})).await;
    let mkdir = client.request("mkdir", json!({"path": "/d"})).await;
    let pong = async {
        client.send_text("ping").await;
        client.message().await
    };
    assert!(pong.await.is_some());
    harness.node.restart().unwrap();
    assert_eq!(client.answer(stat).await["result"]["ok"]["isFile"], true);
    let made = client.answer(mkdir).await;
    // A connection that broke in this very moment may have taken the call along.
    let is_told = made["result"].get("ok").is_some() || made["result"].get("error").is_some();
    assert!(is_told, "{made}");
    assert!(harness.agent.calls("mkdir").len() <= 1);
}

#[tokio::test]
async fn a_call_that_changes_something_is_not_repeated_blindly() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    harness
        .agent
        .state
        .handle_writes
        .forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let mut client = harness.connect().await;
    let file = client.ok("open", json!({"path": "/f"})).await["fileHandleId"].take();
    let write = client
        .request("fileWrite", json!({"fileHandleId": file, "data": "aGk="}))
        .await;
    client.ok("stat", json!({"path": "/"})).await;
    let opened = async || (harness.agent.calls("open").len() == 1).then_some(());
    eventually("the file is open", opened).await;
    harness.node.kill();
    harness.node.restart().unwrap();
    harness.agent.state.handle_writes.add_permits(10);
    let answer = client.answer(write).await;
    assert!(answer["result"]["error"].is_object(), "{answer}");
    assert_eq!(client.ok("envGet", json!({"key": "A"})).await, Value::Null);
    assert!(harness.agent.calls("handle_write").len() <= 1);
}
