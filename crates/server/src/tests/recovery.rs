//! What the server makes of its own end, the node's, and a machine's.

use std::time::Duration;

use serde_json::json;
use tombolo_node_proto::v1::SandboxUsageReply;
use tombolo_testkit::{CreateBehaviour, Script, eventually};

use super::harness::{World, quick};
use crate::clock;
use crate::config::Limits;
use crate::serve::Server;

fn patient() -> Limits {
    Limits {
        grace: Duration::from_mins(1),
        ..quick()
    }
}

#[tokio::test]
async fn a_machine_that_ends_takes_its_sandbox_and_sockets_with_it() {
    let world = World::new().await;
    let cases = [
        ("vm_exited", "vm_exited"),
        ("lost", "lost"),
        ("deadline", "deadline"),
    ];
    for (said, reason) in cases {
        let mut socket = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
        let id = socket.id();
        world.node.end(&id, said);
        assert_eq!(socket.end().await, Some(1001), "{said}");
        assert_eq!(world.until_state(&id, "stopped").await["reason"], reason);
    }
}

#[tokio::test]
async fn a_new_server_adopts_what_the_old_one_left() {
    let mut world = World::with(patient()).await;
    let duration = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    let session = world.create("{}").await.unwrap();
    let lost = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    let usage = SandboxUsageReply {
        cpu_nanos: 5,
        ..SandboxUsageReply::default()
    };
    world.node.set_usage(&duration.id(), usage);
    world.get("/api/tombolo/v1/sandboxes?usage=fresh").await;
    let mut primary = session;
    let session_id = primary.id();
    let (code, ()) = tokio::join!(primary.end(), world.stop_server());
    assert_eq!(code, Some(1001));
    assert_eq!(world.node.sandboxes().len(), 3);

    world.node.lose(&lost.id());
    world.node.add_stray("sbx_ord_1at5nn58e77rtd11e3k3");
    world.start_server().await;
    world.until_state(&duration.id(), "running").await;
    world.until_state(&session_id, "grace").await;
    assert_eq!(
        world.until_state(&lost.id(), "stopped").await["reason"],
        "lost"
    );
    eventually("the stray is taken down", async || {
        (world.node.sandboxes().len() == 2).then_some(())
    })
    .await;
    assert_eq!(world.row(&duration.id()).await["usage"]["cpu_nanos"], 5);

    let agent = world.node.agent(&session_id).unwrap();
    agent.script("echo", Script::prints("hi"));
    let mut again = world.connect(&session_id).await.unwrap();
    let spawned = again.call("spawn", json!({ "command": "echo" })).await;
    assert!(spawned["ok"]["pid"].is_number(), "{spawned}");
    again.close_normally().await;
    assert_eq!(
        world.until_state(&session_id, "stopped").await["reason"],
        "session_closed"
    );
}

