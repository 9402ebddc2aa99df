//! Exposed ports as a person uses them: the command line, `curl`, and programs in real
//! sandboxes.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tombolo_e2e::{World, with_world};
use tombolo_proc::Command;

/// Everything here takes seconds.
const LIMIT: Duration = Duration::from_mins(3);
/// One question of `curl`, until a program listens included.
const PATIENCE: Duration = Duration::from_mins(1);

/// What `curl` gets of an address: the status, the version of HTTP, and the text. It knows
/// names below localhost by itself.
async fn curl(world: &World, url: &str, more: &[&str]) -> anyhow::Result<(String, String)> {
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--cacert"])
        .arg(world.ingress_root())
        .args(["--write-out", "\\n%{http_code} %{http_version}"])
        .args(more)
        .arg(url)
        .deadline(PATIENCE);
    let text = curl.run().await?.stdout_text();
    let (body, seen) = text.rsplit_once('\n').context("curl says no status")?;
    Ok((seen.to_owned(), body.to_owned()))
}

async fn expose(world: &World, id: &str, more: &[&str]) -> anyhow::Result<Value> {
    let args = ["sandbox", "expose", id, "8000", "--json"];
    let shown = world.tombolo(args).args(more).run().await?;
    Ok(serde_json::from_str(&shown.stdout_text())?)
}

fn text<'a>(shown: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    let found = shown.get(field).and_then(Value::as_str);
    found.with_context(|| format!("no {field} in {shown}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_reached_from_the_command_line_until_its_sandbox_ends() {
    with_world(LIMIT, visits).await;
}

async fn visits(world: Arc<World>) -> anyhow::Result<()> {
    let id = world.create().await?;
    let shown = expose(&world, &id, &[]).await?;
    let url = text(&shown, "url")?;
    let early = curl(&world, url, &[]).await?;
    ensure!(
        early.0 == "502 2" && early.1.contains("NOTHING_LISTENS"),
        "{early:?}"
    );
    let serve = "mkdir site\n\
                 echo hello > site/index.html\n\
                 setsid python3 -m http.server 8000 --directory site > /dev/null 2>&1 &";
    world.shell_text(&id, serve).await?;
    let retry = [
        "--retry",
        "50",
        "--retry-delay",
        "1",
        "--retry-all-errors",
        "--fail",
    ];
    for (more, seen) in [(&["--http2"][..], "200 2"), (&["--http1.1"], "200 1.1")] {
        let more = [more, &retry].concat();
        let answer = curl(&world, url, &more).await?;
        ensure!(
            answer == (seen.to_owned(), "hello\n".to_owned()),
            "{more:?}: {answer:?}"
        );
    }
    private(&world, &id).await?;
    let upload = [
        "--request",
        "PUT",
        "--data-binary",
        "x",
        "--output",
        "/dev/null",
    ];
    let refused = curl(&world, url, &upload).await?;
    ensure!(
        refused.0 == "501 2",
        "the program's own refusal: {refused:?}"
    );
    let root = world
        .tombolo(["ingress", "root"])
        .run()
        .await?
        .stdout_text();
    ensure!(root.starts_with("-----BEGIN CERTIFICATE-----"), "{root}");
    world.kill(&id).await?;
    let ended = curl(&world, url, &[]).await?;
    ensure!(
        ended.0 == "410 2" && ended.1.contains("SANDBOX_STOPPED"),
        "{ended:?}"
    );
    Ok(())
}

/// One that takes a token, and is taken back.
async fn private(world: &World, id: &str) -> anyhow::Result<()> {
    let shown = expose(world, id, &["--private"]).await?;
    let (url, token) = (text(&shown, "url")?, text(&shown, "access_token")?);
    let header = format!("x-tombolo-access: {token}");
    let link = format!("{url}/?tombolo_access={token}");
    let cases = [
        (url, &[][..], "401 2"),
        (url, &["--header", &header], "200 2"),
        (&link, &[], "303 2"),
        (&link, &["--location", "--cookie", ""], "200 2"),
    ];
    for (url, more, expected) in cases {
        let answer = curl(world, url, more).await?;
        ensure!(answer.0 == expected, "{url} {more:?}: {answer:?}");
    }
    let listed = world.tombolo(["sandbox", "exposures", id]).run().await?;
    let listed = listed.stdout_text();
    ensure!(
        listed.contains("private") && !listed.contains(token),
        "{listed}"
    );
    let name = text(&shown, "name")?;
    world
        .tombolo(["sandbox", "unexpose", id, name])
        .run()
        .await?;
    let gone = curl(world, url, &[]).await?;
    ensure!(gone.0 == "404 2", "{gone:?}");
    Ok(())
}
