//! Tokens: what opens what, and what is left of them.

use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::harness::{ADMIN, World};

const TOKENS: &str = "/api/tombolo/v1/tokens";
const LIST: &str = "/api/v3/sandboxes";

#[tokio::test]
async fn requests_without_a_good_token_are_refused() {
    let world = World::new().await;
    let cases = [
        ("", "NOT_AUTHENTICATED"),
        ("Bearer", "NOT_AUTHENTICATED"),
        ("Bearer ", "NOT_AUTHENTICATED"),
        ("Basic ZGRvOmRkbw==", "NOT_AUTHENTICATED"),
        ("Bearer ddo_unknown", "INVALID_TOKEN"),
        ("bearer ddo_unknown", "INVALID_TOKEN"),
        (&format!("Bearer {}", "x".repeat(300)), "NOT_AUTHENTICATED"),
        (&format!("Bearer {}x", world.token), "INVALID_TOKEN"),
        (
            &format!("Bearer {}", world.token.to_uppercase()),
            "INVALID_TOKEN",
        ),
    ];
    let paths = [
        (Method::GET, LIST),
        (Method::GET, "/api/v2/sandboxes"),
        (Method::GET, "/api/v3/sandboxes/create"),
        (
            Method::GET,
            "/api/v3/sandbox/sbx_ord_1at5nn58e77rtd11e3k3/connect",
        ),
        (
            Method::DELETE,
            "/api/v3/sandbox/sbx_ord_1at5nn58e77rtd11e3k3",
        ),
        (
            Method::PATCH,
            "/api/v3/sandbox/sbx_ord_1at5nn58e77rtd11e3k3",
        ),
        (
            Method::DELETE,
            "/api/v3/sandboxes/sbx_ord_1at5nn58e77rtd11e3k3",
        ),
        (Method::POST, "/api/v3/sandbox/x/expose/http"),
        (Method::GET, "/api/v2/apps"),
        (Method::GET, TOKENS),
        (Method::POST, TOKENS),
        (
            Method::DELETE,
            "/api/tombolo/v1/tokens/tok_1at5nn58e77rtd11e3k3",
        ),
        (Method::GET, "/api/tombolo/v1/info"),
        (Method::POST, "/api/tombolo/v1/retire"),
        (Method::GET, "/api/tombolo/v1/sandboxes"),
    ];
    for (header, code) in cases {
        for (method, path) in &paths {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert("authorization", header.parse().unwrap());
            }
            let answer = world
                .send_raw(method.clone(), path, headers, Vec::new())
                .await;
            answer.refuses(401, code);
        }
    }
}

#[tokio::test]
async fn handshakes_say_that_the_token_is_wrong() {
    let world = World::new().await;
    let refused = world.create_with("ddo_wrong", "{}").await.unwrap_err();
    refused.refuses(401, "INVALID_TOKEN");
    assert!(world.node.created().is_empty());
}

#[tokio::test]
async fn a_token_lives_from_its_creation_to_its_revocation() {
    let world = World::new().await;
    let body = json!({ "name": "ci", "organisation": "acme" });
    let created = world.send(Method::POST, TOKENS, ADMIN, Some(body)).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let token = created.json["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("ddo_"), "{token}");
    let id = created.json["id"].as_str().unwrap().to_owned();
    assert_eq!(world.get_with(&token, LIST).await.status, StatusCode::OK);

    let listed = world.get_with(ADMIN, TOKENS).await.json;
    let row = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == *id);
    let row = row.unwrap();
    assert_eq!(row["name"], "ci");
    assert_eq!(row["organisation"], "acme");
    assert!(row.get("token").is_none(), "{row}");
    assert!(!listed.to_string().contains(&token));

    let path = format!("{TOKENS}/{id}");
    for _ in 0..2 {
        let revoked = world.send(Method::DELETE, &path, ADMIN, None).await;
        assert_eq!(revoked.status, StatusCode::NO_CONTENT);
        world
            .get_with(&token, LIST)
            .await
            .refuses(401, "INVALID_TOKEN");
    }
    for unknown in ["tok_1at5nn58e77rtd11e3k3", "nonsense"] {
        let path = format!("{TOKENS}/{unknown}");
        let answer = world.send(Method::DELETE, &path, ADMIN, None).await;
        answer.refuses(404, "TOKEN_NOT_FOUND");
    }
}

#[tokio::test]
async fn the_database_holds_no_token_in_clear() {
    let mut world = World::new().await;
    world.stop_server().await;
    let mut files = 0;
    for entry in fs_err::read_dir(world.node.directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sock") {
            let bytes = fs_err::read(&path).unwrap();
            let secret = world.token.as_bytes();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
            files += 1;
        }
    }
    assert!(files > 0);
}

#[tokio::test]
async fn admins_and_members_keep_to_their_own_doors() {
    let world = World::new().await;
    for (method, path) in [(Method::GET, TOKENS), (Method::POST, TOKENS)] {
        let answer = world
            .send(method, path, &world.token, Some(json!({})))
            .await;
        answer.refuses(403, "FORBIDDEN");
    }
    let id = world.create(r#"{"timeout":"5m"}"#).await.unwrap().id();
    let connect = format!("/api/v3/sandbox/{id}/connect");
    for path in [&connect, "/api/v3/sandboxes/create"] {
        world.get_with(ADMIN, path).await.refuses(403, "FORBIDDEN");
    }
    let extend = format!("/api/v3/sandbox/{id}");
    let body = Some(json!({ "stop_at_ms": 1 }));
    let extended = world.send(Method::PATCH, &extend, ADMIN, body).await;
    extended.refuses(403, "FORBIDDEN");
    for path in [
        "/api/tombolo/v1/info",
        "/api/tombolo/v1/sandboxes",
        "/api/v2/sandboxes",
        LIST,
    ] {
        assert_eq!(world.get_with(ADMIN, path).await.status, StatusCode::OK);
        assert_eq!(world.get(path).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_personal_token_opens_its_own_organisation_only() {
    let world = World::new().await;
    let body = json!({ "kind": "personal", "organisation": "acme" });
    let created = world.send(Method::POST, TOKENS, ADMIN, Some(body)).await;
    let token = created.json["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("ddp_"), "{token}");
    for (organisation, status) in [("acme", 200), ("default", 403), ("", 403), ("é", 403)] {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        headers.insert("x-deno-org", organisation.parse().unwrap());
        let answer = world.send_raw(Method::GET, LIST, headers, Vec::new()).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{organisation:?} {answer:?}"
        );
    }
}

#[tokio::test]
async fn bad_requests_for_tokens_are_refused() {
    let world = World::new().await;
    let cases = [
        json!({ "name": "x".repeat(129) }),
        json!({ "organisation": "No Such Slug" }),
        json!({ "kind": "admin" }),
        json!({ "surprise": 1 }),
        json!([]),
    ];
    for body in cases {
        let shown = body.to_string();
        let answer = world.send(Method::POST, TOKENS, ADMIN, Some(body)).await;
        assert_eq!(answer.code(), "INVALID_REQUEST", "{shown}");
    }
}
