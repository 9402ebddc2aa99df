//! VS Code: what is asked of the guest, and what a client is told.

use serde_json::{Value, json};
use tombolo_testkit::eventually;

use super::agent::FIRST_PID;
use super::harness::Harness;
use crate::guest::Dialect;

const ENTRY: &str = "/usr/local/lib/code-server/out/node/entry.js";
const SETTINGS: &str = "/home/app/.local/share/code-server/User/settings.json";
/// Where the agent of these tests makes temporary files.
const NEW: &str = "/tmp/x";

#[tokio::test]
async fn the_answer_comes_when_it_listens_and_the_sdks_token_stays_here() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let params = json!({
        "path": "project", "extensions": [],
        "env": {"DENO_DEPLOY_SANDBOX_TOKEN": "ddo_secret", "MINE": "1"},
    });
    let started = client.ok("vscode", params).await;
    assert_eq!(started["pid"], FIRST_PID);
    assert_eq!(started["port"], 8000);
    assert!(started["stdoutStreamId"].is_u64() && started["stderrStreamId"].is_u64());
    let spawned = harness.agent.calls("spawn");
    assert_eq!(spawned.len(), 1, "{spawned:?}");
    assert!(
        spawned[0].contains(ENTRY) && spawned[0].contains("MINE"),
        "{spawned:?}"
    );
    assert!(!spawned[0].contains("ddo_secret"), "{spawned:?}");
    let kill = json!({"pid": FIRST_PID, "vscode": true});
    client.ok("processKill", kill.clone()).await;
    let ended = client.ok("processWait", kill).await;
    assert_eq!(ended["code"], 143);
}

/// The settings that one call leaves, where it wrote them, and the paths of the rename.
async fn settle(harness: &Harness, asked: &Value) -> (String, String) {
    let mut client = harness.connect().await;
    let params = json!({"path": "/", "editorSettings": asked});
    client.ok("vscode", params).await;
    let written = harness.agent.written(NEW);
    let renamed = harness.agent.calls("rename").concat();
    (String::from_utf8(written.bytes).unwrap(), renamed)
}

#[tokio::test]
async fn only_the_settings_that_are_asked_for_change() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let (written, renamed) = settle(&harness, &json!(null)).await;
    assert_eq!((written.as_str(), renamed.as_str()), ("", ""));

    let theirs = "{\n  // Mine.\n  \"editor.fontSize\": 12,\n  \"files.eol\": \"\\n\",\n}\n";
    harness.agent.put_file("/real", theirs.into());
    let asked = json!({"editor.fontSize": 20});
    let (written, renamed) = settle(&harness, &asked).await;
    assert_eq!(written, theirs.replace("12", "20"));
    assert!(
        renamed.contains(NEW) && renamed.contains("/real"),
        "{renamed}"
    );
}

#[tokio::test]
async fn settings_that_are_not_there_are_made_of_our_defaults() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let missing = &harness.agent.state.missing;
    missing.lock().insert(SETTINGS.to_owned());
    let asked = json!({"editor.fontSize": 20});
    let (written, renamed) = settle(&harness, &asked).await;
    let made: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(made["editor.fontSize"], 20);
    assert_eq!(made["telemetry.telemetryLevel"], "off");
    assert!(
        renamed.contains(NEW) && renamed.contains(SETTINGS),
        "{renamed}"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_read_are_left_and_told() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let params = json!({"path": "/", "editorSettings": {"a": 1}});
    for (theirs, why) in [
        (b"{\"a\" 1}".to_vec(), "on line 1 column"),
        (b"[1]".to_vec(), "not an object"),
        (b"\xff".to_vec(), "not UTF-8"),
        (vec![b' '; 128 * 1024 + 1], "larger than 128 KiB"),
    ] {
        harness.agent.put_file("/real", theirs);
        let error = client.error("vscode", params.clone()).await;
        assert_eq!(error["constructorName"], "InvalidData");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(why) && message.contains(SETTINGS),
            "{message}"
        );
    }
    let many = (0..=100).map(|key| (key.to_string(), json!(1))).collect();
    let params = json!({"path": "/", "editorSettings": Value::Object(many)});
    let error = client.error("vscode", params).await;
    assert_eq!(error["constructorName"], "TypeError");
    assert!(harness.agent.state.written.lock().is_empty());
    assert!(harness.agent.calls("spawn").is_empty());
}

#[tokio::test]
async fn settings_that_do_not_fit_on_the_disk_leave_the_old_ones() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    harness.agent.put_file("/real", b"{}".to_vec());
    harness.agent.fail("write_file", 28);
    let params = json!({"path": "/", "editorSettings": {"a": 1}});
    client.error("vscode", params).await;
    assert!(harness.agent.calls("rename").is_empty());
    let removed = harness.agent.calls("remove").concat();
    assert!(removed.contains(NEW), "{removed}");
}

#[tokio::test]
async fn a_sandbox_without_it_says_what_to_run() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    harness.agent.fail("stat", 2);
    let error = client.error("vscode", json!({"path": "/home/app"})).await;
    assert_eq!(error["constructorName"], "NotSupported");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("tombolo setup --with-vscode"), "{message}");
    assert!(harness.agent.calls("spawn").is_empty());
}

#[tokio::test]
async fn an_extension_that_does_not_come_stops_the_start_and_is_told() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let params = json!({"path": "/home/app", "extensions": ["who.what", "./my.vsix"]});
    let id = client.request("vscode", params).await;
    eventually("it is started", async || {
        (!harness.agent.state.processes.lock().is_empty()).then_some(())
    })
    .await;
    let process = harness.agent.process(FIRST_PID);
    process.stderr.print(b"Extension 'who.what' not found.\n");
    harness.agent.exit(FIRST_PID, 1, 0);
    let answer = client.answer(id).await;
    let error = &answer["result"]["error"];
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("open-vsx.org") && message.ends_with("'who.what' not found."),
        "{answer}"
    );
    let spawned = harness.agent.calls("spawn");
    assert_eq!(spawned.len(), 1, "{spawned:?}");
    for part in [
        "--install-extension=who.what",
        "--install-extension=./my.vsix",
    ] {
        assert!(spawned[0].contains(part), "{spawned:?}");
    }
}
