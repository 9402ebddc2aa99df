//! Processes and the streams from the server.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tombolo_guest_proto::v1;
use tombolo_testkit::eventually;

use super::agent::{FIRST_PID, entry};
use super::harness::{Client, Harness};
use crate::guest::Dialect;
use crate::rpc::RpcLimits;

const DIALECTS: [Dialect; 3] = [Dialect::JavaScript, Dialect::Python, Dialect::Native];

/// Limits under which output never comes by itself.
fn patient() -> RpcLimits {
    RpcLimits {
        output_hold: Duration::from_hours(1),
        output_hold_python: Duration::from_hours(1),
        ..RpcLimits::default()
    }
}

/// Starts `sleep`. Answers its pid and its two streams.
async fn spawn(client: &mut Client) -> (i64, u64, u64) {
    let process = client.ok("spawn", json!({"command": "sleep"})).await;
    let id = |key: &str| process[key].as_u64().unwrap();
    (
        process["pid"].as_i64().unwrap(),
        id("stdoutStreamId"),
        id("stderrStreamId"),
    )
}

#[tokio::test]
async fn spawn_passes_everything_on() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let all = json!({"command": "ls", "args": ["-l"], "env": {"A": "1"}, "clearEnv": true,
        "cwd": "/tmp", "stdout": "null", "stderr": "piped", "stdin": "piped",
        "terminal": {"rows": 24, "columns": 80}});
    let process = client.ok("spawn", all).await;
    assert_eq!(process["stdoutStreamId"], Value::Null);
    assert!(process["stderrStreamId"].is_u64());
    assert_eq!(process["pid"], FIRST_PID);
    let expected = v1::SpawnRequest {
        command: "ls".into(),
        args: vec!["-l".into()],
        env: [("A".to_owned(), "1".to_owned())].into(),
        clear_env: true,
        cwd: "/tmp".into(),
        stdin: v1::Stdio::Null.into(),
        stdout: v1::Stdio::Null.into(),
        stderr: v1::Stdio::Piped.into(),
        terminal: Some(v1::WindowSize {
            rows: 24,
            columns: 80,
        }),
    };
    assert_eq!(harness.agent.calls("spawn"), [format!("{expected:?}")]);
    // What the Python SDK leaks for "as the parent".
    let inherit = client.ok(
        "spawn",
        json!({"command": "ls", "stdout": "inherit", "stderr": "null"}),
    );
    let process = inherit.await;
    assert!(process["stdoutStreamId"].is_u64());
    assert_eq!(process["stderrStreamId"], Value::Null);
    client
        .ok(
            "processResize",
            json!({"pid": FIRST_PID, "rows": 1, "columns": 2}),
        )
        .await;
    assert_eq!(harness.agent.calls("resize_pty").len(), 1);
}

#[tokio::test]
async fn output_waits_for_process_wait() {
    for dialect in DIALECTS {
        let harness = Harness::with_limits(dialect, patient()).await;
        let mut client = harness.connect().await;
        let (pid, stdout, stderr) = spawn(&mut client).await;
        let process = harness.agent.process(FIRST_PID);
        process.stdout.print(b"out");
        process.stderr.print(b"err");
        // An answer to a later call shows what came before it: nothing.
        client.ok("envGet", json!({"key": "A"})).await;
        assert_eq!(client.unread, [json!(null); 0], "{dialect:?}");
        assert_eq!(process.stdout.readers(), 0, "nothing is read for nobody");
        let wait = client.request("processWait", json!({"pid": pid})).await;
        harness.agent.exit(FIRST_PID, 0, 0);
        assert_eq!(client.stream(stdout).await, b"out");
        assert_eq!(client.stream(stderr).await, b"err");
        client.answer(wait).await;
    }
}

#[tokio::test]
async fn output_comes_after_a_while_without_process_wait() {
    let limits = RpcLimits {
        output_hold: Duration::from_millis(20),
        output_hold_python: Duration::from_millis(20),
        ..RpcLimits::default()
    };
    for dialect in DIALECTS {
        let harness = Harness::with_limits(dialect, limits.clone()).await;
        let mut client = harness.connect().await;
        let process = client
            .ok("spawn", json!({"command": "echo", "args": ["hi"]}))
            .await;
        let stdout = process["stdoutStreamId"].as_u64().unwrap();
        assert_eq!(client.stream(stdout).await, b"hi");
    }
}

