//! Files of real sandboxes, as a person sees them change.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tombolo_e2e::{World, with_world};
use tombolo_testkit::within;

const LIMIT: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn changes_in_a_sandbox_are_printed() {
    with_world(LIMIT, changes).await;
}

async fn changes(world: Arc<World>) -> anyhow::Result<()> {
    let id = world.create().await?;
    world
        .shell(&id, "mkdir -p tree/dir && touch tree/old")
        .await?;
    let args = ["sandbox", "watch", &id, "tree", "--recursive", "--json"];
    let watch = world.tombolo(args);
    let mut watch = watch.spawn(Stdio::null(), Stdio::piped(), Stdio::inherit())?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    // It is not known when the watch begins: there is something to tell until it has.
    let first = async {
        loop {
            world.shell(&id, "touch tree/old").await?;
            let told = tokio::time::timeout(Duration::from_millis(500), lines.next_line());
            if let Ok(line) = told.await {
                return anyhow::Ok(line?);
            }
        }
    };
    first.await?.context("the watch ended")?;
    let script = "mv tree/old tree/new && mkdir -p tree/made/below && \
                  echo x > tree/made/below/file && rm -r tree/dir && mkdir tree/end";
    world.shell(&id, script).await?;
    let mut seen = Vec::new();
    loop {
        let line = within("a change", lines.next_line()).await?;
        let change: Value = serde_json::from_str(&line.context("the watch ended")?)?;
        let text = |field: &str| {
            change
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        if text("path") == "tree/end" {
            break;
        }
        if !matches!(text("kind"), "metadata" | "modified") {
            seen.push(format!(
                "{} {} {}",
                text("kind"),
                text("path"),
                text("from")
            ));
        }
    }
    let expected = [
        "renamed tree/new tree/old",
        "created tree/made ",
        "created tree/made/below ",
        "created tree/made/below/file ",
        "removed tree/dir ",
    ];
    ensure!(seen == expected, "{seen:?}");
    // The command ends with the sandbox.
    world.kill(&id).await?;
    let ended = within("the end", watch.wait()).await?;
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}
