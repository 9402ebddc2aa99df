//! The network of sandboxes that live, over REST.

use http::Method;
use serde_json::{Value, json};
use tombolo_testkit::eventually;
use tonic::Code;

use super::harness::{ADMIN, World, quick};
use crate::config::Limits;

const CONFIG: &str = r#"{
    "timeout": "5m",
    "allow_net": ["a.com"],
    "secrets": { "KEY": { "hosts": ["a.com"], "value": "first" } }
}"#;

fn path(id: &str, rest: &str) -> String {
    format!("/api/tombolo/v1/sandboxes/{id}/egress/{rest}")
}

async fn sandbox(world: &World) -> String {
    world.create(CONFIG).await.unwrap().id()
}

#[tokio::test]
async fn a_policy_is_read_edited_and_put_back() {
    let world = World::networked().await;
    let id = sandbox(&world).await;
    let policy = path(&id, "policy");
    let mut document = world.get(&policy).await.json;
    assert_eq!(document["generation"], 1);
    assert_eq!(document["secrets"]["KEY"]["hosts"], json!(["a.com"]));
    document["net"]["rules"] = json!([{ "id": "r", "host": "a.com", "method": "GET" }]);
    document["secrets"]["KEY"]["in"] = json!(["query"]);
    world.egress().warn(&["mind"]);
    let changed = world.put(&policy, document.clone()).await;
    assert_eq!(
        changed.json,
        json!({ "generation": 2, "warnings": ["mind"] })
    );
    let carried = world.carried(&id);
    assert_eq!(carried.policy["generation"], 2);
    assert_eq!(carried.policy["net"]["rules"][0]["id"], "r");
    assert_eq!(carried.secrets["KEY"].value, "first");
    // Edited on top of what is no more.
    world
        .put(&policy, document)
        .await
        .refuses(409, "POLICY_CHANGED");
    // Secrets that are left out stay as they are.
    let plain = world.put(&policy, json!({ "version": 1 })).await;
    assert_eq!(plain.json["generation"], 3);
    let shown = world.get(&policy).await.json;
    assert_eq!(shown.get("allow_net"), None);
    assert_eq!(shown["secrets"]["KEY"]["in"], json!(["query"]));
    assert_eq!(world.carried(&id).policy, shown);
    for (list, expected) in [
        (json!(["b.com", "c.com"]), Some(json!(["b.com", "c.com"]))),
        (json!([]), Some(json!([]))),
        (Value::Null, None),
    ] {
        let changed = world
            .put(&path(&id, "allow_net"), json!({ "allow_net": list }))
            .await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let carried = world.carried(&id).policy;
        assert_eq!(carried.get("allow_net"), expected.as_ref());
        assert_eq!(carried["secrets"]["KEY"]["in"], json!(["query"]));
    }
}

