//! VS Code: what is asked of the guest, and what a client is told.

use serde_json::json;
use tombolo_testkit::eventually;

use super::agent::FIRST_PID;
use super::harness::Harness;
use crate::guest::Dialect;

const ENTRY: &str = "/usr/local/lib/code-server/out/node/entry.js";
const SETTINGS: &str = "/home/app/.local/share/code-server/User/settings.json";

#[tokio::test]
async fn the_answer_comes_when_it_listens_and_the_sdks_token_stays_here() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let params = json!({
        "path": "project", "extensions": [], "editorSettings": {"editor.fontSize": 20},
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
    let settings = harness.agent.state.written.lock()[SETTINGS].bytes.clone();
    let settings = String::from_utf8(settings).unwrap();
    assert!(settings.contains(r#""editor.fontSize": 20"#), "{settings}");

    let kill = json!({"pid": FIRST_PID, "vscode": true});
    client.ok("processKill", kill.clone()).await;
    let ended = client.ok("processWait", kill).await;
    assert_eq!(ended["code"], 143);
}

#[tokio::test]
async fn settings_that_are_there_stay_unless_others_are_asked_for() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.ok("vscode", json!({"path": "/"})).await;
    assert!(harness.agent.state.written.lock().is_empty());
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
