//! A server that makes room for another: only if it was started to, and only if nobody
//! needs it.

use http::Method;
use tombolo_api::native::RETIRE_PATH;
use tombolo_testkit::{CreateBehaviour, eventually};

use super::harness::{ADMIN, Answer, World};

async fn ask(world: &World, token: &str) -> Answer {
    world.send(Method::POST, RETIRE_PATH, token, None).await
}

#[tokio::test]
async fn a_server_makes_room_once_it_has_no_sandbox_and_then_makes_none() {
    let mut world = World::new().await;
    ask(&world, ADMIN).await.refuses(409, "SERVER_STAYS");
    let adopted = world.create(r#"{"timeout":"5m"}"#).await.unwrap().id();
    world.stop_server().await;
    world.config.retires = true;
    world.start_server().await;
    ask(&world, &world.token).await.refuses(403, "FORBIDDEN");
    let refused = ask(&world, ADMIN).await;
    refused.refuses(409, "SERVER_IN_USE");
    let words = refused.json["message"].as_str().unwrap();
    assert!(words.starts_with("1 sandboxes"), "{words}");

    // One more, which is not there yet.
    world.followed().await;
    world.node.on_create(CreateBehaviour::Hold);
    let creating = world.create(r#"{"timeout":"5m"}"#);
    let asking = async {
        eventually("the node is asked", async || {
            (world.node.created().len() == 2).then_some(())
        })
        .await;
        world.delete(&format!("/api/v3/sandbox/{adopted}")).await;
        world.until_state(&adopted, "stopped").await;
        ask(&world, ADMIN).await.refuses(409, "SERVER_IN_USE");
        world.node.on_create(CreateBehaviour::Succeed);
    };
    let (created, ()) = tokio::join!(creating, asking);
    let id = created.unwrap().id();
    world.delete(&format!("/api/v3/sandbox/{id}")).await;
    let retired = eventually("nobody needs it", async || {
        let answer = ask(&world, ADMIN).await;
        (answer.status == 202).then_some(answer)
    })
    .await;
    assert_eq!(retired.json["status"], "ending");

    // Asked again it says the same, and whoever comes now is told.
    assert_eq!(ask(&world, ADMIN).await.status, 202);
    let refused = world.create("{}").await.unwrap_err();
    refused.refuses(503, "SERVER_ENDING");
    assert!(world.node.sandboxes().is_empty());
}