#[tokio::test]
async fn python_output_waits_for_all_of_standard_input() {
    let limits = RpcLimits {
        output_hold_python: Duration::ZERO,
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::Python, limits).await;
    let mut client = harness.connect().await;
    client.start(1).await;
    let spawned = client
        .ok("spawn", json!({"command": "cat", "stdinStreamId": 1}))
        .await;
    let process = harness.agent.process(FIRST_PID);
    process.stdout.print(b"early");
    client.enqueue(1, b"data").await;
    let stdin = || process.stdin.lock().bytes.clone();
    eventually("input arrives", async || (stdin() == b"data").then_some(())).await;
    assert_eq!(process.stdout.readers(), 0);
    client.finish(1).await;
    process.stdout.end();
    let stdout = spawned["stdoutStreamId"].as_u64().unwrap();
    assert_eq!(client.stream(stdout).await, b"early");
}

#[tokio::test]
async fn output_of_any_size_arrives_whole_and_is_never_held_whole() {
    let total = 32 * 1024 * 1024;
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let (pid, stdout, _) = spawn(&mut client).await;
    let output = harness.agent.process(FIRST_PID).stdout;
    output.print(&vec![b'x'; total]);
    output.end();
    client.request("processWait", json!({"pid": pid})).await;
    let mut received = 0;
    loop {
        let message = client.stream_message(stdout).await;
        match message["method"].as_str().unwrap() {
            "$sandbox.stream.enqueue" => {
                let data = message["params"]["data"].as_str().unwrap();
                received += data.trim_end_matches('=').len() * 3 / 4;
                // The kernel's socket buffers hold a few MiB besides ours.
                let ahead = output.read() - received;
                assert!(ahead < 12 * 1024 * 1024, "{ahead} bytes read ahead");
            }
            "$sandbox.stream.end" => break,
            other => assert_eq!(other, "$sandbox.stream.start"),
        }
    }
    assert_eq!(received, total);
}

#[tokio::test]
async fn a_wait_tells_how_the_process_ended() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let none = v1::OomVerdict::OomNone;
    let high = v1::OomVerdict::OomHighConfidence;
    let low = v1::OomVerdict::OomLowConfidence;
    let cases = [
        (
            0,
            0,
            none,
            json!({"success": true, "code": 0, "signal": null, "oom": null}),
        ),
        (
            7,
            0,
            none,
            json!({"success": false, "code": 7, "signal": null, "oom": null}),
        ),
        (
            143,
            15,
            none,
            json!({"success": false, "code": 143, "signal": "SIGTERM", "oom": null}),
        ),
        (
            137,
            9,
            high,
            json!({"success": false, "code": 137, "signal": "SIGKILL", "oom": "high-confidence"}),
        ),
        (
            137,
            9,
            low,
            json!({"success": false, "code": 137, "signal": "SIGKILL", "oom": "low-confidence"}),
        ),
    ];
    for (code, signal, oom, expected) in cases {
        let (pid, ..) = spawn(&mut client).await;
        let process = harness.agent.process(i32::try_from(pid).unwrap());
        let early = client
            .request("processWait", json!({"pid": pid, "vscode": null}))
            .await;
        let reply = v1::WaitReply {
            code,
            signal,
            oom: oom.into(),
        };
        process.exit.send_replace(Some(reply));
        assert_eq!(client.answer(early).await["result"]["ok"], expected);
        assert_eq!(
            client.ok("processWait", json!({"pid": pid})).await,
            expected
        );
    }
    let unknown = client.error("processWait", json!({"pid": 1})).await;
    assert_eq!(unknown["constructorName"], "NotFound");
}

#[tokio::test]
async fn a_kill_of_the_dead_says_exactly_what_the_sdks_swallow() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    let (pid, ..) = spawn(&mut client).await;
    assert_eq!(
        client
            .ok("processKill", json!({"pid": pid, "signal": null}))
            .await,
        Value::Null
    );
    assert_eq!(
        client.ok("processWait", json!({"pid": pid})).await["signal"],
        "SIGTERM"
    );
    for dead in [pid, 99_999] {
        let error = client.error("processKill", json!({"pid": dead})).await;
        assert_eq!(error["constructorName"], "TypeError");
        assert_eq!(error["code"], "ENOENT");
    }
    let bad = client
        .error("processKill", json!({"pid": pid, "signal": "TERM"}))
        .await;
    assert_eq!(
        (&bad["constructorName"], bad.get("code")),
        (&json!("TypeError"), None)
    );
    let (second, ..) = spawn(&mut client).await;
    client
        .ok("processKill", json!({"pid": second, "signal": "SIGINT"}))
        .await;
    assert!(
        harness
            .agent
            .calls("kill")
            .last()
            .unwrap()
            .contains("signal: 2")
    );
}

