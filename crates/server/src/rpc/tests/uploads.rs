//! The streams from the client: file contents and standard input.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tombolo_testkit::eventually;

use super::agent::FIRST_PID;
use super::harness::Harness;
use crate::guest::Dialect;
use crate::rpc::RpcLimits;

/// The guest takes no more chunks until it is given permits.
fn starve(harness: &Harness) {
    harness
        .agent
        .state
        .appetite
        .forget_permits(Semaphore::MAX_PERMITS);
}

#[tokio::test]
async fn a_file_comes_as_content_or_as_a_stream_in_any_order() {
    for dialect in [Dialect::JavaScript, Dialect::Python] {
        let harness = Harness::new(dialect).await;
        let mut client = harness.connect().await;
        let options = json!({"append": true, "create": false, "createNew": null, "mode": 0o600});
        let params = json!({"path": "/content", "content": "aGVsbG8=", "options": options});
        assert_eq!(client.ok("writeFile", params).await, Value::Null);
        let written = harness.agent.written("/content");
        assert_eq!(written.bytes, b"hello");
        assert!(written.open.append && !written.open.create && !written.open.create_new);
        assert_eq!(written.open.mode, Some(0o600));

        // The whole stream, then the call.
        client.start(0).await;
        client.enqueue(0, b"hel").await;
        client.enqueue(0, b"").await;
        client.enqueue(0, b"lo").await;
        client.finish(0).await;
        client
            .ok(
                "writeFile",
                json!({"path": "/before", "contentStreamId": 0}),
            )
            .await;

        // The call in the middle.
        client.start(1).await;
        client.enqueue(1, b"hel").await;
        let write = client
            .request(
                "writeTextFile",
                json!({"path": "/amid", "contentStreamId": 1}),
            )
            .await;
        client.enqueue(1, b"lo").await;
        client.finish(1).await;
        client.answer(write).await;

        // The call before the stream.
        let write = client
            .request("writeFile", json!({"path": "/after", "contentStreamId": 2}))
            .await;
        client.start(2).await;
        client.enqueue(2, b"hello").await;
        client.finish(2).await;
        client.answer(write).await;

        for path in ["/content", "/before", "/amid", "/after"] {
            let written = harness.agent.written(path);
            assert!(written.is_complete, "{path}");
            assert_eq!(written.bytes, b"hello", "{path}");
        }
        assert!(harness.agent.written("/after").open.create);
    }
}

#[tokio::test]
async fn an_empty_file_is_written_too() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client
        .ok("writeFile", json!({"path": "/a", "content": ""}))
        .await;
    client
        .ok("writeTextFile", json!({"path": "/b", "content": ""}))
        .await;
    client.start(0).await;
    client.finish(0).await;
    client
        .ok("writeFile", json!({"path": "/c", "contentStreamId": 0}))
        .await;
    for path in ["/a", "/b", "/c"] {
        assert!(harness.agent.written(path).is_complete, "{path}");
    }
}

#[tokio::test]
async fn large_content_is_cut_into_chunks() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| n.to_le_bytes()[1]).collect();
    let content = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &bytes);
    client
        .ok("writeFile", json!({"path": "/a", "content": content}))
        .await;
    assert!(harness.agent.written("/a").bytes == bytes);
    client.start(0).await;
    client.enqueue(0, &bytes).await;
    client.finish(0).await;
    client
        .ok("writeFile", json!({"path": "/b", "contentStreamId": 0}))
        .await;
    assert!(harness.agent.written("/b").bytes == bytes);
}

#[tokio::test]
async fn a_failed_stream_fails_its_call() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    for (stream, error) in [
        (1, json!("boom")),
        (
            2,
            json!({"constructorName": "RangeError", "message": "boom"}),
        ),
    ] {
        let path = format!("/{stream}");
        client.start(stream).await;
        let write = client
            .request(
                "writeFile",
                json!({"path": path, "contentStreamId": stream}),
            )
            .await;
        client.enqueue(stream, b"data").await;
        client
            .notify(
                "$sandbox.stream.error",
                json!({"streamId": stream, "error": error}),
            )
            .await;
        let answer = client.answer(write).await;
        assert_eq!(answer["result"]["error"]["message"], "boom");
    }
}

