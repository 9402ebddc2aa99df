//! Large files in one message: they go on in pieces, and nothing holds them.
//!
//! What proves it is not a measurement of memory but a guest that gives no
//! more until the client has what it gave before, and bounds that are far
//! smaller than the files.

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_tungstenite::tungstenite::Message;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_testkit::within;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::harness::{Client, Harness};
use crate::guest::Dialect;
use crate::rpc::{BudgetLimits, RpcLimits};

/// More than all buffers on the way together: the kernel's, and the windows of
/// the streams.
const FILE_CHUNKS: usize = 512;
const FILE_LEN: usize = FILE_CHUNKS * CHUNK_LEN_MAX;
/// What the guest gives at first.
const FIRST_CHUNKS: usize = 64;

/// Bounds in which no large message has room.
fn small() -> RpcLimits {
    RpcLimits {
        message_held_max: 100_000,
        messages_held_max: 100_000,
        ..RpcLimits::default()
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// A guest that gives so many chunks and then waits for the test.
async fn hesitant(chunks: usize) -> Harness {
    let harness = Harness::new(Dialect::JavaScript).await;
    harness.agent.put_file("/f", content(FILE_LEN));
    let supply = &harness.agent.state.supply;
    supply.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    supply.add_permits(chunks);
    harness
}

/// Reads from the bare connection until so much has come.
async fn receive(client: &mut Client, bytes: &mut Vec<u8>, len: usize) {
    let receiving = async {
        while bytes.len() < len {
            let read = client.socket.get_mut().read_buf(bytes).await.unwrap();
            assert!(read > 0, "the connection ended at {}", bytes.len());
        }
    };
    within("what the guest gave", receiving).await;
}

/// The data frames in what a server sent, and whether the last is final.
fn frames(bytes: &[u8]) -> (Vec<(Data, &[u8])>, bool) {
    let mut frames = Vec::new();
    let mut cursor = Cursor::new(bytes);
    let mut is_over = false;
    while let Some((head, len)) = FrameHeader::parse(&mut cursor).unwrap() {
        let start = usize::try_from(cursor.position()).unwrap();
        let end = start + usize::try_from(len).unwrap();
        let Some(payload) = bytes.get(start..end) else {
            break;
        };
        if let OpCode::Data(data) = head.opcode {
            frames.push((data, payload));
            is_over = head.is_final;
        }
        cursor.set_position(end as u64);
    }
    (frames, is_over)
}

#[tokio::test]
async fn a_file_is_sent_while_it_is_read() {
    let harness = hesitant(FIRST_CHUNKS).await;
    let mut client = harness.connect().await;
    client.request("readFile", json!({"path": "/f"})).await;
    let mut bytes = Vec::new();
    // The guest gives no more before the client has nearly all it gave.
    receive(&mut client, &mut bytes, (FIRST_CHUNKS - 1) * CHUNK_LEN_MAX).await;
    assert!(!frames(&bytes).1);
    let rest = FILE_CHUNKS + 1;
    harness.agent.state.supply.add_permits(rest);
    while !frames(&bytes).1 {
        let more = bytes.len() + 1;
        receive(&mut client, &mut bytes, more).await;
    }
    let (frames, _) = frames(&bytes);
    let longest = frames.iter().map(|(_, payload)| payload.len()).max();
    assert!(longest < Some(512 * 1024), "{longest:?}");
    for (at, (data, _)) in frames.iter().enumerate() {
        let expected = if at == 0 { Data::Text } else { Data::Continue };
        assert_eq!(*data, expected);
    }
    let payloads: Vec<_> = frames.iter().map(|(_, payload)| *payload).collect();
    let answer: Value = serde_json::from_slice(&payloads.concat()).unwrap();
    let read = BASE64_STANDARD.decode(answer["result"]["ok"].as_str().unwrap());
    assert!(read.unwrap() == content(FILE_LEN));
}

#[tokio::test]
async fn text_is_sent_while_it_is_read() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let text = "é\"€\n".repeat(300_000);
    harness.agent.put_file("/f", text.clone().into());
    let mut client = harness.connect().await;
    let read = client.ok("readTextFile", json!({"path": "/f"})).await;
    assert!(read == text);
}

#[tokio::test]
async fn pings_are_answered_and_aborts_heard_in_the_middle_of_an_answer() {
    let harness = hesitant(FIRST_CHUNKS).await;
    let mut client = harness.connect().await;
    let params = json!({"path": "/f", "abortId": 3});
    let read = client.request("readFile", params).await;
    let ping = Message::Ping(Bytes::from_static(b"there?"));
    client.socket.send(ping).await.unwrap();
    let pong = within("a pong", async {
        loop {
            match client.socket.next().await.unwrap().unwrap() {
                Message::Pong(payload) => return payload,
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(pong.await, "there?");
    let abort = client.request("abort", json!({"abortId": 3})).await;
    let answer = client.answer(read).await;
    assert_eq!(answer["result"]["error"]["name"], "AbortError");
    assert_eq!(client.answer(abort).await["result"], json!({"ok": null}));
    client.ok("envGet", json!({"key": "A"})).await;
}

#[tokio::test]
async fn a_read_that_fails_in_the_middle_is_an_error() {
    let harness = Harness::new(Dialect::JavaScript).await;
    harness.agent.put_file("/f", vec![b'"'; 1_000_000]);
    *harness.agent.state.torn.lock() = Some(5);
    let mut client = harness.connect().await;
    for method in ["readFile", "readTextFile"] {
        let id = client.request(method, json!({"path": "/f"})).await;
        let Some(Message::Text(text)) = client.message().await else {
            panic!("no answer");
        };
        // So much was sent, and is taken back.
        assert!(text.len() > 500_000, "{method}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["id"], json!(id));
        assert_eq!(answer["result"]["error"]["code"], "EIO", "{method}");
        assert!(answer["result"].get("ok").is_none(), "{method}");
    }
    client.ok("envGet", json!({"key": "A"})).await;
}

#[tokio::test]
async fn an_answer_under_way_is_ended_when_its_sandbox_ends() {
    let harness = hesitant(FIRST_CHUNKS).await;
    let mut client = harness.connect().await;
    let read = client.request("readFile", json!({"path": "/f"})).await;
    let mut first = [0];
    client.socket.get_mut().peek(&mut first).await.unwrap();
    harness.ending.cancel();
    let (messages, code, _) = client.until_close().await;
    assert_eq!(code, 1001);
    let answer = messages.iter().find(|message| message["id"] == json!(read));
    let error = &answer.unwrap()["result"]["error"];
    assert_eq!(error["constructorName"], "ConnectionAborted");
}

#[tokio::test]
async fn a_guest_that_gives_no_more_holds_up_nobody() {
    let limits = RpcLimits {
        reply_stall_max: std::time::Duration::from_millis(50),
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    harness.agent.put_file("/f", content(FILE_LEN));
    let supply = &harness.agent.state.supply;
    supply.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    supply.add_permits(FIRST_CHUNKS);
    let mut client = harness.connect().await;
    for has_length in [true, false] {
        if !has_length {
            harness.agent.fail("stat", 2);
            supply.add_permits(FIRST_CHUNKS);
        }
        let error = client.error("readFile", json!({"path": "/f"})).await;
        assert_eq!(error["constructorName"], "TimedOut", "{has_length}");
    }
    client.ok("envGet", json!({"key": "A"})).await;
}

#[tokio::test]
async fn what_has_no_length_is_gathered_up_to_a_bound() {
    let limits = RpcLimits {
        gathered_len_max: 2_000_000,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    harness.agent.fail("stat", 2);
    let mut client = harness.connect().await;
    for (len, fits) in [(1_400_000, true), (1_600_000, false)] {
        harness.agent.put_file("/f", content(len));
        let answer = client.call("readFile", json!({"path": "/f"})).await;
        assert_eq!(answer["result"]["ok"].is_string(), fits, "{len}");
        let code = &answer["result"]["error"]["code"];
        assert_eq!(code == "EMSGSIZE", !fits, "{len}");
    }
}

#[tokio::test]
async fn contents_far_beyond_what_is_held_are_written() {
    let harness = Harness::with_limits(Dialect::JavaScript, small()).await;
    let mut client = harness.connect().await;
    let bytes = content(3_000_001);
    let params = json!({"path": "/bytes", "content": BASE64_STANDARD.encode(&bytes)});
    assert_eq!(client.ok("writeFile", params).await, Value::Null);
    assert!(harness.agent.written("/bytes").bytes == bytes);

    let text = "é\"\\€\u{1}".repeat(200_000);
    let params = json!({"options": {"append": true}, "path": "/text", "content": text});
    assert_eq!(client.ok("writeTextFile", params).await, Value::Null);
    let written = harness.agent.written("/text");
    assert!(written.bytes == text.as_bytes() && written.is_complete && written.open.append);

    let file = client.ok("open", json!({"path": "/f"})).await["fileHandleId"].take();
    let params = json!({"fileHandleId": file, "data": BASE64_STANDARD.encode(content(300_000))});
    let answer = client.ok("fileWrite", params).await;
    assert_eq!(answer, json!({"bytesWritten": 300_000}));
    assert!(harness.agent.calls("handle_write").len() >= 5);
}

#[tokio::test]
async fn a_long_chunk_of_a_stream_reaches_its_reader_in_pieces() {
    let harness = Harness::with_limits(Dialect::Python, small()).await;
    let mut client = harness.connect().await;
    let bytes = content(3_000_001);
    client.start(1).await;
    let write = client
        .request("writeFile", json!({"path": "/f", "contentStreamId": 1}))
        .await;
    client.enqueue(1, &bytes).await;
    client.enqueue(1, b"end").await;
    client.finish(1).await;
    assert_eq!(client.answer(write).await["result"], json!({"ok": null}));
    let written = harness.agent.written("/f").bytes;
    assert!(written == [&bytes[..], b"end"].concat());
}

#[tokio::test]
async fn what_is_wrong_with_a_long_message_is_told() {
    let harness = Harness::with_limits(Dialect::JavaScript, small()).await;
    let mut client = harness.connect().await;
    let long = "A".repeat(400_000);
    let cases = [
        (
            format!(r#""writeFile","params":{{"path":"/f","content":"{long}=A"}}"#),
            -32602,
        ),
        (
            format!(r#""writeFile","params":{{"path":7,"content":"{long}"}}"#),
            -32602,
        ),
        (
            format!(r#""fileWrite","params":{{"fileHandleId":1,"data":"?{long}"}}"#),
            -32602,
        ),
    ];
    for (request, code) in cases {
        let text = format!(r#"{{"jsonrpc":"2.0","id":0,"method":{request}}}"#);
        client.send_text(&text).await;
        assert_eq!(client.answer(0).await["error"]["code"], code);
    }
    let torn = format!(r#"{{"id":0,"method":"writeFile","params":{{"content":"{long}\x"}}}}"#);
    client.send_text(&torn).await;
    assert_eq!(client.json().await["error"]["code"], -32700);
    assert_eq!(harness.agent.calls("write_file"), [""; 0]);

    // A stream whose data makes no sense fails for its reader.
    client.start(1).await;
    let params = json!({"path": "/f", "contentStreamId": 1});
    let write = client.request("writeFile", params).await;
    client.enqueue_text(1, &format!("{long}=A")).await;
    let answer = client.answer(write).await;
    assert_eq!(answer["result"]["error"]["constructorName"], "InvalidData");
}

#[tokio::test]
async fn a_message_that_is_long_without_a_content_is_refused() {
    let harness = Harness::with_limits(Dialect::JavaScript, small()).await;
    let mut client = harness.connect().await;
    let params = json!({"key": "A", "value": "x".repeat(200_000)});
    client.request("envSet", params).await;
    let (_, code, reason) = client.until_close().await;
    assert_eq!(code, 1009);
    assert!(reason.contains("100000"), "{reason}");
}

#[tokio::test]
async fn clients_share_a_budget_and_all_get_through() {
    let limits = RpcLimits {
        message_held_max: 300_000,
        ..RpcLimits::default()
    };
    let budget = BudgetLimits {
        messages: 300_000,
        replies: 300_000,
        uploads: 10_000,
        ..BudgetLimits::default()
    };
    let harness = Harness::with_budget(Dialect::JavaScript, limits, budget).await;
    harness.agent.put_file("/f", content(1_000_000));
    let clients = (0..8).map(async |number| {
        let mut client = harness.connect().await;
        let path = format!("/{number}");
        let content = BASE64_STANDARD.encode(content(150_000));
        let params = json!({"path": path, "content": content});
        client.ok("writeFile", params).await;
        client.ok("readFile", json!({"path": "/f"})).await;
        assert_eq!(harness.agent.written(&path).bytes.len(), 150_000);
    });
    within("all clients", futures_util::future::join_all(clients)).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_fails_the_call() {
    let limits = RpcLimits {
        stall_max: std::time::Duration::from_millis(20),
        inbound_buffer_max: 50_000,
        ..small()
    };
    let budget = BudgetLimits {
        spilled: 100_000,
        ..BudgetLimits::default()
    };
    let harness = Harness::with_budget(Dialect::JavaScript, limits, budget).await;
    let mut client = harness.connect().await;
    let params = json!({"path": "/f", "content": "A".repeat(1_000_000)});
    let error = client.error("writeFile", params).await;
    assert_eq!(error["constructorName"], "TimedOut");
    assert_eq!(harness.agent.calls("write_file"), [""; 0]);
    client.ok("envGet", json!({"key": "A"})).await;
}
