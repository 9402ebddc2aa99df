//! Listings: both versions, both clients' ways of filtering and paging.

use serde_json::Value;
use tombolo_ids::SandboxId;
use tombolo_node_proto::v1::SandboxUsageReply;

use super::harness::{ADMIN, Answer, World, labelled, quick};
use crate::config::Limits;

const ROWS: &str = "/api/tombolo/v1/sandboxes";
const LISTINGS: [&str; 3] = ["/api/v2/sandboxes", "/api/v3/sandboxes", ROWS];

fn ids(answer: &Answer) -> Vec<String> {
    let rows = answer
        .json
        .as_array()
        .unwrap_or_else(|| panic!("{answer:?}"));
    rows.iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

/// The address of the next page, read the way both clients do.
fn next_address(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    let (parts, more) = (link.split(';').collect::<Vec<_>>(), link.contains(','));
    assert!(parts.len() == 2 && !more, "{link}");
    assert_eq!(parts[1].trim(), "rel=\"next\"");
    let address = parts[0].trim().strip_prefix('<')?.strip_suffix('>')?;
    Some(address.to_owned())
}

#[tokio::test]
async fn rows_have_the_shape_clients_expect() {
    let world = World::new().await;
    let running = world.create(&labelled(&[("job", "t")])).await.unwrap();
    let stopped = world.create("{}").await.unwrap();
    let stopped_id = stopped.id();
    stopped.close_normally().await;
    world.until_state(&stopped_id, "stopped").await;
    for path in ["/api/v2/sandboxes", "/api/v3/sandboxes"] {
        let answer = world.get(path).await;
        assert_eq!(ids(&answer), [stopped_id.clone(), running.id()], "{path}");
        let [old, new] = [&answer.json[0], &answer.json[1]];
        assert_eq!(
            (&old["status"], &new["status"]),
            (&"stopped".into(), &"running".into())
        );
        assert_eq!(new["stoppedAt"], Value::Null);
        assert_eq!(new["labels"]["job"], "t");
        assert_eq!(new["region"], "ord");
        for moment in [&old["createdAt"], &old["stoppedAt"], &new["createdAt"]] {
            let text = moment.as_str().unwrap();
            assert!(text.len() == 24 && text.ends_with('Z'), "{text}");
        }
    }
}

#[tokio::test]
async fn labels_filter_in_both_notations() {
    let world = World::new().await;
    let mut sockets = Vec::new();
    for labels in [
        &[("job", "t"), ("team", "it's")][..],
        &[("job", "t")],
        &[("job", "u")],
        &[],
    ] {
        sockets.push(world.create(&labelled(labels)).await.unwrap());
    }
    let cases: [(&str, &[usize]); 7] = [
        ("", &[3, 2, 1, 0]),
        ("?labels%5Bjob%5D=t", &[1, 0]),
        ("?labels=%7B%27job%27%3A+%27t%27%7D", &[1, 0]),
        (
            "?labels=%7B%27job%27%3A+%27t%27%2C+%27team%27%3A+%22it%27s%22%7D",
            &[0],
        ),
        ("?labels%5Bjob%5D=t&labels%5Bteam%5D=it%27s", &[0]),
        ("?labels%5Bjob%5D=v", &[]),
        ("?labels%5Bnone%5D=t", &[]),
    ];
    for (query, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|index| sockets[*index].id()).collect();
        for version in ["v2", "v3"] {
            let answer = world.get(&format!("/api/{version}/sandboxes{query}")).await;
            assert_eq!(ids(&answer), expected, "{version} {query}");
        }
    }
    for query in ["?labels=job", "?limit=0", "?limit=x", "?cursor=x"] {
        let answer = world.get(&format!("/api/v3/sandboxes{query}")).await;
        answer.refuses(400, "INVALID_REQUEST");
    }
}

/// Makes the next request's path of the first one's and the next address.
type Follow = fn(&str, &str) -> String;