#[tokio::test]
async fn an_error_of_the_guest_reaches_the_call_and_stops_the_stream() {
    let harness = Harness::new(Dialect::JavaScript).await;
    harness.agent.fail("write_file", 13);
    let mut client = harness.connect().await;
    client.start(5).await;
    client.enqueue(5, b"data").await;
    let error = client
        .error("writeFile", json!({"path": "/x", "contentStreamId": 5}))
        .await;
    assert_eq!(error["constructorName"], "PermissionDenied");
    client.enqueue(5, b"more").await;
    let cancel = client.stream_message(5).await;
    assert_eq!(cancel["method"], "$sandbox.stream.cancel");
    client.enqueue(5, b"more").await;
    client.ok("envGet", json!({"key": "A"})).await;
    assert_eq!(client.unread, [json!(null); 0], "one cancel is enough");
}

#[tokio::test]
async fn a_stream_has_one_call() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.start(1).await;
    let first = client
        .request("writeFile", json!({"path": "/a", "contentStreamId": 1}))
        .await;
    let error = client
        .error("writeFile", json!({"path": "/b", "contentStreamId": 1}))
        .await;
    assert_eq!(error["constructorName"], "TypeError");
    client.finish(1).await;
    client.answer(first).await;
}

#[tokio::test]
async fn a_stalled_stream_holds_up_nothing_else() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    // Nothing comes from the client, and nothing is taken by the guest.
    client.start(0).await;
    client
        .request("writeFile", json!({"path": "/idle", "contentStreamId": 0}))
        .await;
    starve(&harness);
    client.start(1).await;
    client
        .request("writeFile", json!({"path": "/stuck", "contentStreamId": 1}))
        .await;
    for _ in 0..64 {
        client.enqueue(1, &vec![7; 64 * 1024]).await;
    }
    client.ok("stat", json!({"path": "/"})).await;
    client.start(2).await;
    client
        .ok("spawn", json!({"command": "cat", "stdinStreamId": 2}))
        .await;
}

#[tokio::test]
async fn data_waits_in_bounded_room_and_arrives_whole() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 512;
    let limits = RpcLimits {
        inbound_buffer_max: 2 * 1024 * 1024,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    starve(&harness);
    let mut client = harness.connect().await;
    client.start(0).await;
    let write = client
        .request("writeFile", json!({"path": "/a", "contentStreamId": 0}))
        .await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            for _ in 0..CHUNKS {
                client.enqueue(0, &vec![7; CHUNK]).await;
                sent.fetch_add(CHUNK, Ordering::SeqCst);
            }
            client.finish(0).await;
            client
        }
    });
    let state = &harness.agent.state;
    for taken in 1..=CHUNKS {
        state.appetite.add_permits(1);
        let is_taken = async || (state.taken.load(Ordering::SeqCst) >= taken * CHUNK).then_some(());
        eventually("a chunk is taken", is_taken).await;
        // Base64 and the kernel's socket buffers come on top of the bound.
        let ahead = sent.load(Ordering::SeqCst).saturating_sub(taken * CHUNK);
        assert!(ahead < 14 * 1024 * 1024, "{ahead} bytes ahead of the guest");
    }
    let mut client = sending.await.unwrap();
    client.answer(write).await;
    let written = harness.agent.written("/a");
    assert!(written.is_complete);
    assert_eq!(written.bytes.len(), CHUNKS * CHUNK);
}