#[tokio::test]
async fn a_command_that_is_missing_is_not_a_dead_process() {
    let harness = Harness::new(Dialect::Python).await;
    harness.agent.fail("spawn", 2);
    let mut client = harness.connect().await;
    let error = client.error("spawn", json!({"command": "nope"})).await;
    assert_eq!(
        (&error["constructorName"], &error["code"]),
        (&json!("NotFound"), &json!("ENOENT"))
    );
}

#[tokio::test]
async fn stream_ids_are_unique_in_the_server() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut clients = [harness.connect().await, harness.connect().await];
    let mut seen = std::collections::HashSet::new();
    for turn in 0..10 {
        let (_, stdout, stderr) = spawn(&mut clients[turn % 2]).await;
        for id in [stdout, stderr] {
            assert!(id > 0 && id < 1 << 53);
            assert!(seen.insert(id), "{id} came twice");
        }
    }
}

#[tokio::test]
async fn a_cancelled_stream_is_never_heard_of_again() {
    let harness = Harness::with_limits(Dialect::JavaScript, patient()).await;
    let mut client = harness.connect().await;
    // Cancelled before it started, and after.
    for start_first in [false, true] {
        let (pid, stdout, stderr) = spawn(&mut client).await;
        let process = harness.agent.process(i32::try_from(pid).unwrap());
        if start_first {
            client.request("processWait", json!({"pid": pid})).await;
            process.stdout.print(b"first");
            client.stream_message(stdout).await;
            client.stream_message(stdout).await;
        }
        client
            .notify(
                "$sandbox.stream.cancel",
                json!({"streamId": stdout, "reason": null}),
            )
            .await;
        client.ok("envGet", json!({"key": "A"})).await;
        if !start_first {
            client.request("processWait", json!({"pid": pid})).await;
        }
        eventually("the pipe is closed", async || {
            let closed = v1::CloseOutputRequest {
                pid: i32::try_from(pid).unwrap(),
                stream: v1::OutputStream::OutputStdout.into(),
            };
            let calls = harness.agent.calls("close_output");
            (calls.last() == Some(&format!("{closed:?}"))).then_some(())
        })
        .await;
        // What has no pipe, a terminal, is not held up either.
        process.stdout.print(&vec![b'x'; 1024 * 1024]);
        eventually("the rest is drained", async || {
            (process.stdout.read() > 1024 * 1024 - 1).then_some(())
        })
        .await;
        harness.agent.exit(i32::try_from(pid).unwrap(), 0, 0);
        assert_eq!(client.stream(stderr).await, b"");
        client.ok("envGet", json!({"key": "A"})).await;
        let about = |message: &&Value| message["params"]["streamId"] == json!(stdout);
        assert_eq!(client.unread.iter().find(about), None);
    }
}

#[tokio::test]
async fn cancels_race_with_ends() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for turn in 0..300 {
        let process = client
            .ok("spawn", json!({"command": "echo", "args": ["x"]}))
            .await;
        let stdout = process["stdoutStreamId"].as_u64().unwrap();
        client
            .request("processWait", json!({"pid": process["pid"]}))
            .await;
        for _ in 0..turn % 4 {
            client.stream_message(stdout).await;
            if turn % 4 == 3 {
                break;
            }
        }
        client
            .notify("$sandbox.stream.cancel", json!({"streamId": stdout}))
            .await;
        let marker = client.request("envGet", json!({"key": "A"})).await;
        client.answer(marker).await;
        client.unread.clear();
        // What was answered after the cancel was read must not be followed by
        // anything about the stream.
        client.ok("envGet", json!({"key": "A"})).await;
        let late = client
            .unread
            .iter()
            .find(|message| message["params"]["streamId"] == json!(stdout));
        assert_eq!(late, None, "turn {turn}");
    }
}