#[tokio::test]
async fn secrets_are_set_rotated_moved_and_revoked() {
    let world = World::networked().await;
    let id = sandbox(&world).await;
    let (list, key, new) = (
        path(&id, "secrets"),
        path(&id, "secrets/KEY"),
        path(&id, "secrets/NEW"),
    );
    let rows = world.get(&list).await.json;
    let placeholder = rows[0]["placeholder"].clone();
    assert_eq!(rows[0]["name"], "KEY");
    assert_eq!(rows[0]["in"], json!(["header"]));
    assert_eq!(rows[0]["on_ineligible"], "forward");
    let rotated = world.put(&key, json!({ "value": "second" })).await;
    assert_eq!(rotated.json["placeholder"], placeholder, "{rotated:?}");
    assert_eq!(rotated.json["hosts"], json!(["a.com"]));
    assert_eq!(world.carried(&id).secrets["KEY"].value, "second");
    let moved = json!({ "hosts": ["b.com"], "require": true, "on_ineligible": "deny" });
    let moved = world.put(&key, moved).await;
    assert_eq!(moved.json["require"], true, "{moved:?}");
    let carried = world.carried(&id);
    assert_eq!(carried.policy["secrets"]["KEY"]["hosts"], json!(["b.com"]));
    assert_eq!(carried.secrets["KEY"].value, "second");
    let added = json!({ "value": "third", "hosts": ["c.com"], "in": ["json", "query"] });
    let added = world.put(&new, added).await;
    assert_eq!(added.status, 200, "{added:?}");
    let agent = world.node.agent(&id).unwrap();
    assert_eq!(
        agent.env()["NEW"],
        added.json["placeholder"].as_str().unwrap()
    );
    assert_eq!(world.carried(&id).secrets["NEW"].value, "third");
    let revoked = world.delete(&new).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    let carried = world.carried(&id);
    assert!(carried.secrets["NEW"].is_revoked);
    // What is said of it stays, so that responses are searched for its value.
    assert!(carried.policy["secrets"]["NEW"].is_object());
    // Again, after an answer that was lost.
    assert_eq!(world.delete(&new).await.status, 204);
    assert_eq!(world.carried(&id).policy, carried.policy);
    let unknown = world.delete(&path(&id, "secrets/UNKNOWN")).await;
    unknown.refuses(404, "SECRET_NOT_FOUND");
    let shown = world.get(&path(&id, "policy")).await.json;
    assert_eq!(shown["secrets"].get("NEW"), None);
    let rows = world.get(&list).await.json;
    assert!(rows[0]["revoked_at_ms"].is_null());
    assert!(rows[1]["revoked_at_ms"].is_number());
    let again = json!({ "value": "fourth", "hosts": ["d.com"] });
    let again = world.put(&new, again).await;
    assert_eq!(again.json["placeholder"], added.json["placeholder"]);
    assert_eq!(again.json["in"], json!(["header"]));
    let secret = world.carried(&id).secrets["NEW"].clone();
    assert_eq!(
        (secret.value.as_str(), secret.is_revoked),
        ("fourth", false)
    );
    let shown = world.get(&list).await.text;
    for value in ["first", "second", "third", "fourth"] {
        assert!(!shown.contains(value));
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn what_cannot_be_changes_nothing() {
    let world = World::networked().await;
    let mut socket = world.create(CONFIG).await.unwrap();
    let id = socket.id();
    let mine = json!({ "key": "MINE", "value": "x" });
    socket.call("envSet", mine).await;
    let before = world.carried(&id);
    let cases = [
        ("policy", json!([]), "not a JSON object"),
        ("policy", json!({}), "missing field `version`"),
        (
            "policy",
            json!({ "version": 1, "x": 1 }),
            "unknown field `x`",
        ),
        (
            "policy",
            json!({ "version": 1, "allow_net": ["*"] }),
            "allow_net[0]",
        ),
        (
            "policy",
            json!({ "version": 1, "secrets": { "N": { "hosts": ["a.com"] } } }),
            "secrets.N: it has no value",
        ),
        ("allow_net", json!({}), "allow_net"),
        (
            "allow_net",
            json!({ "allow_net": ["127.0.0.1"] }),
            "never be reached",
        ),
        (
            "secrets/N",
            json!({ "hosts": ["a.com"] }),
            "a new secret needs one",
        ),
        (
            "secrets/N",
            json!({ "value": "v" }),
            "secrets.N.hosts: must not be empty",
        ),
        (
            "secrets/9N",
            json!({ "value": "v", "hosts": ["a.com"] }),
            "not a name",
        ),
        ("secrets/KEY", json!({ "value": "" }), "is empty"),
        (
            "secrets/KEY",
            json!({ "hosts": ["10.0.0.1"] }),
            "is an address",
        ),
        (
            "secrets/KEY",
            json!({ "in": ["body"] }),
            "not a part of a request",
        ),
        ("secrets/KEY", json!({ "in": ["binary"] }), "not built yet"),
        (
            "secrets/KEY",
            json!({ "on_ineligible": "x" }),
            "`forward` or `deny`",
        ),
        ("secrets/KEY", json!({ "x": 1 }), "from line 1 column"),
        (
            "secrets/MINE",
            json!({ "value": "v", "hosts": ["a.com"] }),
            "has a variable of that name",
        ),
    ];
    for (rest, body, said) in cases {
        let refused = world.put(&path(&id, rest), body.clone()).await;
        refused.refuses(400, "INVALID_REQUEST");
        let message = refused.json["message"].as_str().unwrap();
        assert!(message.contains(said), "{rest} {body}: {message}");
    }
    assert_eq!(world.carried(&id), before);
    assert_eq!(world.egress().changes(), 0);
    // The egress process has the last word, and what it refuses is not remembered.
    let words = "allow_net[0]: not opened here";
    world.egress().refuse(Some((Code::InvalidArgument, words)));
    let list = json!({ "allow_net": ["10.0.0.0/8"] });
    let refused = world.put(&path(&id, "allow_net"), list).await;
    refused.refuses(400, "INVALID_REQUEST");
    assert_eq!(refused.json["message"], words);
    world.egress().refuse(None);
    assert_eq!(world.get(&path(&id, "policy")).await.json["generation"], 1);
    let long = json!({ "value": "x".repeat(2 * 1024 * 1024) });
    let refused = world.put(&path(&id, "secrets/KEY"), long).await;
    refused.refuses(413, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn a_revoked_secret_is_in_the_way_of_nothing() {
    let world = World::networked().await;
    let id = sandbox(&world).await;
    let passing = json!({ "version": 1, "net": { "passthrough": ["a.com"] } });
    let policy = path(&id, "policy");
    world
        .put(&policy, passing.clone())
        .await
        .refuses(400, "INVALID_REQUEST");
    world.delete(&path(&id, "secrets/KEY")).await;
    let changed = world.put(&policy, passing).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    // It is still searched for, and what is said of it still holds when it comes back.
    assert!(world.carried(&id).policy["secrets"]["KEY"].is_object());
    let again = json!({ "value": "again", "hosts": ["a.com"] });
    let refused = world.put(&path(&id, "secrets/KEY"), again).await;
    refused.refuses(400, "INVALID_REQUEST");
    assert!(refused.text.contains("secret `KEY`"), "{}", refused.text);
}

#[tokio::test]
async fn only_the_owner_and_the_admin_see_a_network() {
    let world = World::networked().await;
    let id = sandbox(&world).await;
    let other = world.new_token("other").await;
    let secret = json!({ "value": "v", "hosts": ["a.com"] });
    let request = json!({ "url": "https://a.com/" });
    let routes = [
        (Method::GET, "policy", None),
        (Method::PUT, "policy", Some(json!({ "version": 1 }))),
        (Method::PUT, "allow_net", Some(json!({ "allow_net": [] }))),
        (Method::GET, "secrets", None),
        (Method::PUT, "secrets/KEY", Some(secret)),
        (Method::POST, "explain", Some(request)),
        (Method::GET, "stats", None),
        (Method::DELETE, "secrets/KEY", None),
    ];
    let before = world.carried(&id);
    for (method, rest, body) in &routes {
        let to = path(&id, rest);
        let send = async |token: &str| world.send(method.clone(), &to, token, body.clone()).await;
        send(&other).await.refuses(404, "SANDBOX_NOT_FOUND");
        send("").await.refuses(401, "NOT_AUTHENTICATED");
        let unknown = path("sbx_ord_1at5nn58e77rtd11e3k3", rest);
        let unknown = world
            .send(method.clone(), &unknown, ADMIN, body.clone())
            .await;
        unknown.refuses(404, "SANDBOX_NOT_FOUND");
    }
    assert_eq!(world.carried(&id), before);
    for (method, rest, body) in &routes {
        let to = path(&id, rest);
        let answer = world.send(method.clone(), &to, ADMIN, body.clone()).await;
        assert!(answer.status.is_success(), "{method} {rest}: {answer:?}");
    }
    let metrics = "/api/tombolo/v1/egress/metrics";
    world.get(metrics).await.refuses(403, "FORBIDDEN");
    let shown = world.get_with(ADMIN, metrics).await;
    assert!(shown.text.contains("tombolo_egress_"), "{shown:?}");
    let kind = shown.headers["content-type"].to_str().unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let expected = json!({ "method": "PUT", "url": "https://a.com/" });
    let (to, body) = (path(&id, "explain"), Some(expected.clone()));
    let explained = world.send(Method::POST, &to, &world.token, body).await;
    assert_eq!(explained.json, expected);
    let sums = world.get(&path(&id, "stats")).await.json;
    assert_eq!(sums[0]["host"], "api.example.com");
    assert_eq!(sums[0]["denied"], 1);
    // When it has ended, so has its network.
    let killed = world.delete(&format!("/api/v3/sandbox/{id}")).await;
    assert_eq!(killed.status, 204);
    for (method, rest, body) in routes {
        let ended = world
            .send(method, &path(&id, rest), &world.token, body)
            .await;
        ended.refuses(400, "SANDBOX_ALREADY_TERMINATED");
    }
}

#[tokio::test]
async fn a_server_that_is_started_again_goes_on_where_it_was() {
    let mut world = World::networked().await;
    let id = sandbox(&world).await;
    let new = json!({ "value": "new", "hosts": ["b.com"] });
    world.put(&path(&id, "secrets/NEW"), new).await;
    world.delete(&path(&id, "secrets/NEW")).await;
    let before = world.get(&path(&id, "secrets")).await.json;
    let policy = world.get(&path(&id, "policy")).await.json;
    world.stop_server().await;
    world.start_server().await;
    world.followed().await;
    assert_eq!(world.get(&path(&id, "secrets")).await.json, before);
    assert_eq!(world.get(&path(&id, "policy")).await.json, policy);
    let rotated = world
        .put(&path(&id, "secrets/KEY"), json!({ "value": "again" }))
        .await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let carried = world.carried(&id);
    assert_eq!(carried.secrets["KEY"].value, "again");
    assert!(carried.secrets["NEW"].is_revoked);
    let next = policy["generation"].as_u64().unwrap() + 1;
    assert_eq!(carried.policy["generation"], next);
}

/// A change whose answer was lost is made again, and puts right what is missing.
#[tokio::test]
async fn a_variable_that_is_not_as_it_should_be_is_told_and_mended() {
    let mut world = World::networked().await;
    let mut socket = world.create(CONFIG).await.unwrap();
    let id = socket.id();
    let (key, body) = (path(&id, "secrets/KEY"), json!({ "value": "again" }));
    let agent = world.node.agent(&id).unwrap();
    let placeholder = agent.env()["KEY"].clone();
    socket
        .call("envSet", json!({ "key": "KEY", "value": "mine" }))
        .await;
    let told = world.put(&key, body.clone()).await;
    let warning = told.json["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("does not hold the secret's placeholder"),
        "{warning}"
    );
    assert_eq!(agent.env()["KEY"], "mine");
    socket.call("envDelete", json!({ "key": "KEY" })).await;
    world.node.kill();
    let told = world.put(&key, body.clone()).await;
    assert_eq!(world.carried(&id).secrets["KEY"].value, "again");
    let warning = told.json["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("may be missing; set the secret again"),
        "{warning}"
    );
    world.node.restart().unwrap();
    world.followed().await;
    let told = world.put(&key, body).await;
    assert_eq!(told.json["warnings"], json!([]));
    assert_eq!(agent.env()["KEY"], placeholder);
}

#[tokio::test]
async fn changes_wait_for_an_egress_process_that_was_started_anew() {
    let mut world = World::networked_with(Limits {
        node_wait: std::time::Duration::from_secs(2),
        ..quick()
    })
    .await;
    let id = sandbox(&world).await;
    let to = path(&id, "secrets/KEY");
    let egress = world.egress.as_mut().unwrap();
    let carried = egress.take(&id).unwrap();
    egress.restart().unwrap();
    let changing = world.put(&to, json!({ "value": "late" }));
    let coming_back = async {
        eventually("it is asked in vain", async || {
            (world.egress().changes() > 0).then_some(())
        })
        .await;
        world.egress().put_back(&id, carried.clone());
    };
    let (changed, ()) = tokio::join!(changing, coming_back);
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(world.carried(&id).secrets["KEY"].value, "late");
    world.egress.as_mut().unwrap().kill();
    let list = json!({ "allow_net": [] });
    let refused = world.put(&path(&id, "allow_net"), list).await;
    refused.refuses(503, "NETWORK_UNAVAILABLE");
    assert_eq!(
        world.get(&path(&id, "policy")).await.json["allow_net"],
        json!(["a.com"])
    );
}

#[tokio::test]
async fn records_are_told_to_their_owner_as_they_come() {
    let mut world = World::networked().await;
    let id = sandbox(&world).await;
    let own = world.carried(&id).organisation;
    let all = "/api/tombolo/v1/egress/records";
    let one = format!("{all}?sandbox={id}");
    let mut of_one = world.open(&one, &world.token).await.unwrap();
    let mut of_own = world.open(all, &world.token).await.unwrap();
    let mut of_all = world.open(all, ADMIN).await.unwrap();
    world.egress().record("another", "elsewhere", 0);
    world.egress().record(&own, "second", 0);
    world.egress().record(&own, &id, 7);
    let told = |org: &str, sandbox: &str| {
        let record = json!({ "v": 1, "org": org, "sandbox": sandbox });
        Some((String::new(), record))
    };
    let skipped = Some(("skipped".to_owned(), json!({ "skipped": 7 })));
    assert_eq!(of_one.next().await, skipped);
    assert_eq!(of_one.next().await, told(&own, &id));
    for expected in [told(&own, "second"), skipped.clone(), told(&own, &id)] {
        assert_eq!(of_own.next().await, expected);
    }
    assert_eq!(of_all.next().await, told("another", "elsewhere"));
    // A process that was away is told, and followed again.
    drop(of_all);
    world.egress.as_mut().unwrap().restart().unwrap();
    let interrupted = Some(("interrupted".to_owned(), json!({})));
    assert_eq!(of_one.next().await, interrupted);
    assert_eq!(of_own.next().await, interrupted);
    eventually("both listen again", async || {
        (world.egress().listeners() >= 2).then_some(())
    })
    .await;
    world.egress().record(&own, &id, 0);
    assert_eq!(of_one.next().await, told(&own, &id));
    assert_eq!(of_own.next().await, told(&own, &id));
    // The end of the sandbox ends what is told of it, and the server's everything.
    world.delete(&format!("/api/v3/sandbox/{id}")).await;
    assert_eq!(of_one.next().await, None);
    world.stop_server().await;
    assert_eq!(of_own.next().await, None);
}

#[tokio::test]
async fn records_of_somebody_else_are_nobodys() {
    let world = World::networked().await;
    let id = sandbox(&world).await;
    let other = world.new_token("other").await;
    let all = "/api/tombolo/v1/egress/records";
    for (query, token, status, code) in [
        (
            format!("?sandbox={id}"),
            other.as_str(),
            404,
            "SANDBOX_NOT_FOUND",
        ),
        (
            "?sandbox=x".to_owned(),
            &world.token,
            404,
            "SANDBOX_NOT_FOUND",
        ),
        ("?since=1".to_owned(), &world.token, 400, "INVALID_REQUEST"),
        (String::new(), "wrong", 401, "INVALID_TOKEN"),
    ] {
        let refused = world
            .open(&format!("{all}{query}"), token)
            .await
            .unwrap_err();
        refused.refuses(status, code);
    }
    assert_eq!(world.egress().listeners(), 0);
}