#[tokio::test]
async fn a_reader_that_stalls_for_too_long_loses_its_stream() {
    let limits = RpcLimits {
        inbound_buffer_max: 256 * 1024,
        stall_max: Duration::from_millis(100),
        spill_len_max: 512 * 1024,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    starve(&harness);
    let mut client = harness.connect().await;
    client.start(0).await;
    let write = client
        .request("writeFile", json!({"path": "/a", "contentStreamId": 0}))
        .await;
    for _ in 0..40 {
        client.enqueue(0, &vec![7; 64 * 1024]).await;
    }
    client.ok("stat", json!({"path": "/"})).await;
    harness.agent.state.appetite.add_permits(1000);
    let answer = client.answer(write).await;
    assert_eq!(answer["result"]["error"]["constructorName"], "TimedOut");
}

#[tokio::test]
async fn what_nobody_reads_for_long_holds_up_nothing_and_is_not_lost() {
    let limits = RpcLimits {
        inbound_buffer_max: 256 * 1024,
        stall_max: Duration::from_millis(20),
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::Python, limits).await;
    starve(&harness);
    let mut client = harness.connect().await;
    client.start(1).await;
    client
        .ok("spawn", json!({"command": "cat", "stdinStreamId": 1}))
        .await;
    let mut sent = Vec::new();
    for n in 0..128_u8 {
        let chunk = vec![n; 64 * 1024];
        client.enqueue(1, &chunk).await;
        sent.extend(chunk);
    }
    client.finish(1).await;
    client.ok("stat", json!({"path": "/"})).await;
    harness.agent.state.appetite.add_permits(10_000);
    let stdin = harness.agent.process(FIRST_PID).stdin;
    eventually("input ends", async || stdin.lock().is_closed.then_some(())).await;
    assert!(stdin.lock().bytes == sent);
}

#[tokio::test]
async fn a_stream_that_no_call_names_is_bounded() {
    let limits = RpcLimits {
        orphan_buffer_max: 128 * 1024,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let mut client = harness.connect().await;
    client.start(0).await;
    for _ in 0..8 {
        client.enqueue(0, &vec![7; 64 * 1024]).await;
    }
    assert_eq!(
        client.stream_message(0).await["method"],
        "$sandbox.stream.cancel"
    );
    let error = client
        .error("writeFile", json!({"path": "/a", "contentStreamId": 0}))
        .await;
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("before any call")
    );
}

#[tokio::test]
async fn ten_thousand_tiny_streams() {
    const STREAMS: u64 = 10_000;
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    let first = client.request("envGet", json!({"key": "A"})).await + 1;
    client.answer(0).await;
    let (mut sink, mut source) = futures_util::StreamExt::split(client.socket);
    let sending = tokio::spawn(async move {
        use futures_util::SinkExt as _;
        let mut send = async |message: Value| {
            let text = message.to_string();
            let message = tungstenite::Message::text(text);
            sink.feed(message).await.unwrap();
        };
        for n in 0..STREAMS {
            let about = json!({"streamId": n});
            send(json!({"jsonrpc": "2.0", "method": "$sandbox.stream.start", "params": about}))
                .await;
            send(
                json!({"jsonrpc": "2.0", "id": first + n, "method": "writeFile",
                "params": {"path": format!("/{n}"), "contentStreamId": n}}),
            )
            .await;
        }
        // Backwards, so that no stream ends before all are open.
        for n in (0..STREAMS).rev() {
            let about = json!({"streamId": n, "data": "eA=="});
            send(json!({"jsonrpc": "2.0", "method": "$sandbox.stream.enqueue", "params": about}))
                .await;
            let about = json!({"streamId": n});
            send(json!({"jsonrpc": "2.0", "method": "$sandbox.stream.end", "params": about})).await;
        }
        sink.flush().await.unwrap();
    });
    let mut answered = std::collections::HashSet::new();
    while answered.len() < usize::try_from(STREAMS).unwrap() {
        use futures_util::StreamExt as _;
        let message = tombolo_testkit::within("an answer", source.next())
            .await
            .unwrap()
            .unwrap();
        if let Ok(text) = message.to_text()
            && !text.is_empty()
        {
            let answer: Value = serde_json::from_str(text).unwrap();
            assert_eq!(answer["result"], json!({"ok": null}));
            assert!(answered.insert(answer["id"].as_u64().unwrap()));
        }
    }
    sending.await.unwrap();
    assert_eq!(harness.agent.state.written.lock().len(), answered.len());
}

#[tokio::test]
async fn standard_input_reaches_the_process_and_ends() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.start(0).await;
    client.enqueue(0, b"early ").await;
    client
        .ok("spawn", json!({"command": "cat", "stdinStreamId": 0}))
        .await;
    assert!(harness.agent.calls("spawn")[0].contains("stdin: Piped"));
    client.enqueue(0, b"late").await;
    let stdin = || harness.agent.process(FIRST_PID).stdin.lock().clone();
    eventually("input arrives", async || {
        (stdin().bytes == b"early late").then_some(())
    })
    .await;
    assert!(!stdin().is_closed);
    client.finish(0).await;
    eventually("input ends", async || stdin().is_closed.then_some(())).await;
}