#[tokio::test]
async fn a_server_that_is_killed_loses_no_sandbox() {
    let mut world = World::with(patient()).await;
    world.stop_server().await;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let starting = runtime.spawn(Server::start(world.config.clone()));
    world.address = starting.await.unwrap().unwrap().address();
    world.followed().await;
    let mut duration = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    let session = world.create("{}").await.unwrap();
    let dying = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    let path = format!("/api/v3/sandbox/{}", duration.id());
    let stop_at = clock::now().0 + 1_000_000;
    let extended = world.patch(&path, json!({ "stop_at_ms": stop_at })).await;
    assert_eq!(extended.json["stop_at_ms"], stop_at);
    world
        .delete(&format!("/api/v3/sandbox/{}", dying.id()))
        .await;

    runtime.shutdown_background();
    assert_eq!(duration.end().await, None);
    world.start_server().await;
    let row = world.until_state(&duration.id(), "running").await;
    assert_eq!(row["deadline_ms"], stop_at);
    world.until_state(&session.id(), "grace").await;
    assert_eq!(world.row(&dying.id()).await["reason"], "killed");
    let mut left = world.node.sandboxes();
    left.sort();
    let mut expected = [duration.id(), session.id()];
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn what_expired_meanwhile_is_taken_down_at_the_start() {
    let mut world = World::with(patient()).await;
    let stop_at = clock::now().0 + 500;
    let config = json!({ "stop_at_ms": stop_at }).to_string();
    let socket = world.create(&config).await.unwrap();
    world.stop_server().await;
    eventually("its time is over", async || {
        (clock::now().0 > stop_at).then_some(())
    })
    .await;
    assert!(world.node.has(&socket.id()));
    world.start_server().await;
    assert_eq!(
        world.until_state(&socket.id(), "stopped").await["reason"],
        "deadline"
    );
    assert!(!world.node.has(&socket.id()));
}

#[tokio::test]
async fn limits_count_what_was_adopted() {
    let mut world = World::with(Limits {
        sandboxes_max: 1,
        ..patient()
    })
    .await;
    let socket = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    world.stop_server().await;
    world.start_server().await;
    world
        .create("{}")
        .await
        .unwrap_err()
        .refuses(429, "LIMIT_EXCEEDED");
    world
        .delete(&format!("/api/v3/sandbox/{}", socket.id()))
        .await;
    world.create("{}").await.unwrap();
}

#[tokio::test]
async fn sandboxes_live_through_a_restart_of_the_node() {
    let mut world = World::with(patient()).await;
    let mut socket = world.create("{}").await.unwrap();
    let id = socket.id();
    let agent = world.node.agent(&id).unwrap();
    agent.script("echo", Script::prints("hi"));
    world.node.kill();
    world.node.restart().unwrap();
    world.followed().await;
    let spawned = socket.call("spawn", json!({ "command": "echo" })).await;
    assert!(spawned["ok"]["pid"].is_number(), "{spawned}");
    assert_eq!(world.row(&id).await["state"], "running");
    world.node.end(&id, "vm_exited");
    assert_eq!(socket.end().await, Some(1001));
}

#[tokio::test]
async fn requests_wait_for_a_node_that_comes_back() {
    let mut world = World::with(patient()).await;
    world.node.kill();
    let mut node = std::mem::replace(&mut world.node, tombolo_testkit::FakeNode::start().unwrap());
    let (created, ()) = tokio::join!(world.create("{}"), async {
        // The request is under way when the node comes back.
        eventually("the sandbox is recorded", async || {
            let rows = world.get("/api/tombolo/v1/sandboxes").await.json;
            (!rows.as_array()?.is_empty()).then_some(())
        })
        .await;
        node.restart().unwrap();
    });
    let id = created.unwrap().id();
    assert!(node.has(&id));
}

#[tokio::test]
async fn a_node_that_stays_away_is_told_within_bounds() {
    let mut world = World::with(Limits {
        node_wait: Duration::from_millis(200),
        ..quick()
    })
    .await;
    world.node.kill();
    let refused = world.create("{}").await.unwrap_err();
    refused.refuses(503, "NODE_UNAVAILABLE");
    let info = world.get("/api/tombolo/v1/info").await;
    assert_eq!(info.json["node"], serde_json::Value::Null);
    world.node.restart().unwrap();
    world.followed().await;
    world.create("{}").await.unwrap();
}

#[tokio::test]
async fn a_node_that_dies_while_it_creates_leaves_no_second_sandbox() {
    let mut world = World::with(patient()).await;
    world.node.on_create(CreateBehaviour::Hold);
    let mut node = std::mem::replace(&mut world.node, tombolo_testkit::FakeNode::start().unwrap());
    let (created, ()) = tokio::join!(world.create("{}"), async {
        eventually("the node is asked", async || {
            (!node.created().is_empty()).then_some(())
        })
        .await;
        node.on_create(CreateBehaviour::Succeed);
        node.restart().unwrap();
    });
    let id = created.unwrap().id();
    assert_eq!(node.sandboxes(), [id]);
}
