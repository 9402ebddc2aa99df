//! Deno: what is asked of the guest, and what becomes of its answers.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tombolo_guest_proto::v1::DenoFrameKind::{
    self, DenoFrameData as Data, DenoFrameEnd as Broken, DenoFrameError as Failed,
    DenoFrameHead as Head,
};

use super::super::limits::RpcLimits;
use super::agent::FIRST_PID;
use super::harness::Harness;
use crate::guest::Dialect;

/// What the guest answers.
type Frames<'a> = &'a [(DenoFrameKind, &'a str)];

const ESRCH: i32 = 3;
const ERROR: &str = r#"{"constructorName":"RangeError","message":"m","stack":"s"}"#;

/// An error's class and code.
fn class(error: &Value) -> (&str, &str) {
    let text = |key: &str| error[key].as_str().unwrap_or_default();
    (text("constructorName"), text("code"))
}

#[tokio::test]
async fn what_a_repl_answers_is_a_value_or_an_error_and_nothing_else() {
    let long = format!("\"{}\"", "x".repeat(1024 * 1024));
    let cases: &[(Frames<'_>, Result<Value, &str>)] = &[
        (&[(Head, ""), (Data, "7")], Ok(json!(7))),
        (
            &[(Head, ""), (Data, r#"{"a":"#), (Data, "[]}")],
            Ok(json!({"a": []})),
        ),
        (&[(Head, ""), (Data, "null")], Ok(Value::Null)),
        (&[(Failed, ERROR)], Err("RangeError")),
        (&[(Failed, "nonsense")], Err("InvalidData")),
        (&[], Err("InvalidData")),
        (&[(Data, "7")], Err("InvalidData")),
        (&[(Head, "")], Err("InvalidData")),
        (&[(Head, ""), (Data, "7}},{")], Err("InvalidData")),
        (&[(Head, ""), (Head, "")], Err("InvalidData")),
        (&[(Broken, "")], Err("TypeError")),
        (&[(Head, ""), (Data, "7"), (Broken, "")], Err("TypeError")),
        // More than the Python SDK takes at once.
        (&[(Head, ""), (Data, &long)], Err("RangeError")),
    ];
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    for (frames, expected) in cases {
        harness.agent.answer_deno(frames);
        let params = json!({"pid": 1, "code": "1"});
        match expected {
            Ok(value) => assert_eq!(client.ok("denoReplEval", params).await, *value),
            Err(name) => {
                let error = client.error("denoReplEval", params).await;
                assert_eq!(class(&error).0, *name, "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_value_that_is_half_told_gives_its_part_of_the_budget_back() {
    let limits = RpcLimits {
        reply_stall_max: std::time::Duration::from_millis(50),
        ..RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    let half = format!("\"{}", "x".repeat(300 * 1024));
    harness.agent.answer_deno(&[(Head, ""), (Data, &half)]);
    harness
        .agent
        .state
        .deno_stalls
        .store(true, Ordering::SeqCst);
    let mut client = harness.connect().await;
    let eval = json!({"pid": 1, "code": "1"});
    for _ in 0..2 {
        let error = client.error("denoReplEval", eval.clone()).await;
        assert_eq!(class(&error), ("TimedOut", "ETIMEDOUT"));
    }
}

#[tokio::test]
async fn code_and_calls_reach_the_repl_as_they_are() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    harness.agent.answer_deno(&[(Head, ""), (Data, "1")]);
    let eval = json!({"pid": 1, "code": "\"\u{e9}\n"});
    client.ok("denoReplEval", eval).await;
    let call = json!({"pid": 1, "fn": "(a) => a", "args": [{"my_key": 1.50}, null]});
    client.ok("denoReplCall", call).await;
    client
        .ok("denoReplCall", json!({"pid": 1, "fn": "f"}))
        .await;
    let asked = harness.agent.calls("deno_repl_run");
    let asked: Vec<Value> = asked
        .iter()
        .map(|asked| serde_json::from_str(&serde_json::from_str::<String>(asked).unwrap()).unwrap())
        .collect();
    let expected = [
        json!({"code": "\"\u{e9}\n"}),
        json!({"fn": "(a) => a", "args": [{"my_key": 1.50}, null]}),
        json!({"fn": "f", "args": []}),
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn who_is_gone_is_told_as_both_sdks_expect() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for call in ["deno_repl_run", "deno_repl_close", "deno_http_wait"] {
        harness.agent.fail(call, ESRCH);
    }
    let gone = ("TypeError", "ENOENT");
    let cases = [
        ("denoReplEval", json!({"pid": 1, "code": "1"})),
        ("denoReplCall", json!({"pid": 1, "fn": "f"})),
        ("denoHttpWait", json!({"pid": 1})),
        ("fetch", json!({"url": "http://x/", "pid": 1})),
    ];
    for (method, params) in cases {
        let error = client.error(method, params).await;
        assert_eq!(class(&error), gone, "{method}");
    }
    let closed = client.ok("denoReplClose", json!({"pid": 1})).await;
    assert_eq!(closed, Value::Null);
}

#[tokio::test]
async fn restarts_are_told_to_who_started_the_program() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let params = json!({"entrypoint": "main.ts", "watch": true});
    let process = client.ok("spawnDeno", params).await;
    let watcher = process["watcherId"].as_str().unwrap();
    assert!(watcher.starts_with("sbx_"), "{watcher}");
    for _ in 0..2 {
        let told = client.json().await;
        assert_eq!(told["method"], "$sandbox.deno.watcher.restart");
        assert_eq!(told["params"]["watcherId"], *watcher);
    }
    let other = client.ok("spawnDeno", json!({"code": "1"})).await;
    assert_eq!(other["watcherId"], Value::Null);
    let repl = client.ok("spawnDenoRepl", json!({})).await;
    assert!(repl["stdoutStreamId"].is_u64() && repl["pid"].is_i64());
}

#[tokio::test]
async fn a_program_is_ready_when_it_listens_and_never_once_it_has_ended() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.ok("spawnDeno", json!({"code": "1"})).await;
    let wait = json!({"pid": FIRST_PID});
    assert_eq!(client.ok("denoHttpWait", wait.clone()).await, true);
    harness.agent.exit(FIRST_PID, 0, 0);
    assert_eq!(client.ok("denoHttpWait", wait).await, false);
    let fetch = json!({"url": "http://x/", "pid": FIRST_PID});
    let error = client.error("fetch", fetch).await;
    assert_eq!(class(&error), ("ConnectionRefused", "ECONNREFUSED"));
}

#[tokio::test]
async fn a_fetch_carries_its_body_there_and_its_answer_back() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let head = r#"{"status":201,"statusText":"C","headers":[["a","b"]],"hasBody":true}"#;
    harness
        .agent
        .answer_deno(&[(Head, head), (Data, "x"), (Data, ""), (Data, "yz")]);
    client.start(3).await;
    let params = json!({"url": "http://x/", "method": "POST", "headers": [["h", "v"]],
        "redirect": "manual", "bodyStreamId": 3, "abortId": 0});
    let id = client.request("fetch", params).await;
    client.enqueue(3, b"body").await;
    client.finish(3).await;
    let answer = client.answer(id).await["result"]["ok"].take();
    let body = answer["bodyStreamId"].as_u64().unwrap();
    assert_eq!(
        (&answer["status"], &answer["headers"]),
        (&json!(201), &json!([["a", "b"]]))
    );
    assert_eq!(client.stream(body).await, b"xyz");
    let sent = harness.agent.calls("fetch").join(" ");
    for part in [
        r#"\"hasBody\":true"#,
        r#"\"redirect\":\"manual\""#,
        "body",
        "END",
    ] {
        assert!(sent.contains(part), "{part}: {sent}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_fails_its_stream_and_none_is_none() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let head = |status: u16| {
        json!({"status": status, "statusText": "", "headers": [], "hasBody": true}).to_string()
    };
    let params = json!({"url": "http://x/"});
    for last in [(Failed, ERROR), (Broken, "")] {
        harness
            .agent
            .answer_deno(&[(Head, &head(200)), (Data, "x"), last]);
        let answer = client.ok("fetch", params.clone()).await;
        let body = answer["bodyStreamId"].as_u64().unwrap();
        for method in ["start", "enqueue", "error"] {
            let message = client.stream_message(body).await;
            assert_eq!(message["method"], format!("$sandbox.stream.{method}"));
        }
    }
    for status in [204, 205, 304] {
        harness.agent.answer_deno(&[(Head, &head(status))]);
        let answer = client.ok("fetch", params.clone()).await;
        assert_eq!(answer["bodyStreamId"], Value::Null, "{status}");
    }
    for wrong in [&[(Head, "{}")][..], &[(Data, "x")], &[]] {
        harness.agent.answer_deno(wrong);
        let error = client.error("fetch", params.clone()).await;
        assert_eq!(class(&error).0, "InvalidData");
    }
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    let cases = [
        ("spawnDeno", json!({})),
        ("spawnDeno", json!({"code": "1", "entrypoint": "a"})),
        ("denoReplEval", json!({"code": "1"})),
        ("denoReplCall", json!({"pid": 1, "args": []})),
        ("denoHttpWait", json!({})),
        ("fetch", json!({"method": "GET"})),
        ("fetch", json!({"url": "http://x/", "redirect": "maybe"})),
    ];
    for (method, params) in cases {
        let answer = client.call(method, params).await;
        assert_eq!(answer["error"]["code"], -32602, "{method}: {answer}");
    }
}
