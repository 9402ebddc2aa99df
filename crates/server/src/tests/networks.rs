//! The network of new sandboxes: what reaches the node, and what the egress
//! process can read of it.

use serde_json::{Value, json};
use tombolo_testkit::{CreateBehaviour, eventually};
use tonic::Code;

use super::harness::{World, quick};
use crate::config::Limits;

const BOTH: &str = r#"{
    "labels": { "job": "t" }, "env": { "A": "b" }, "volumes": [],
    "allow_net": ["api.example.com"],
    "secrets": { "KEY": { "hosts": ["api.example.com"], "value": "real-value-1" } }
}"#;

#[tokio::test]
async fn only_the_egress_process_can_read_a_value() {
    let world = World::networked().await;
    world.egress().warn(&["the first", "the second"]);
    let socket = world.create(BOTH).await.unwrap();
    let id = socket.id();
    let warnings: Vec<_> = socket.headers.get_all("x-tombolo-warning").iter().collect();
    assert_eq!(warnings, ["the first", "the second"]);
    let carried = world.carried(&id);
    assert_eq!(carried.labels["job"], "t");
    assert!(!carried.organisation.is_empty());
    assert_eq!(carried.policy["generation"], 1);
    assert_eq!(carried.policy["allow_net"], json!(["api.example.com"]));
    let bound = &carried.policy["secrets"]["KEY"]["hosts"];
    assert_eq!(*bound, json!(["api.example.com"]));
    let secret = &carried.secrets["KEY"];
    assert_eq!(secret.value, "real-value-1");
    let env = world.node.agent(&id).unwrap().env();
    assert_eq!(env["KEY"], secret.placeholder);
    assert_eq!(env["A"], "b");
    let sent = format!("{:?}", world.node.created());
    assert!(!sent.contains("real-value-1"), "{sent}");
}