#[tokio::test]
async fn pages_follow_each_other_whichever_way_the_cursor_comes_back() {
    let world = World::new().await;
    let mut expected = Vec::new();
    for _ in 0..5 {
        let socket = world
            .create(r#"{"labels":{"a,b":"c;d"},"timeout":"5m"}"#)
            .await
            .unwrap();
        expected.insert(0, socket.id());
    }
    let first = "/api/v3/sandboxes?limit=2&labels%5Ba%2Cb%5D=c%3Bd";
    let ways: [Follow; 3] = [
        // The address as it is.
        |_, next| {
            next.split_once("/api")
                .map(|(_, path)| format!("/api{path}"))
                .unwrap()
        },
        // Only its cursor, after the first request's own parameters.
        |first, next| {
            let cursor = next.split_once("cursor=").unwrap().1;
            format!("{first}&cursor={cursor}")
        },
        // The whole address as the cursor.
        |first, next| {
            let pair = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("cursor", next)
                .finish();
            format!("{first}&cursor=stale&{pair}")
        },
    ];
    for follow in ways {
        let mut found = Vec::new();
        let mut path = first.to_owned();
        for _ in 0..3 {
            let answer = world.get(&path).await;
            found.extend(ids(&answer));
            let Some(next) = next_address(&answer) else {
                break;
            };
            assert!(
                next.starts_with(&format!("http://{}/api/v3/", world.address)),
                "{next}"
            );
            path = follow(first, &next);
        }
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn links_use_the_configured_address() {
    let mut world = World::new().await;
    world.config.base_url = Some("https://sandboxes.example.com/".to_owned());
    world.stop_server().await;
    world.start_server().await;
    for _ in 0..2 {
        world.create(r#"{"timeout":"5m"}"#).await.unwrap();
    }
    let next = next_address(&world.get("/api/v3/sandboxes?limit=1").await).unwrap();
    assert!(
        next.starts_with("https://sandboxes.example.com/api/v3/sandboxes?"),
        "{next}"
    );
}

#[tokio::test]
async fn everybody_sees_their_own_and_the_admin_sees_all() {
    let world = World::new().await;
    let mine = world.create("{}").await.unwrap();
    let stranger = world.new_token("stranger").await;
    let theirs = world.create_with(&stranger, "{}").await.unwrap();
    for path in LISTINGS {
        assert_eq!(ids(&world.get(path).await), [mine.id()], "{path}");
        assert_eq!(
            ids(&world.get_with(&stranger, path).await),
            [theirs.id()],
            "{path}"
        );
    }
    for path in LISTINGS {
        let all = world.get_with(ADMIN, path).await;
        assert_eq!(ids(&all), [theirs.id(), mine.id()], "{path}");
    }
    let all = world.get_with(ADMIN, "/api/tombolo/v1/sandboxes").await;
    assert_eq!(all.json[0]["organisation"], "stranger");
}

/// What belongs to somebody else is answered exactly as what never was.
#[tokio::test]
async fn only_the_admin_ends_what_is_somebody_elses() {
    let world = World::new().await;
    let stranger = world.new_token("stranger").await;
    let running = world.create(r#"{"timeout":"5m"}"#).await.unwrap().id();
    let stopped = world.create("{}").await.unwrap();
    let stopped_id = stopped.id();
    stopped.close_normally().await;
    world.until_state(&stopped_id, "stopped").await;
    let kill = async |id: &str, token: &str| {
        for path in ["sandbox", "sandboxes"] {
            let path = format!("/api/v3/{path}/{id}");
            let answer = world.send(http::Method::DELETE, &path, token, None).await;
            if answer.status.as_u16() != 204 {
                return Err(answer.json);
            }
        }
        Ok(())
    };
    let nothing = kill("sbx_ord_1at5nn58e77rtd11e3k3", &stranger).await;
    assert_eq!(nothing.as_ref().unwrap_err()["code"], "SANDBOX_NOT_FOUND");
    for id in [&running, &stopped_id] {
        assert_eq!(kill(id, &stranger).await, nothing, "{id}");
        let extend = format!("/api/v3/sandbox/{id}");
        let body = serde_json::json!({ "stop_at_ms": 1 });
        let answer = world
            .send(http::Method::PATCH, &extend, &stranger, Some(body))
            .await;
        answer.refuses(404, "SANDBOX_NOT_FOUND");
    }
    assert!(world.node.has(&running));
    for id in [&running, &stopped_id] {
        assert_eq!(kill(id, ADMIN).await, Ok(()), "{id}");
    }
    assert!(!world.node.has(&running));
    let unknown = kill("sbx_ord_1at5nn58e77rtd11e3k3", ADMIN).await;
    assert_eq!(unknown, nothing);
}

#[tokio::test]
async fn rows_are_filtered_by_state() {
    let world = World::new().await;
    let running = world.create(r#"{"timeout":"5m"}"#).await.unwrap().id();
    let stopped = world.create("{}").await.unwrap();
    let stopped_id = stopped.id();
    stopped.close_normally().await;
    world.until_state(&stopped_id, "stopped").await;
    let cases: [(&str, &[&String]); 7] = [
        ("", &[&stopped_id, &running]),
        ("?state=running", &[&running]),
        ("?state=stopped", &[&stopped_id]),
        ("?state=stopped,running", &[&stopped_id, &running]),
        ("?state=stopped&state=grace", &[&stopped_id]),
        ("?state=grace", &[]),
        ("?state=creating,stopping", &[]),
    ];
    for (query, expected) in cases {
        let answer = world.get(&format!("{ROWS}{query}")).await;
        assert_eq!(ids(&answer).iter().collect::<Vec<_>>(), expected, "{query}");
    }
    for query in ["?state=", "?state=asleep", "?usage=none", "?limit=0"] {
        let answer = world.get(&format!("{ROWS}{query}")).await;
        answer.refuses(400, "INVALID_REQUEST");
    }
}

/// The database still says that a sandbox runs when its task knows more.
#[tokio::test]
async fn a_lost_connection_shows_as_grace() {
    let world = World::with(Limits {
        grace: std::time::Duration::from_mins(5),
        ..quick()
    })
    .await;
    let socket = world.create("{}").await.unwrap();
    let id = socket.id();
    drop(socket);
    world.until_state(&id, "grace").await;
    let grace = world.get(&format!("{ROWS}?state=grace")).await;
    assert_eq!(ids(&grace), [id]);
    assert_eq!(
        ids(&world.get(&format!("{ROWS}?state=running")).await),
        [""; 0]
    );
}

/// Pages hold every row once and in order, though rows in between end or do
/// not match, and the parameters of the first request last to the end.
#[tokio::test]
async fn pages_of_rows_leave_nothing_out() {
    let world = World::new().await;
    let mut expected = Vec::new();
    for number in 0..7 {
        let other = number % 3 == 1;
        let label = if other { "b" } else { "a" };
        let config = format!(r#"{{"timeout":"5m","labels":{{"team":"{label}"}}}}"#);
        let id = world.create(&config).await.unwrap().id();
        if !other {
            expected.insert(0, id);
        }
    }
    let ended = expected.remove(2);
    world.delete(&format!("/api/v3/sandbox/{ended}")).await;
    world.until_state(&ended, "stopped").await;
    let mut found = Vec::new();
    let mut path = format!("{ROWS}?limit=2&labels%5Bteam%5D=a&state=running,creating");
    loop {
        let answer = world.get(&path).await;
        assert!(ids(&answer).len() <= 2, "{answer:?}");
        found.extend(ids(&answer));
        let Some(next) = next_address(&answer) else {
            break;
        };
        path = next
            .split_once("/api")
            .map(|(_, path)| format!("/api{path}"))
            .unwrap();
    }
    assert_eq!(found, expected);
    let one = world.get(ROWS).await;
    assert_eq!(ids(&one).len(), 7);
    assert_eq!(next_address(&one), None);
}

#[tokio::test]
async fn stopped_sandboxes_are_listed_for_the_retention_time() {
    let world = World::with(Limits {
        stopped_retention: std::time::Duration::ZERO,
        ..quick()
    })
    .await;
    let socket = world.create("{}").await.unwrap();
    let id: SandboxId = socket.id().parse().unwrap();
    socket.close_normally().await;
    tombolo_testkit::eventually("it leaves the listing", async || {
        ids(&world.get("/api/v2/sandboxes").await)
            .is_empty()
            .then_some(())
    })
    .await;
    let refused = world.connect(id.as_str()).await.unwrap_err();
    refused.refuses(400, "SANDBOX_ALREADY_TERMINATED");
}

#[tokio::test]
async fn usage_is_measured_now_and_then() {
    let world = World::with(Limits {
        usage_interval: std::time::Duration::from_millis(20),
        ..quick()
    })
    .await;
    let socket = world.create(r#"{"memory_mb":1024}"#).await.unwrap();
    let held = |row: &Value| row["usage"]["memory_mib_seconds"].as_u64();
    let once = tombolo_testkit::eventually("it is measured", async || {
        held(&world.row(&socket.id()).await)
    })
    .await;
    tombolo_testkit::eventually("it is measured again", async || {
        held(&world.row(&socket.id()).await).filter(|now| *now > once)
    })
    .await;
}

#[tokio::test]
async fn usage_is_measured_on_request_and_at_the_end() {
    let world = World::new().await;
    let socket = world.create(r#"{"memory_mb":1024}"#).await.unwrap();
    let id = socket.id();
    assert_eq!(world.row(&id).await["usage"], Value::Null);
    world.node.set_usage(
        &id,
        SandboxUsageReply {
            cpu_nanos: 7,
            memory_private_bytes: 8,
            disk_allocated_bytes: 9,
        },
    );
    let fresh = world.get("/api/tombolo/v1/sandboxes?usage=fresh").await;
    let usage = &fresh.json[0]["usage"];
    assert_eq!(usage["cpu_nanos"], 7);
    assert_eq!(usage["memory_private_bytes"], 8);
    assert_eq!(usage["disk_allocated_bytes"], 9);
    let reply = SandboxUsageReply {
        cpu_nanos: 70,
        ..SandboxUsageReply::default()
    };
    world.node.set_usage(&id, reply);
    socket.close_normally().await;
    let row = world.until_state(&id, "stopped").await;
    assert_eq!(row["usage"]["cpu_nanos"], 70);
    let lived = row["stopped_at_ms"].as_i64().unwrap() - row["created_at_ms"].as_i64().unwrap();
    let held = row["usage"]["memory_mib_seconds"].as_i64().unwrap();
    assert!(held <= lived * 1024 / 1000, "{row}");
}