#[tokio::test]
async fn a_failing_stream_ends_for_python_too() {
    for dialect in DIALECTS {
        let harness = Harness::new(dialect).await;
        let mut client = harness.connect().await;
        let (pid, stdout, _) = spawn(&mut client).await;
        client.request("processWait", json!({"pid": pid})).await;
        let output = harness.agent.process(FIRST_PID).stdout;
        output.print(b"x");
        output.fail(5);
        let mut methods = Vec::new();
        let terminal = if dialect == Dialect::Python {
            "end"
        } else {
            "error"
        };
        while methods
            .last()
            .is_none_or(|last: &String| !last.ends_with(terminal))
        {
            let message = client.stream_message(stdout).await;
            methods.push(message["method"].as_str().unwrap().to_owned());
            if message["method"] == "$sandbox.stream.error" {
                assert_eq!(message["params"]["error"]["code"], "EIO");
            }
        }
        let expected = ["start", "enqueue", "error", "end"];
        let expected = expected.map(|name| format!("$sandbox.stream.{name}"));
        let len = if dialect == Dialect::Python { 4 } else { 3 };
        assert_eq!(methods, expected[..len], "{dialect:?}");
        client.ok("envGet", json!({"key": "A"})).await;
        let late = client
            .unread
            .iter()
            .find(|message| message["params"]["streamId"] == json!(stdout));
        assert_eq!(late, None);
    }
}

#[tokio::test]
async fn a_process_goes_on_when_its_client_leaves() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let (pid, ..) = spawn(&mut client).await;
    let output = harness.agent.process(FIRST_PID).stdout;
    drop(client);
    harness.end().await;
    output.print(&vec![b'x'; 1024 * 1024]);
    eventually("output is drained", async || {
        (output.read() == 1024 * 1024).then_some(())
    })
    .await;
    assert_eq!(harness.agent.calls("close_output"), [""; 0]);
    // Another connection can still wait for it.
    let mut other = harness.connect().await;
    let wait = other.request("processWait", json!({"pid": pid})).await;
    harness.agent.exit(FIRST_PID, 3, 0);
    assert_eq!(other.answer(wait).await["result"]["ok"]["code"], 3);
}

#[tokio::test]
async fn a_drain_ends_with_the_sandbox() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    spawn(&mut client).await;
    let output = harness.agent.process(FIRST_PID).stdout;
    drop(client);
    harness.end().await;
    eventually("somebody drains", async || {
        (output.readers() == 1).then_some(())
    })
    .await;
    harness.ending.cancel();
    eventually("nobody drains", async || {
        (output.readers() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_walk_streams_one_document_a_chunk() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let paths: Vec<_> = (0..600).map(|n| format!("/d/\"{n}\n")).collect();
    *harness.agent.state.entries.lock() = paths.iter().map(|path| entry(path)).collect();
    for (method, params) in [
        ("walk", json!({"path": "/d"})),
        ("expandGlob", json!({"glob": "*"})),
    ] {
        let stream = client.ok(method, params).await["streamId"]
            .as_u64()
            .unwrap();
        assert_eq!(
            client.stream_message(stream).await["method"],
            "$sandbox.stream.start"
        );
        for path in &paths {
            let message = client.stream_message(stream).await;
            let data = message["params"]["data"].as_str().unwrap();
            let data = BASE64_STANDARD.decode(data).unwrap();
            let document: Value = serde_json::from_slice(&data).unwrap();
            assert_eq!(document["path"], json!(path));
            assert_eq!(document.as_object().unwrap().len(), 5);
        }
        assert_eq!(
            client.stream_message(stream).await["method"],
            "$sandbox.stream.end"
        );
    }
}

#[tokio::test]
async fn a_walk_of_nothing_and_a_walk_that_fails() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let stream = client.ok("walk", json!({"path": "/d"})).await["streamId"]
        .as_u64()
        .unwrap();
    assert_eq!(client.stream(stream).await, b"");
    harness.agent.fail("walk", 2);
    let error = client.error("walk", json!({"path": "/d"})).await;
    assert_eq!(error["constructorName"], "NotFound");
}

#[tokio::test]
async fn python_gets_lists() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    *harness.agent.state.entries.lock() = vec![entry("/d/a"), entry("/d/b")];
    let walked = client
        .ok(
            "walk",
            json!({"path": "/d", "options": {"maxDepth": 2, "includeDirs": false}}),
        )
        .await;
    assert_eq!(walked[1]["path"], "/d/b");
    assert_eq!(walked.as_array().unwrap().len(), 2);
    let request = &harness.agent.calls("walk")[0];
    assert!(
        request.contains("max_depth: Some(2)") && request.contains("include_dirs: false"),
        "{request}"
    );
    let globbed = client
        .ok(
            "expandGlob",
            json!({"glob": "*", "options": {"root": "/d"}}),
        )
        .await;
    assert_eq!(globbed, json!(["/d/a", "/d/b"]));
    assert!(harness.agent.calls("expand_glob")[0].contains("root: \"/d\""));
}