#[tokio::test]
async fn every_sandbox_is_carried_by_the_list_it_asked_for() {
    let world = World::networked().await;
    for (config, expected) in [
        ("{}", None),
        (r#"{"allow_net":null}"#, None),
        (r#"{"allow_net":[]}"#, Some(json!([]))),
        (r#"{"allow_net":["a.com:443"]}"#, Some(json!(["a.com:443"]))),
    ] {
        let id = world.create(config).await.unwrap().id();
        let policy = world.carried(&id).policy;
        assert_eq!(policy.get("allow_net"), expected.as_ref(), "{config}");
        assert_eq!(policy.get("secrets"), None, "{config}");
    }
    let rules = json!({
        "secrets": { "K": { "value": "v" } },
        "egress_policy": {
            "version": 1,
            "secrets": { "K": { "hosts": ["a.com"], "in": ["query"] } },
            "net": { "mode": "audit", "rules": [{ "id": "r", "host": "a.com" }] },
        },
    });
    let id = world.create(&rules.to_string()).await.unwrap().id();
    let carried = world.carried(&id);
    assert_eq!(carried.policy["secrets"]["K"]["in"], json!(["query"]));
    assert_eq!(carried.policy["net"]["mode"], "audit");
    assert_eq!(carried.secrets["K"].value, "v");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_made() {
    let world = World::networked().await;
    let cases: [(Value, &[&str]); 4] = [
        (json!({ "allow_net": ["*"] }), &["allow_net[0]"]),
        (
            json!({
                "memory_mb": 1,
                "secrets": { "K": { "hosts": ["a.com"], "value": "hush\n" } },
            }),
            &["memory_mb must be between", "secrets.K.value"],
        ),
        (
            json!({
                "env": { "K": "mine" },
                "secrets": { "K": { "hosts": ["a.com"], "value": "hush" } },
            }),
            &["secrets.K: `env` has a variable of that name"],
        ),
        (
            // The placeholder counts as what it is: a part of the environment.
            json!({
                "env": { "LONG": "x".repeat(64 * 1024 - 4 - 80) },
                "secrets": { "K": { "hosts": ["a.com"], "value": "hush" } },
            }),
            &["the environment has", "bytes, at most"],
        ),
    ];
    for (config, expected) in cases {
        let refused = world.create(&config.to_string()).await.unwrap_err();
        refused.refuses(400, "INVALID_CONFIG");
        for part in expected {
            assert!(refused.text.contains(part), "{part}: {}", refused.text);
        }
        assert!(!refused.text.contains("hush"), "{}", refused.text);
    }
    assert!(world.node.created().is_empty());
}

#[tokio::test]
async fn what_the_node_says_of_the_network_is_told() {
    let world = World::networked().await;
    let words = "allow_net[0]: `10.0.0.0/8` is a private range";
    let cases = [
        (Code::InvalidArgument, 400, "INVALID_CONFIG", words),
        (Code::Unavailable, 503, "NETWORK_UNAVAILABLE", "try again"),
        (Code::Internal, 500, "INTERNAL", "trace id"),
    ];
    for (refusal, status, code, said) in cases {
        world.egress().refuse(Some((refusal, words)));
        let config = r#"{"allow_net":["10.0.0.0/8"]}"#;
        let refused = world.create(config).await.unwrap_err();
        refused.refuses(status, code);
        assert!(refused.text.contains(said), "{}", refused.text);
    }
    world.egress().refuse(None);
    eventually("all is well again", async || world.create(BOTH).await.ok()).await;
}

#[tokio::test]
async fn without_an_egress_process_that_answers_nothing_is_sealed_or_made() {
    let mut world = World::networked_with(Limits {
        node_wait: std::time::Duration::from_millis(300),
        sandboxes_max: 1,
        ..quick()
    })
    .await;
    world.egress.as_mut().unwrap().kill();
    let refused = world.create(BOTH).await.unwrap_err();
    refused.refuses(503, "NETWORK_UNAVAILABLE");
    assert!(world.node.created().is_empty());
    // Started anew with another key: it is asked for its key each time.
    let egress = world.egress.as_mut().unwrap();
    egress.renew_key().unwrap();
    egress.restart().unwrap();
    let id = world.create(BOTH).await.unwrap().id();
    assert_eq!(world.carried(&id).secrets["KEY"].value, "real-value-1");
}

#[tokio::test]
async fn requests_wait_for_an_egress_process_that_comes_back() {
    let mut world = World::networked().await;
    let mut egress = world.egress.take().unwrap();
    egress.kill();
    let (created, ()) = tokio::join!(world.create(BOTH), async {
        egress.restart().unwrap();
    });
    let id = created.unwrap().id();
    assert!(egress.sandbox(&id).is_some());
}

#[tokio::test]
async fn a_server_without_an_egress_process_gives_no_network() {
    let world = World::new().await;
    let id = world.create(r#"{"allow_net":[]}"#).await.unwrap().id();
    world.create("{}").await.unwrap();
    let networks = world.node.created();
    assert!(networks.iter().all(|request| request.network.is_none()));
    let policy = r#"{"egress_policy":{"version":1}}"#;
    let refused = world.create(policy).await.unwrap_err();
    refused.refuses(501, "NOT_BUILT_YET");
    let path = format!("/api/tombolo/v1/sandboxes/{id}/egress/policy");
    world.get(&path).await.refuses(409, "NO_NETWORK");
    let records = "/api/tombolo/v1/egress/records";
    world.get(records).await.refuses(501, "NOT_BUILT_YET");
}

#[tokio::test]
async fn a_node_that_is_away_is_another_matter_than_its_network() {
    let mut world = World::networked_with(Limits {
        node_wait: std::time::Duration::from_millis(300),
        ..quick()
    })
    .await;
    world
        .node
        .on_create(CreateBehaviour::Refuse(Code::Unavailable));
    let refused = world.create("{}").await.unwrap_err();
    refused.refuses(503, "NETWORK_UNAVAILABLE");
    world.node.kill();
    let refused = world.create("{}").await.unwrap_err();
    refused.refuses(503, "NODE_UNAVAILABLE");
}
