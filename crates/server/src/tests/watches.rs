//! Files that change, as a client is told of them.

use serde_json::{Value, json};
use tombolo_guest_proto::v1::{WatchEvent, WatchKind};
use tombolo_testkit::{FakeAgent, eventually};

use super::harness::{ADMIN, Socket, World};
use crate::sandbox::WATCHES_MAX;

fn event(kind: WatchKind, path: &str, from: &str) -> WatchEvent {
    WatchEvent {
        kind: kind.into(),
        path: path.to_owned(),
        from: from.to_owned(),
        is_directory: false,
    }
}

fn path(id: &str, query: &str) -> String {
    format!("/api/v3/sandbox/{id}/files/watch?{query}")
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "what the next event is compared with"
)]
fn told(kind: &str, path: &str, others: Value) -> Option<(String, Value)> {
    let mut data = json!({ "kind": kind, "path": path, "is_directory": false });
    if let (Value::Object(data), Value::Object(others)) = (&mut data, others) {
        data.extend(others);
    }
    Some((kind.to_owned(), data))
}

async fn with_files(world: &World) -> (Socket, FakeAgent) {
    let socket = world.create("{}").await.unwrap();
    let agent = world.node.agent(&socket.id()).unwrap();
    agent.put_file("work", Vec::new());
    (socket, agent)
}

async fn until_watched(agent: &FakeAgent) {
    let watched = || async { (!agent.watches().is_empty()).then_some(()) };
    eventually("somebody watches", watched).await;
}

#[tokio::test]
async fn changes_are_told_as_they_come_until_there_is_nothing_to_watch() {
    let mut world = World::new().await;
    let (socket, agent) = with_files(&world).await;
    let path = path(&socket.id(), "path=work&recursive=true");
    let mut events = world.open(&path, &world.token).await.unwrap();
    let watches = agent.watches();
    assert_eq!(
        (watches[0].path.as_str(), watches[0].recursive),
        ("work", true)
    );
    let unknown = WatchEvent {
        kind: 99,
        ..WatchEvent::default()
    };
    agent.change(&[
        event(WatchKind::WatchCreated, "work/a\nb", ""),
        unknown,
        event(WatchKind::WatchRenamed, "work/b", "work/a\nb"),
    ]);
    agent.change(&[event(WatchKind::WatchOverflow, "work", "")]);
    assert_eq!(events.next().await, told("created", "work/a\nb", json!({})));
    assert_eq!(events.id(), "1");
    let renamed = told("renamed", "work/b", json!({ "from": "work/a\nb" }));
    assert_eq!(events.next().await, renamed);
    assert_eq!(events.id(), "2");
    let missed = |reason: &str, is_directory: bool| {
        let others = json!({ "reason": reason, "is_directory": is_directory });
        told("missed", "work", others)
    };
    assert_eq!(events.next().await, missed("overflow", false));
    // A node that was away is told, and what comes afterwards.
    world.node.restart().unwrap();
    assert_eq!(events.next().await, missed("interrupted", true));
    until_watched(&agent).await;
    agent.change(&[event(WatchKind::WatchModified, "work/b", "")]);
    assert_eq!(events.next().await, told("modified", "work/b", json!({})));
    agent.end_watches();
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_client_that_comes_back_is_told_that_it_was_away() {
    let world = World::new().await;
    let (socket, agent) = with_files(&world).await;
    let path = path(&socket.id(), "path=work");
    let headers = [("last-event-id", "7")];
    let mut events = world.open_with(&path, ADMIN, &headers).await.unwrap();
    let others = json!({ "reason": "reconnected" });
    assert_eq!(events.next().await, told("missed", "work", others));
    // Nobody is watched for who went away.
    drop(events);
    let unwatched = || async {
        agent.change(&[event(WatchKind::WatchModified, "work", "")]);
        agent.watches().is_empty().then_some(())
    };
    eventually("nobody watches", unwatched).await;
}

#[tokio::test]
async fn what_a_guest_makes_up_is_told_as_missed() {
    let world = World::new().await;
    let (socket, agent) = with_files(&world).await;
    let watch = path(&socket.id(), "path=work");
    let mut events = world.open(&watch, &world.token).await.unwrap();
    until_watched(&agent).await;
    let long = format!("work/{}", "a".repeat(3 * 4096));
    let others = json!({ "reason": "overflow" });
    for made_up in ["elsewhere", &long] {
        agent.change(&[event(WatchKind::WatchModified, made_up, "")]);
        let expected = told("missed", "work", others.clone());
        assert_eq!(events.next().await, expected);
    }
}

#[tokio::test]
async fn so_many_clients_watch_a_sandbox() {
    let world = World::new().await;
    let (socket, _agent) = with_files(&world).await;
    let watch = path(&socket.id(), "path=work");
    let mut open = Vec::new();
    for _ in 0..WATCHES_MAX {
        open.push(world.open(&watch, &world.token).await.unwrap());
    }
    let refused = world.open(&watch, &world.token).await.unwrap_err();
    refused.refuses(429, "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_watch_ends_with_its_sandbox() {
    let world = World::new().await;
    let (socket, _agent) = with_files(&world).await;
    let watch = path(&socket.id(), "path=work");
    let mut events = world.open(&watch, &world.token).await.unwrap();
    world
        .delete(&format!("/api/v3/sandbox/{}", socket.id()))
        .await;
    assert_eq!(events.next().await, None);
    let refused = world.open(&watch, &world.token).await.unwrap_err();
    refused.refuses(400, "SANDBOX_ALREADY_TERMINATED");
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_in_words() {
    let world = World::new().await;
    let (socket, _agent) = with_files(&world).await;
    let other = world.new_token("other").await;
    let cases = [
        ("path=missing", &world.token, 404, "FILE_NOT_READABLE"),
        ("path=work", &other, 404, "SANDBOX_NOT_FOUND"),
        ("", &world.token, 400, "INVALID_REQUEST"),
        ("path=", &world.token, 400, "INVALID_REQUEST"),
        ("path=work&path=work", &world.token, 400, "INVALID_REQUEST"),
        (
            "path=work&recursive=yes",
            &world.token,
            400,
            "INVALID_REQUEST",
        ),
        ("path=work&since=1", &world.token, 400, "INVALID_REQUEST"),
    ];
    for (query, token, status, code) in cases {
        let watch = path(&socket.id(), query);
        let refused = world.open(&watch, token).await.unwrap_err();
        refused.refuses(status, code);
    }
}

/// A sandbox keeps the agent that it was started with, so one that was started before an
/// upgrade may have none that watches.
#[tokio::test]
async fn who_watches_in_a_sandbox_of_an_earlier_version_is_told_to_use_a_new_one() {
    let world = World::new().await;
    let (socket, agent) = with_files(&world).await;
    agent.be_older_than_watches();
    let path = path(&socket.id(), "path=work");
    let refused = world.open(&path, &world.token).await.unwrap_err();
    refused.refuses(501, "NOT_BUILT_YET");
    let words = refused.json["message"].as_str().unwrap();
    assert!(words.contains("earlier version; use a new one"), "{words}");
    // The sandbox is as good as before.
    let row = world.row(&socket.id()).await;
    assert_eq!(row["state"], "running");
}
