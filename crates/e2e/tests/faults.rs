//! What happens when a part of Tombolo dies: nothing hangs, nothing leaks, and
//! what lives on is found again.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tombolo_e2e::{World, with_world};
use tombolo_proc::Output;

const LIMIT: Duration = Duration::from_mins(8);
/// How long a part that was killed may take until all works again.
const RECOVERY_MAX: Duration = Duration::from_mins(1);
/// A call that is under way when something dies is answered within this.
const ANSWER_MAX: Duration = Duration::from_mins(1);
const SANDBOX_COUNT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_outlive_their_node() {
    with_world(LIMIT, async |world| {
        let mut sandboxes = Vec::new();
        for _ in 0..SANDBOX_COUNT {
            let id = world.create().await?;
            let leave = "nohup sleep 4321 >/dev/null 2>&1 & echo $! > /tmp/pid";
            world.shell_text(&id, leave).await?;
            sandboxes.push(id);
        }
        kill(child(&world, "node")?)?;
        for id in &sandboxes {
            works_again(&world, id, "kill -0 $(cat /tmp/pid)").await?;
        }
        let listed = world.tombolo(["sandbox", "list", "--json"]).run().await?;
        let listed = listed.stdout_text();
        for id in &sandboxes {
            ensure!(listed.contains(id.as_str()), "{id} is not listed");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_is_answered_whatever_dies_and_the_rest_lives_on() {
    with_world(LIMIT, async |world| {
        let witness = world.create().await?;
        let leave = "nohup sleep 4321 >/dev/null 2>&1 & echo $! > /tmp/pid";
        world.shell_text(&witness, leave).await?;
        for part in ["server", "node"] {
            let id = world.create().await?;
            let call = start(&world, &id, "echo begun; sleep 5");
            let begun = || is_running(&world, &id, "sleep 5");
            wait_for(begun).await?;
            kill(child(&world, part)?)?;
            // Finished after all or refused: either is an answer.
            let answer = timeout(ANSWER_MAX, call).await;
            answer
                .with_context(|| format!("killing the {part} leaves a call without answer"))??
                .context("the client itself could not run")?;
            works_again(&world, &witness, "kill -0 $(cat /tmp/pid)").await?;
            works_again(&world, &id, "true").await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_killed_ends_its_sandbox_and_no_other() {
    with_world(LIMIT, async |world| {
        let (victim, witness) = (world.create().await?, world.create().await?);
        let call = start(&world, &victim, "sleep 100");
        wait_for(|| is_running(&world, &victim, "sleep 100")).await?;
        kill(machine(&world, &victim)?)?;
        let answer = timeout(ANSWER_MAX, call).await.context("no answer")???;
        ensure!(
            !answer.status.success(),
            "the command cannot have succeeded"
        );
        world.shell_text(&witness, "true").await?;
        let stopped = || async {
            let list = world.tombolo(["sandbox", "list", "--json"]).run().await;
            let list = list.map(|output| output.stdout_text().clone());
            list.is_ok_and(|list| state_of(&list, &victim).as_deref() == Some("stopped"))
        };
        wait_for(stopped).await?;
        let refused = world.shell(&victim, "true").await?;
        ensure!(!refused.status.success(), "a stopped sandbox runs nothing");
        Ok(())
    })
    .await;
}

/// Leaves a command under way; its client is answered when it ends.
fn start(world: &Arc<World>, id: &str, script: &'static str) -> JoinHandle<anyhow::Result<Output>> {
    let (world, id) = (Arc::clone(world), id.to_owned());
    tokio::spawn(async move { world.shell(&id, script).await })
}

/// Tries until a command works in the sandbox; each try is itself bounded.
async fn works_again(world: &World, id: &str, script: &str) -> anyhow::Result<()> {
    let works = || async {
        let output = timeout(ANSWER_MAX, world.shell(id, script)).await;
        matches!(output, Ok(Ok(output)) if output.status.success())
    };
    timeout(RECOVERY_MAX, eventually_async(works))
        .await
        .with_context(|| format!("{id}: `{script}` does not work again"))
}

async fn wait_for<F: Future<Output = bool>>(condition: impl Fn() -> F) -> anyhow::Result<()> {
    timeout(RECOVERY_MAX, eventually_async(condition))
        .await
        .context("what was waited for does not come")
}

async fn eventually_async<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn is_running(world: &World, id: &str, command: &str) -> bool {
    let look = format!("pgrep -f '^{command}'");
    world
        .shell(id, &look)
        .await
        .is_ok_and(|output| output.status.success())
}

fn state_of(list: &str, id: &str) -> Option<String> {
    let rows: serde_json::Value = serde_json::from_str(list).ok()?;
    let rows = rows.as_array()?;
    let row = rows.iter().find(|row| row["id"] == id)?;
    row["state"].as_str().map(str::to_owned)
}

/// The process of this part, below the server that the test started.
fn child(world: &World, part: &str) -> anyhow::Result<Pid> {
    let state = world.state().to_string_lossy().into_owned();
    let processes = processes();
    let supervisor = processes
        .iter()
        .find(|process| process.is("up") && process.command.join(" ").contains(&state))
        .context("the supervisor does not run")?;
    let child = processes
        .iter()
        .find(|process| process.parent == supervisor.pid && process.is(part))
        .with_context(|| format!("no {part} runs"))?;
    Pid::from_raw(child.pid).context("a pid")
}

/// The process that runs a sandbox, by the node's record of it.
fn machine(world: &World, id: &str) -> anyhow::Result<Pid> {
    for entry in fs_err::read_dir(world.state().join("vms"))? {
        let Ok(record) = fs_err::read_to_string(entry?.path().join("record.json")) else {
            continue;
        };
        let record: serde_json::Value = serde_json::from_str(&record)?;
        if record["sandbox"] == id {
            let pid = record["pid"].as_i64().context("a pid")?;
            return Pid::from_raw(i32::try_from(pid)?).context("a pid");
        }
    }
    anyhow::bail!("no machine belongs to {id}")
}

fn kill(pid: Pid) -> anyhow::Result<()> {
    Ok(kill_process(pid, Signal::KILL)?)
}

struct Process {
    pid: i32,
    parent: i32,
    command: Vec<String>,
}

impl Process {
    fn is(&self, part: &str) -> bool {
        self.command.iter().any(|word| word == part)
    }
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs_err::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

fn process(pid: i32) -> Option<Process> {
    let command = fs_err::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(Process {
        pid,
        parent: fields.split_whitespace().nth(1)?.parse().ok()?,
        command: command.split('\0').map(str::to_owned).collect(),
    })
}
