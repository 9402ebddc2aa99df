//! How sandboxes end: sessions, durations, extensions, kills.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use super::harness::{World, quick};
use crate::clock;
use crate::config::Limits;

fn soon(millis: i64) -> i64 {
    clock::now().0 + millis
}

#[tokio::test]
async fn sessions_end_with_a_clean_close_of_their_primary() {
    let world = World::new().await;
    let python = world.create("{}").await.unwrap();
    let id = python.id();
    python.close_normally().await;
    assert_eq!(
        world.until_state(&id, "stopped").await["reason"],
        "session_closed"
    );
    let javascript = world.create("{}").await.unwrap();
    let id = javascript.id();
    let mut secondary = world.connect(&id).await.unwrap();
    javascript.close_without_code().await;
    assert_eq!(secondary.end().await, Some(1001));
    assert_eq!(
        world.until_state(&id, "stopped").await["reason"],
        "session_closed"
    );
    assert!(world.node.sandboxes().is_empty());
}

#[tokio::test]
async fn closing_a_secondary_ends_nothing() {
    let world = World::new().await;
    let primary = world.create("{}").await.unwrap();
    let id = primary.id();
    world.connect(&id).await.unwrap().close_normally().await;
    assert_eq!(world.row(&id).await["state"], "running");
    primary.close_normally().await;
}

#[tokio::test]
async fn a_session_waits_a_while_for_a_lost_primary() {
    let world = World::new().await;
    let primary = world.create("{}").await.unwrap();
    let id = primary.id();
    primary.lose().await;
    let row = world.until_state(&id, "stopped").await;
    assert_eq!(row["reason"], "connection_lost");
    let created = row["created_at_ms"].as_i64().unwrap();
    assert!(
        row["stopped_at_ms"].as_i64().unwrap() - created >= 300,
        "{row}"
    );
}

#[tokio::test]
async fn who_connects_in_the_grace_period_is_the_new_primary() {
    let world = World::with(Limits {
        grace: Duration::from_mins(1),
        ..quick()
    })
    .await;
    let primary = world.create("{}").await.unwrap();
    let id = primary.id();
    primary.lose().await;
    world.until_state(&id, "grace").await;
    let again = world.connect(&id).await.unwrap();
    assert_eq!(again.id(), id);
    assert_eq!(world.row(&id).await["state"], "running");
    again.close_normally().await;
    assert_eq!(
        world.until_state(&id, "stopped").await["reason"],
        "session_closed"
    );
}

#[tokio::test]
async fn durations_end_at_their_moment_and_cut_connections() {
    let world = World::new().await;
    let config = json!({ "stop_at_ms": soon(700) }).to_string();
    let mut connected = world.create(&config).await.unwrap();
    let id = connected.id();
    let alone = world.create(&config).await.unwrap();
    let alone_id = alone.id();
    alone.close_normally().await;
    assert_eq!(world.row(&alone_id).await["state"], "running");
    assert_eq!(connected.end().await, Some(1001));
    for id in [id, alone_id] {
        assert_eq!(
            world.until_state(&id, "stopped").await["reason"],
            "deadline"
        );
    }
}

#[tokio::test]
async fn extensions_are_granted_within_the_limits() {
    let world = World::with(Limits {
        lifetime_max: Duration::from_secs(100),
        extension_max: Duration::from_secs(50),
        ..quick()
    })
    .await;
    let config = json!({ "stop_at_ms": soon(20_000) }).to_string();
    let duration = world.create(&config).await.unwrap();
    let path = format!("/api/v3/sandbox/{}", duration.id());
    let asked = soon(30_000);
    let answer = world.patch(&path, json!({ "stop_at_ms": asked })).await;
    assert_eq!(answer.json, json!({ "stop_at_ms": asked }), "{answer:?}");
    let deadline = world
        .node
        .state(&duration.id())
        .unwrap()
        .deadline_unix_millis;
    assert_eq!(deadline, asked + 60_000);
    assert_eq!(world.row(&duration.id()).await["deadline_ms"], asked);

    let answer = world
        .patch(&path, json!({ "stop_at_ms": soon(80_000) }))
        .await;
    let granted = answer.json["stop_at_ms"].as_i64().unwrap();
    assert!(
        (soon(40_000)..=soon(50_000)).contains(&granted),
        "{granted}"
    );

    for (body, status) in [
        (json!({ "stop_at_ms": soon(-1) }), 400),
        (json!({ "stop_at_ms": "soon" }), 400),
        (json!({}), 400),
    ] {
        let answer = world.patch(&path, body).await;
        answer.refuses(status, "INVALID_REQUEST");
    }

    let session = world.create("{}").await.unwrap();
    let path = format!("/api/v3/sandbox/{}", session.id());
    let answer = world
        .patch(&path, json!({ "stop_at_ms": soon(10_000) }))
        .await;
    assert!(
        answer.json["stop_at_ms"].as_i64().unwrap() > soon(0),
        "{answer:?}"
    );
}

#[tokio::test]
async fn killing_closes_every_socket_on_both_planes() {
    let world = World::new().await;
    for plane in ["/api/v3/sandbox", "/api/v3/sandboxes"] {
        let mut primary = world.create(r#"{"timeout":"5m"}"#).await.unwrap();
        let id = primary.id();
        let mut secondary = world.connect(&id).await.unwrap();
        let path = format!("{plane}/{id}");
        let killing = world.send(Method::DELETE, &path, &world.token, None);
        let (killed, first, second) = tokio::join!(killing, primary.end(), secondary.end());
        assert_eq!(killed.status, StatusCode::NO_CONTENT);
        assert_eq!((first, second), (Some(1001), Some(1001)));
        assert!(!world.node.has(&id));
        assert_eq!(world.row(&id).await["reason"], "killed");
        let again = world.delete(&format!("{plane}/{id}")).await;
        assert_eq!(again.status, StatusCode::NO_CONTENT);
        let path = format!("/api/v3/sandbox/{id}");
        let ended = world
            .patch(&path, json!({ "stop_at_ms": soon(1000) }))
            .await;
        ended.refuses(400, "SANDBOX_ALREADY_TERMINATED");
        let refused = world.connect(&id).await.unwrap_err();
        refused.refuses(400, "SANDBOX_ALREADY_TERMINATED");
    }
}

#[tokio::test]
async fn unknown_sandboxes_and_those_of_others_look_alike() {
    let world = World::new().await;
    let mine = world.create("{}").await.unwrap();
    let stranger = world.new_token("stranger").await;
    for (token, id) in [
        (&world.token, "sbx_ord_1at5nn58e77rtd11e3k3"),
        (&world.token, "nonsense"),
        (&stranger, &mine.id()),
    ] {
        let path = format!("/api/v3/sandbox/{id}");
        let stop = Some(json!({ "stop_at_ms": soon(1000) }));
        let answers = [
            world.send(Method::DELETE, &path, token, None).await,
            world
                .send(
                    Method::DELETE,
                    &format!("/api/v3/sandboxes/{id}"),
                    token,
                    None,
                )
                .await,
            world.send(Method::PATCH, &path, token, stop).await,
            world
                .handshake(&format!("{path}/connect"), token, &[])
                .await
                .unwrap_err(),
        ];
        for answer in answers {
            answer.refuses(404, "SANDBOX_NOT_FOUND");
        }
    }
    assert_eq!(world.row(&mine.id()).await["state"], "running");
    mine.close_normally().await;
}