#[tokio::test]
async fn empty_standard_input_ends_at_once() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    client.start(1).await;
    client
        .ok("spawn", json!({"command": "cat", "stdinStreamId": 1}))
        .await;
    client.finish(1).await;
    let stdin = || harness.agent.process(FIRST_PID).stdin.lock().clone();
    eventually("input ends", async || stdin().is_closed.then_some(())).await;
}

#[tokio::test]
async fn input_of_a_dead_process_is_dropped_and_cancelled_when_more_comes() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.start(0).await;
    client
        .ok("spawn", json!({"command": "true", "stdinStreamId": 0}))
        .await;
    harness.agent.exit(FIRST_PID, 0, 0);
    // The first chunk finds out; what comes after is told to stop.
    let mut is_cancelled = false;
    for _ in 0..1000 {
        client.enqueue(0, b"data").await;
        client.ok("envGet", json!({"key": "A"})).await;
        if !client.unread.is_empty() {
            assert_eq!(
                client.stream_message(0).await["method"],
                "$sandbox.stream.cancel"
            );
            is_cancelled = true;
            break;
        }
    }
    assert!(is_cancelled);
    client.finish(0).await;
    client.ok("envGet", json!({"key": "A"})).await;
}

#[tokio::test]
async fn a_call_can_be_aborted() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.start(0).await;
    let calls = [
        ("readFile", json!({"path": "/never", "abortId": 0})),
        ("readTextFile", json!({"path": "/never", "abortId": 1})),
        (
            "writeFile",
            json!({"path": "/w", "contentStreamId": 0, "abortId": 2}),
        ),
        (
            "writeTextFile",
            json!({"path": "/w", "contentStreamId": 7, "abortId": 3}),
        ),
    ];
    for (abort, (method, params)) in calls.into_iter().enumerate() {
        // Sent back to back: the abort finds the call however fast it comes.
        let call = client.request(method, params).await;
        let abort = client.request("abort", json!({"abortId": abort})).await;
        assert_eq!(client.answer(abort).await["result"], json!({"ok": null}));
        let error = &client.answer(call).await["result"]["error"];
        assert_eq!(error["constructorName"], "DOMException", "{method}");
        assert_eq!(error["name"], "AbortError", "{method}");
    }
    // Before, after, and for nothing at all.
    assert_eq!(
        client.ok("abort", json!({"abortId": 77})).await,
        Value::Null
    );
    harness
        .agent
        .state
        .files
        .lock()
        .insert("/f".into(), b"hi".to_vec());
    let read = client
        .ok("readTextFile", json!({"path": "/f", "abortId": 77}))
        .await;
    assert_eq!(read, "hi");
    assert_eq!(
        client.ok("abort", json!({"abortId": 77})).await,
        Value::Null
    );
}
