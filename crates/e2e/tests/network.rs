//! Network and secrets as a person meets them: the example of the README on the
//! command line, a host that the test itself runs, and changes while a sandbox
//! lives.
#![expect(
    clippy::tests_outside_test_module,
    clippy::expect_used,
    reason = "all of this file is a test"
)]

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;
use tombolo_e2e::upstream::{Upstream, example};
use tombolo_e2e::{Options, World, with_world_of};
use tombolo_proc::Command;

/// Everything here takes seconds.
const LIMIT: Duration = Duration::from_mins(3);
/// Until something that must happen has happened.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until a flow that is no longer allowed is over.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Until a record of a call is shown, if anybody listened.
const LISTENS_WITHIN: Duration = Duration::from_secs(2);
const KEY: &str = "sk-example-0123456789";
const PLACEHOLDER: &str = "DENO_SECRET_PLACEHOLDER_";

async fn with_upstream<Body>(body: impl FnOnce(Arc<World>, Upstream) -> Body)
where
    Body: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let upstream = Upstream::start().await.expect("the host starts");
    let options = Options {
        pool_size: 1,
        flags: upstream.flags(),
        ..Options::default()
    };
    with_world_of(options, LIMIT, |world| body(world, upstream)).await;
}

/// The program that the example's README shows, as it is written there, but
/// for the program's place.
fn shown_program() -> anyhow::Result<String> {
    let page = fs_err::read_to_string(example().join("README.md"))?;
    let mut blocks = page.split("```sh\n").skip(1);
    let block = blocks.find(|block| block.contains("--secret API_KEY@"));
    let program = block.and_then(|block| block.split("```").next());
    let program = program.context("the README shows no program")?;
    let (build, place) = ("cargo run --release --", "export TOMBOLO_CONFIG=");
    ensure!(
        program.contains(build) && program.contains(place),
        "{program}"
    );
    let lines = program.lines().filter(|line| !line.starts_with(place));
    let lines: Vec<_> = lines.collect();
    Ok(lines.join("\n").replace(build, "\"$TOMBOLO\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs_as_its_page_shows_it() {
    with_upstream(|world, mut upstream| async move {
        let program = Command::new("bash")
            .args(["-euc", &shown_program()?])
            .env("TOMBOLO", world.binary())
            .env("TOMBOLO_STATE_DIR", world.state())
            .env("TOMBOLO_CONFIG", upstream.config())
            .deadline(PATIENCE * 2);
        let text = program.run().await?.stdout_text();
        let lines: Vec<&str> = text.lines().collect();
        let [placeholder, echo, refusal] = lines.as_slice() else {
            anyhow::bail!("three lines are expected: {text}");
        };
        ensure!(placeholder.starts_with(PLACEHOLDER), "{text}");
        let echo: Value = serde_json::from_str(echo)?;
        ensure!(
            echo["authorization"] == format!("Bearer {placeholder}"),
            "{text}"
        );
        let refusal: Value = serde_json::from_str(refusal)?;
        ensure!(refusal["error"] == "egress_denied", "{text}");
        ensure!(refusal["rule"] == "default", "{text}");
        ensure!(!text.contains(KEY), "{text}");
        upstream.says(&format!("Bearer {KEY}")).await
    })
    .await;
}

/// What `curl` brings from the host, with the key in a header.
const CALL: &str = "curl -s -m 20 -H \"authorization: $API_KEY\" https://api.example.com/call";

#[tokio::test(flavor = "multi_thread")]
async fn policy_and_secrets_change_while_a_sandbox_lives() {
    with_upstream(|world, mut upstream| async move {
        let create = [
            "sandbox",
            "create",
            "--allow-net",
            "api.example.com",
            "--secret",
            "API_KEY@api.example.com",
        ];
        let created = world.tombolo(create).env("API_KEY", KEY).run().await?;
        let id = created.stdout_text().trim().to_owned();
        let mut tail = tail(&world, &id)?;
        // It shows what happens once it listens, and says nothing before that.
        let record = loop {
            let echo = world.shell_text(&id, CALL).await?;
            ensure!(echo.contains(PLACEHOLDER), "{echo}");
            upstream.says(KEY).await?;
            let record = tail.next(|record| record["path"] == "/call");
            if let Ok(record) = timeout(LISTENS_WITHIN, record).await {
                break record?;
            }
        };
        ensure!(record["secrets"][0]["name"] == "API_KEY", "{record}");
        ensure!(record["scrubbed"] == 1, "{record}");

        let put = ["egress", "secret", "put", &id, "API_KEY"];
        let rotated = "sk-rotated-9876543210";
        world.tombolo(put).env("API_KEY", rotated).run().await?;
        let echo = world.shell_text(&id, CALL).await?;
        ensure!(echo.contains(PLACEHOLDER), "{echo}");
        upstream.says(rotated).await?;

        let revoke = ["egress", "secret", "revoke", &id, "API_KEY"];
        world.tombolo(revoke).run().await?;
        let refused = world.shell_text(&id, CALL).await?;
        ensure!(refused.contains("secret_revoked"), "{refused}");
        explain(&world, &id).await?;
        flow_ends_with_its_permission(&world, &id).await?;
        let denied = tail
            .next(|record| record["reason"] == "network_off")
            .await?;
        ensure!(denied["decision"] == "deny", "{denied}");
        let top = world
            .tombolo(["egress", "top", &id, "--json"])
            .run()
            .await?;
        let top: Value = serde_json::from_str(&top.stdout_text())?;
        ensure!(
            top[0]["host"] == "api.example.com" && top[0]["scrubbed"].as_u64() >= Some(2),
            "{top}"
        );
        Ok(())
    })
    .await;
}

async fn explain(world: &World, id: &str) -> anyhow::Result<()> {
    for (url, code, words) in [
        ("https://api.example.com/x", 0, "allowed"),
        ("https://evil.example/x", 1, "not_listed"),
    ] {
        let explained = world.tombolo(["egress", "explain", id, "GET", url]);
        let explained = explained.output().await?;
        let text = explained.stdout_text();
        ensure!(explained.status.code() == Some(code), "{url}: {text}");
        ensure!(text.contains(words), "{url}: {text}");
    }
    Ok(())
}

/// A connection that is open and idle is over soon after the policy closed its host.
async fn flow_ends_with_its_permission(world: &Arc<World>, id: &str) -> anyhow::Result<()> {
    let program = "import socket, ssl\n\
                   raw = socket.create_connection(('api.example.com', 443))\n\
                   flow = ssl.create_default_context().wrap_socket(raw, server_hostname='api.example.com')\n\
                   print('open', flush=True)\n\
                   try:\n    print('end', flow.recv(1))\n\
                   except OSError as error:\n    print('end', error)\n";
    let mut flow = world
        .tombolo(["sandbox", "exec", id, "--", "python3", "-c", program])
        .kill_on_drop(true)
        .spawn(Stdio::null(), Stdio::piped(), Stdio::inherit())?;
    let output = flow.stdout.take().context("its output is piped")?;
    let mut said = BufReader::new(output).lines();
    let opened = timeout(PATIENCE, said.next_line()).await??;
    ensure!(opened.as_deref() == Some("open"), "{opened:?}");
    let set = world.tombolo(["egress", "policy", "set", id, "--no-net"]);
    ensure!(set.run().await?.stdout_text().starts_with("generation "));
    let ended = timeout(ENDS_WITHIN, said.next_line()).await;
    let ended = ended.context("the flow goes on")??;
    ensure!(ended.is_some_and(|line| line.starts_with("end")));
    let refused = world.shell_text(id, CALL).await?;
    ensure!(refused.contains("network_off"), "{refused}");
    Ok(())
}

/// `tombolo egress tail`.
struct Tail {
    records: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

fn tail(world: &World, id: &str) -> anyhow::Result<Tail> {
    let tail = world.tombolo(["egress", "tail", id, "--json"]);
    let mut process =
        tail.kill_on_drop(true)
            .spawn(Stdio::null(), Stdio::piped(), Stdio::inherit())?;
    let output = process.stdout.take().context("its output is piped")?;
    Ok(Tail {
        records: BufReader::new(output).lines(),
        _process: process,
    })
}

impl Tail {
    /// The next record that is meant.
    async fn next(&mut self, is_meant: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let search = async {
            while let Some(line) = self.records.next_line().await? {
                let record: Value = serde_json::from_str(&line)?;
                if is_meant(&record) {
                    return Ok(record);
                }
            }
            anyhow::bail!("the records have ended")
        };
        timeout(PATIENCE, search).await.context("no such record")?
    }
}