#[tokio::test]
async fn no_message_to_python_reaches_its_limit() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    let many = (0..40_000).map(|n| entry(&format!("/directory/with/a/long/name/{n}")));
    *harness.agent.state.entries.lock() = many.collect();
    harness.agent.put_file("/fits", vec![b'x'; 780_000]);
    harness.agent.put_file("/large", vec![b'x'; 800_000]);
    harness.agent.put_file("/quotes", vec![b'"'; 600_000]);
    let too_large = [
        ("walk", json!({"path": "/"})),
        ("expandGlob", json!({"glob": "*"})),
        ("readDir", json!({"path": "/"})),
        ("readFile", json!({"path": "/large"})),
        ("readTextFile", json!({"path": "/quotes"})),
    ];
    for (method, params) in too_large {
        let error = client.error(method, params).await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("open() and read()"), "{method}: {message}");
    }
    client.request("readFile", json!({"path": "/fits"})).await;
    let Some(Message::Text(answer)) = client.message().await else {
        panic!("no answer");
    };
    assert!(
        answer.len() > 1_000_000 && answer.len() < 1024 * 1024,
        "{}",
        answer.len()
    );
    let mut open =
        async |_: u32| client.ok("open", json!({"path": "/f"})).await["fileHandleId"].take();
    let handle = open(0).await;
    let read = client
        .ok(
            "fileRead",
            json!({"fileHandleId": handle, "length": 100_000_000}),
        )
        .await;
    assert!(read["data"].as_str().unwrap().len() < 1_000_000);
}

/// What a client that has just come reads of a terminal, and writes to it.
async fn attach(client: &mut Client, stdin: u64, expected: &[u8]) {
    client.start(stdin).await;
    let params = json!({"pid": FIRST_PID, "stdinStreamId": stdin,
        "terminal": {"rows": 5, "columns": 6}});
    let attached = client.ok("processAttach", params).await;
    assert_eq!(attached["pid"], FIRST_PID);
    assert_eq!(attached["stderrStreamId"], Value::Null);
    let stdout = attached["stdoutStreamId"].as_u64().unwrap();
    client
        .request("processWait", json!({"pid": FIRST_PID}))
        .await;
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let message = client.stream_message(stdout).await;
        if message["method"] == "$sandbox.stream.enqueue" {
            let data = message["params"]["data"].as_str().unwrap();
            seen.extend(BASE64_STANDARD.decode(data).unwrap());
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_terminal_outlives_its_client_and_is_come_back_to() {
    let harness = Harness::new(Dialect::Native).await;
    let mut first = harness.connect().await;
    first.start(7).await;
    let shell = json!({"command": "bash", "stdinStreamId": 7,
        "terminal": {"rows": 24, "columns": 80}});
    first.ok("spawn", shell).await;
    first
        .request("processWait", json!({"pid": FIRST_PID}))
        .await;
    first.enqueue(7, b"one ").await;
    let process = harness.agent.process(FIRST_PID);
    let written = async |expected: &[u8], left_count: usize| {
        eventually("the input is there", async || {
            let stdin = process.stdin.lock();
            (stdin.bytes == expected && stdin.left_count == left_count).then_some(())
        })
        .await;
    };
    written(b"one ", 0).await;
    process.stdout.print(b"shown");
    drop(first);
    written(b"one ", 1).await;
    let mut second = harness.connect().await;
    attach(&mut second, 8, b"shown").await;
    let sizes = harness.agent.calls("resize_pty");
    assert!(sizes[0].contains("rows: 5"), "{sizes:?}");
    second.enqueue(8, b"two ").await;
    written(b"one two ", 1).await;
    // One that gives its stream up leaves the terminal; one that ends it does not.
    second.fail(8).await;
    written(b"one two ", 2).await;
    assert!(!process.stdin.lock().is_closed);
    attach(&mut second, 9, b"shown").await;
    second.enqueue(9, b"three").await;
    second.finish(9).await;
    eventually("the input ends", async || {
        process.stdin.lock().is_closed.then_some(())
    })
    .await;
    written(b"one two three", 2).await;
    // What has no terminal is not attached to.
    harness.agent.fail("resize_pty", 25);
    second.start(10).await;
    let params = json!({"pid": FIRST_PID, "stdinStreamId": 10,
        "terminal": {"rows": 5, "columns": 6}});
    second.error("processAttach", params).await;
}
