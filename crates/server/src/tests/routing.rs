//! Addresses: unknown ones, those not built, wrong methods, bodies, headers.

use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::harness::{CREATE, World};
use crate::body::BODY_LEN_MAX;

#[tokio::test]
async fn every_answer_names_its_request() {
    let world = World::new().await;
    let mut seen = std::collections::HashSet::new();
    for path in ["/healthz", "/api/v3/sandboxes", "/nowhere"] {
        let answer = world.get(path).await;
        let trace = answer.headers["x-deno-trace-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(trace.parse::<tombolo_ids::TraceId>().is_ok(), "{trace}");
        assert!(seen.insert(trace));
    }
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_refused_in_json() {
    let world = World::new().await;
    for path in [
        "/",
        "/api",
        "/api/v9/sandboxes",
        "/api/v3/sandbox",
        "/prefix/api/v3/sandboxes",
    ] {
        world.get(path).await.refuses(404, "NOT_FOUND");
    }
    let wrong = [
        (Method::POST, "/api/v3/sandboxes"),
        (Method::PUT, "/api/v3/sandbox/sbx_ord_1at5nn58e77rtd11e3k3"),
        (Method::GET, "/api/v3/sandbox/x/expose/http"),
        (Method::POST, CREATE),
    ];
    for (method, path) in wrong {
        let answer = world.send(method, path, &world.token, None).await;
        answer.refuses(405, "METHOD_NOT_ALLOWED");
    }
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let world = World::new().await;
    let id = "sbx_ord_1at5nn58e77rtd11e3k3";
    let cases = [
        (Method::POST, format!("/api/v2/sandboxes/{id}/deploy")),
        (Method::GET, "/api/v2/apps".to_owned()),
        (Method::POST, "/api/v2/apps".to_owned()),
        (Method::PATCH, "/api/v2/apps/a%2Fb".to_owned()),
        (Method::GET, "/api/v2/apps/mine/logs".to_owned()),
        (Method::GET, "/api/v2/revisions/r/progress".to_owned()),
        (Method::GET, "/api/v2/layers".to_owned()),
        (Method::POST, "/api/v2/volumes".to_owned()),
        (Method::DELETE, "/api/v2/snapshots/s".to_owned()),
    ];
    for (method, path) in cases {
        let answer = world
            .send(method, &path, &world.token, Some(json!({})))
            .await;
        answer.refuses(501, "NOT_BUILT_YET");
    }
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let world = World::new().await;
    let path = "/api/v3/sandbox/sbx_ord_1at5nn58e77rtd11e3k3";
    let bearer = |headers: &mut HeaderMap| {
        let value = format!("Bearer {}", world.token);
        headers.insert("authorization", value.parse().unwrap());
    };
    for (len, status, code) in [
        (BODY_LEN_MAX, 400, "INVALID_REQUEST"),
        (BODY_LEN_MAX + 1, 413, "REQUEST_TOO_LARGE"),
    ] {
        let mut headers = HeaderMap::new();
        bearer(&mut headers);
        let body = vec![b'x'; len];
        let answer = world.send_raw(Method::PATCH, path, headers, body).await;
        answer.refuses(status, code);
    }
    for (len, status) in [(128 * 1024, 200), (400 * 1024, 431)] {
        let mut headers = HeaderMap::new();
        bearer(&mut headers);
        headers.insert("x-padding", "x".repeat(len).parse().unwrap());
        let answer = world
            .send_raw(Method::GET, "/api/v3/sandboxes", headers, Vec::new())
            .await;
        assert_eq!(answer.status.as_u16(), status, "{len}");
    }
}

/// What the HTTP library read stays in its buffer as long as the connection.
#[tokio::test]
async fn a_connection_ends_on_which_a_value_may_have_come() {
    let world = World::new().await;
    let secret = "/api/tombolo/v1/sandboxes/sbx_ord_1at5nn58e77rtd11e3k3/egress/secrets/K";
    for (method, path, with_config, ends) in [
        (Method::PUT, secret, false, true),
        (Method::GET, CREATE, true, true),
        (Method::GET, CREATE, false, false),
        (Method::DELETE, secret, false, false),
    ] {
        let mut headers = HeaderMap::new();
        if with_config {
            headers.insert("x-deno-sandbox-config", "e30=".parse().unwrap());
        }
        let answer = world
            .send_raw(method.clone(), path, headers, Vec::new())
            .await;
        let closes = answer
            .headers
            .get("connection")
            .is_some_and(|it| it == "close");
        assert_eq!(closes, ends, "{method} {path} {with_config}: {answer:?}");
    }
}

#[tokio::test]
async fn the_server_describes_itself() {
    let mut world = World::new().await;
    let info = world.get("/api/tombolo/v1/info").await.json;
    assert_eq!(info["region"], "ord");
    assert_eq!(info["node"]["isolation"], "emulated");
    assert_eq!(info["limits"]["memory_mib_default"], 1280);
    world.node.kill();
    let health = tombolo_testkit::eventually("the node is missed", async || {
        let health = world.get_with("", "/healthz").await;
        (health.json["node"] == false).then_some(health)
    })
    .await;
    assert_eq!(health.status, StatusCode::OK);
}
