//! Creating sandboxes: the handshake, the configuration, the limits.

use http::{Method, StatusCode};
use serde_json::json;
use tombolo_ids::SandboxId;
use tombolo_testkit::{CreateBehaviour, Script, eventually};
use tonic::Code;

use super::harness::{CREATE, World, base64, quick};
use crate::config::Limits;

#[tokio::test]
async fn the_handshake_names_the_sandbox_and_the_socket_reaches_it() {
    let world = World::new().await;
    let mut socket = world
        .create(r#"{"memory_mb":1280,"volumes":[]}"#)
        .await
        .unwrap();
    let id: SandboxId = socket.id().parse().unwrap();
    assert!(socket.headers.contains_key("x-deno-trace-id"));
    assert!(!socket.headers.contains_key("sec-websocket-protocol"));
    let agent = world.node.agent(id.as_str()).unwrap();
    agent.script("echo", Script::prints("hi\n"));
    let spawned = socket
        .call("spawn", json!({ "command": "echo", "args": ["hi"] }))
        .await;
    assert!(spawned["ok"]["pid"].is_number(), "{spawned}");
    assert_eq!(agent.processes().len(), 1);
}

#[tokio::test]
async fn both_dialects_reach_the_node() {
    let world = World::new().await;
    let all = json!({
        "memory_mb": 2048, "debug": true, "region": "ord", "env": { "MY_VAR": "x" },
        "timeout": "5m", "labels": { "job": "t" }, "allow_net": [], "secrets": {}, "ssh": false,
    });
    let python = world.create(&all.to_string()).await.unwrap();
    let in_a_minute = crate::clock::now().0 + 60_000;
    let all = json!({
        "stop_at_ms": in_a_minute, "memory_mb": 768, "labels": { "job": "t" }, "volumes": [],
    });
    let javascript = world.create(&all.to_string()).await.unwrap();
    let plain = world.handshake(CREATE, &world.token, &[]).await.unwrap();
    let created = world.node.created();
    let memory: Vec<_> = created.iter().map(|request| request.memory_mib).collect();
    assert_eq!(memory, [2048, 768, 1280]);
    assert_eq!(created[0].env["MY_VAR"], "x");
    assert_eq!(created[1].deadline_unix_millis, in_a_minute + 60_000);
    assert_eq!(created[0].disk_bytes, 10 * 1024 * 1024 * 1024);
    for (socket, lifetime) in [
        (python, "duration"),
        (javascript, "duration"),
        (plain, "session"),
    ] {
        let row = world.row(&socket.id()).await;
        assert_eq!(row["lifetime"], lifetime, "{row}");
        assert_eq!(row["state"], "running", "{row}");
        assert_eq!(row["isolation"], "emulated", "{row}");
    }
}

/// Configuration, status, code and a part of the message.
const REFUSED: &[(&str, u16, &str, &str)] = &[
    ("{", 400, "INVALID_CONFIG", "not a JSON object"),
    (
        r#"{"memory_mb":100}"#,
        400,
        "INVALID_CONFIG",
        "between 768 and 4096",
    ),
    (
        r#"{"timeout":"5 minutes"}"#,
        400,
        "INVALID_CONFIG",
        "neither",
    ),
    (
        r#"{"timeout":"48h"}"#,
        400,
        "INVALID_CONFIG",
        "longest life",
    ),
    (r#"{"stop_at_ms":1}"#, 400, "INVALID_CONFIG", "past"),
    (
        r#"{"region":"ams"}"#,
        400,
        "INVALID_CONFIG",
        "region is ord",
    ),
    (r#"{"labels":{"":"x"}}"#, 400, "INVALID_CONFIG", "empty key"),
    (
        r#"{"env":{"A=B":"x"}}"#,
        400,
        "INVALID_CONFIG",
        "environment variable",
    ),
    (r#"{"colour":"red"}"#, 400, "INVALID_CONFIG", "unknown key"),
    (
        r#"{"allow_net":["example.com"]}"#,
        501,
        "NOT_BUILT_YET",
        "network",
    ),
    (
        r#"{"secrets":{"K":{"hosts":["a"],"value":"hush"}}}"#,
        501,
        "NOT_BUILT_YET",
        "secrets",
    ),
    (
        r#"{"volumes":[{"volume":"v","path":"/d"}]}"#,
        501,
        "NOT_BUILT_YET",
        "volumes",
    ),
    (r#"{"volumes":{"/d":"v"}}"#, 501, "NOT_BUILT_YET", "volumes"),
    (r#"{"root":{"volume":"v"}}"#, 501, "NOT_BUILT_YET", "root"),
    (r#"{"port":0}"#, 400, "INVALID_CONFIG", "port"),
    (r#"{"port":65536}"#, 400, "INVALID_CONFIG", "port"),
];

#[tokio::test]
async fn bad_configurations_are_refused_before_anything_is_made() {
    let world = World::new().await;
    for (config, status, code, message) in REFUSED {
        let refused = world.create(config).await.unwrap_err();
        refused.refuses(*status, code);
        let said = refused.json["message"].as_str().unwrap();
        assert!(said.contains(message), "{config}: {said}");
        assert!(!said.contains("hush"));
    }
    let not_base64 = [("x-deno-sandbox-config", "###")];
    let refused = world.handshake(CREATE, &world.token, &not_base64).await;
    refused.unwrap_err().refuses(400, "INVALID_CONFIG");
    world.get(CREATE).await.refuses(426, "WEBSOCKET_REQUIRED");
    assert!(world.node.created().is_empty());
}

#[tokio::test]
async fn latin_1_and_long_configurations_are_read() {
    let world = World::new().await;
    let latin = base64(b"{\"labels\":{\"name\":\"caf\xe9\"}}");
    let header = [("x-deno-sandbox-config", latin.as_str())];
    let socket = world
        .handshake(CREATE, &world.token, &header)
        .await
        .unwrap();
    assert_eq!(world.row(&socket.id()).await["labels"]["name"], "café");
    let long = json!({ "env": { "LONG": "x".repeat(60_000) } }).to_string();
    let socket = world.create(&long).await.unwrap();
    let env = world.node.agent(&socket.id()).unwrap().env();
    assert_eq!(env["LONG"].len(), 60_000);
}

#[tokio::test]
async fn limits_are_refused_clearly_and_come_free_again() {
    let world = World::with(Limits {
        sandboxes_max: 2,
        ..quick()
    })
    .await;
    let first = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    let _second = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    let refused = world.create("{}").await.unwrap_err();
    refused.refuses(429, "LIMIT_EXCEEDED");
    assert!(
        refused.json["message"]
            .as_str()
            .unwrap()
            .contains("limit is 2")
    );
    let other = world.new_token("other").await;
    world.create_with(&other, "{}").await.unwrap();
    let killed = world
        .delete(&format!("/api/v3/sandbox/{}", first.id()))
        .await;
    assert_eq!(killed.status, StatusCode::NO_CONTENT);
    world.create("{}").await.unwrap();
}

#[tokio::test]
async fn memory_and_disk_have_limits_too() {
    let world = World::with(Limits {
        memory_total_mib_max: 2000,
        disk_total_bytes_max: 25 * 1024 * 1024 * 1024,
        ..quick()
    })
    .await;
    let _first = world.create(r#"{"memory_mb":1280}"#).await.unwrap();
    let refused = world.create(r#"{"memory_mb":768}"#).await.unwrap_err();
    refused.refuses(429, "LIMIT_EXCEEDED");
    assert!(refused.json["message"].as_str().unwrap().contains("memory"));
    let small = World::with(Limits {
        disk_total_bytes_max: Limits::STANDARD.disk.0,
        ..quick()
    })
    .await;
    let _one = small.create("{}").await.unwrap();
    let refused = small.create("{}").await.unwrap_err();
    refused.refuses(429, "LIMIT_EXCEEDED");
    assert!(refused.json["message"].as_str().unwrap().contains("disk"));
}

#[tokio::test]
async fn what_the_node_grants_beyond_the_request_counts() {
    let world = World::with(Limits {
        memory_total_mib_max: 3000,
        ..quick()
    })
    .await;
    world.node.set_memory_step(2048);
    let first = world.create(r#"{"memory_mb":1024}"#).await.unwrap();
    assert_eq!(world.row(&first.id()).await["memory_mib"], 2048);
    let refused = world.create(r#"{"memory_mb":1024}"#).await.unwrap_err();
    refused.refuses(429, "LIMIT_EXCEEDED");
    let said = refused.json["message"].as_str().unwrap();
    assert!(said.contains("hold 2048 MiB"), "{said}");
    world
        .delete(&format!("/api/v3/sandbox/{}", first.id()))
        .await;
    world.create(r#"{"memory_mb":1024}"#).await.unwrap();
}

#[tokio::test]
async fn what_the_node_refuses_is_told_and_leaves_nothing() {
    let world = World::with(Limits {
        sandboxes_max: 1,
        ..quick()
    })
    .await;
    let cases = [
        (Code::ResourceExhausted, 503, "NO_CAPACITY"),
        (Code::DeadlineExceeded, 503, "START_TIMED_OUT"),
        (Code::Internal, 500, "INTERNAL"),
    ];
    for (refusal, status, code) in cases {
        world.node.on_create(CreateBehaviour::Refuse(refusal));
        let refused = eventually("the booking before is given back", async || {
            let refused = world.create("{}").await.err()?;
            (refused.status != 429).then_some(refused)
        })
        .await;
        refused.refuses(status, code);
        assert!(!refused.json.to_string().contains("refused by the test"));
    }
    world.node.on_create(CreateBehaviour::Succeed);
    let _socket = eventually("the booking is given back", async || {
        world.create("{}").await.ok()
    })
    .await;
    let listed = world.get("/api/tombolo/v1/sandboxes").await.json;
    let failed = listed.as_array().unwrap().iter();
    let failed = failed.filter(|row| row["reason"] == "create_failed");
    assert_eq!(failed.count(), 3);
}

#[tokio::test]
async fn a_sandbox_whose_creator_goes_away_is_taken_down() {
    let world = World::new().await;
    world.node.on_create(CreateBehaviour::Hold);
    let request = format!(
        "GET {CREATE} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\nupgrade: websocket\r\n\
         connection: upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: 2BrOSFQUFm2rTD0pGN0Lxw==\r\n\r\n",
        world.token
    );
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .unwrap();
    let id = eventually("the node is asked", async || {
        let created = world.node.created();
        created.first().map(|request| request.sandbox_id.clone())
    })
    .await;
    drop(stream);
    world.node.on_create(CreateBehaviour::Succeed);
    let row = world.until_state(&id, "stopped").await;
    assert_eq!(row["reason"], "abandoned");
    assert!(world.node.sandboxes().is_empty());
}

#[tokio::test]
async fn a_sandbox_can_be_killed_while_it_is_made() {
    let world = World::new().await;
    world.node.on_create(CreateBehaviour::Hold);
    let creating = world.create(r#"{"timeout":"5m"}"#);
    let killing = async {
        let id = eventually("the node is asked", async || {
            let created = world.node.created();
            created.first().map(|request| request.sandbox_id.clone())
        })
        .await;
        let connected = world.connect(&id).await.unwrap_err();
        connected.refuses(409, "SANDBOX_NOT_READY");
        let path = format!("/api/v3/sandbox/{id}");
        let (killed, ()) = tokio::join!(
            world.send(Method::DELETE, &path, &world.token, None),
            async { world.node.on_create(CreateBehaviour::Succeed) },
        );
        assert_eq!(killed.status, StatusCode::NO_CONTENT);
        id
    };
    let (created, id) = tokio::join!(creating, killing);
    if let Err(refused) = created {
        refused.refuses(400, "SANDBOX_ALREADY_TERMINATED");
    }
    assert_eq!(world.until_state(&id, "stopped").await["reason"], "killed");
}
