//! What happens when a part of Tombolo dies: nothing hangs, nothing leaks, and
//! what lives on is found again.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tombolo_e2e::host::{kill, machine, part};
use tombolo_e2e::{ANSWER_MAX, Answers, Footprint, Load, World, with_world};
use tombolo_proc::Output;

const LIMIT: Duration = Duration::from_mins(8);
/// How long a part that was killed may take until all works again.
const RECOVERY_MAX: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const SANDBOX_COUNT: usize = 20;
/// Repeats the moments of an earlier run.
const SEED_VARIABLE: &str = "TOMBOLO_TEST_SEED";
/// Sandboxes at work while parts die.
const LOADED_COUNT: usize = 3;
/// How often each part dies.
const ROUND_COUNT: usize = 2;
/// Within how much of the work it dies.
const MOMENT_MAX_MILLIS: u64 = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_outlive_their_node() {
    with_world(LIMIT, async |world| {
        let before = Footprint::at_rest(&world).await?;
        let mut sandboxes = Vec::new();
        for _ in 0..SANDBOX_COUNT {
            let id = world.create().await?;
            let leave = "nohup sleep 4321 >/dev/null 2>&1 & echo $! > /tmp/pid";
            world.shell_text(&id, leave).await?;
            sandboxes.push(id);
        }
        kill(part(&world, "node")?)?;
        for id in &sandboxes {
            works_again(&world, id, "kill -0 $(cat /tmp/pid)").await?;
        }
        let listed = world.list().await?;
        for id in &sandboxes {
            let state = listed.get(id).map(String::as_str);
            ensure!(state == Some("running"), "{id} is {state:?}");
        }
        before.comes_back(&world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_is_answered_whatever_dies_and_the_rest_lives_on() {
    with_world(LIMIT, async |world| {
        let before = Footprint::at_rest(&world).await?;
        let witness = world.create().await?;
        let leave = "nohup sleep 4321 >/dev/null 2>&1 & echo $! > /tmp/pid";
        world.shell_text(&witness, leave).await?;
        for name in ["server", "node", "egress-proxy"] {
            let id = world.create().await?;
            let call = start(&world, &id, "echo begun; sleep 5");
            let begun = || is_running(&world, &id, "sleep 5");
            wait_for(begun).await?;
            kill(part(&world, name)?)?;
            // Finished after all or refused: either is an answer.
            let answer = timeout(ANSWER_MAX, call).await;
            answer
                .with_context(|| format!("killing the {name} leaves a call without answer"))??
                .context("the client itself could not run")?;
            works_again(&world, &witness, "kill -0 $(cat /tmp/pid)").await?;
            works_again(&world, &id, "true").await?;
        }
        before.comes_back(&world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_killed_ends_its_sandbox_and_no_other() {
    with_world(LIMIT, async |world| {
        let before = Footprint::at_rest(&world).await?;
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
        wait_for(|| is_stopped(&world, &victim)).await?;
        let refused = world.shell(&victim, "true").await?;
        ensure!(!refused.status.success(), "a stopped sandbox runs nothing");
        before.comes_back(&world).await
    })
    .await;
}

/// What dies, or has somebody try to kill it.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Server,
    Node,
    Both,
    Machine,
    /// PID 1 of a guest, which takes no harm from what is inside.
    Agent,
}

const VICTIMS: [Victim; 5] = [
    Victim::Server,
    Victim::Node,
    Victim::Both,
    Victim::Machine,
    Victim::Agent,
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_at_whatever_moment_everybody_is_answered() {
    let seed = seed();
    println!("{SEED_VARIABLE}={seed} repeats the moments of this run");
    with_world(LIMIT, async move |world| {
        let mut random = Rng::with_seed(seed);
        let before = Footprint::at_rest(&world).await?;
        let mut sandboxes = Vec::new();
        for _ in 0..LOADED_COUNT {
            sandboxes.push(create_with_process(&world).await?);
        }
        let mut victims = VICTIMS.repeat(ROUND_COUNT);
        random.shuffle(&mut victims);
        let mut all = Answers::default();
        for victim in victims {
            let load = Load::start(&world, &sandboxes, &mut random);
            let moment = Duration::from_millis(random.u64(..MOMENT_MAX_MILLIS));
            tokio::time::sleep(moment).await;
            let struck = strike(&world, victim, &mut sandboxes, &mut random).await;
            let answers = load.finish().await;
            let answers = answers.with_context(|| format!("{victim:?} after {moment:?}"))?;
            let dead = struck.with_context(|| format!("{victim:?} after {moment:?}"))?;
            println!("{victim:?} after {moment:?}: {answers:?}");
            all.add(answers);
            if let Some(dead) = dead {
                wait_for(|| is_stopped(&world, &dead)).await?;
                ensure!(!world.shell(&dead, "true").await?.status.success());
                sandboxes.push(create_with_process(&world).await?);
            }
            for id in &sandboxes {
                works_again(&world, id, "kill -0 $(cat /tmp/pid)").await?;
            }
        }
        println!("all: {all:?}");
        ensure!(all.done > all.refused, "hardly anything works: {all:?}");
        before.comes_back(&world).await
    })
    .await;
}

fn seed() -> u64 {
    let given = std::env::var_os(SEED_VARIABLE);
    given.map_or_else(
        || Rng::new().u64(..),
        |text| {
            text.to_string_lossy()
                .parse()
                .expect("the seed is a number")
        },
    )
}

/// A sandbox with a process that must outlive everything but the sandbox.
async fn create_with_process(world: &World) -> anyhow::Result<String> {
    // Whoever died just before may not be back yet.
    let id = timeout(RECOVERY_MAX, create_at_last(world)).await?;
    let leave = "nohup sleep 4321 >/dev/null 2>&1 & echo $! > /tmp/pid";
    world.shell_text(&id, leave).await?;
    Ok(id)
}

async fn create_at_last(world: &World) -> String {
    loop {
        if let Ok(id) = world.create().await {
            return id;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Kills, and answers which sandbox that ends.
async fn strike(
    world: &World,
    victim: Victim,
    sandboxes: &mut Vec<String>,
    random: &mut Rng,
) -> anyhow::Result<Option<String>> {
    let chosen = random.usize(..sandboxes.len());
    match victim {
        Victim::Server => kill(part(world, "server")?)?,
        Victim::Node => kill(part(world, "node")?)?,
        Victim::Both => {
            kill(part(world, "server")?)?;
            kill(part(world, "node")?)?;
        }
        Victim::Machine => {
            let id = sandboxes.swap_remove(chosen);
            kill(machine(world, &id)?)?;
            return Ok(Some(id));
        }
        Victim::Agent => {
            let id = sandboxes.get(chosen).context("one of them")?;
            let attempt = world.shell(id, "sudo kill -9 1; sudo kill -SEGV 1");
            timeout(ANSWER_MAX, attempt).await.context("no answer")??;
        }
    }
    Ok(None)
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
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn is_running(world: &World, id: &str, command: &str) -> bool {
    let look = format!("pgrep -f '^{command}'");
    world
        .shell(id, &look)
        .await
        .is_ok_and(|output| output.status.success())
}

async fn is_stopped(world: &World, id: &str) -> bool {
    let listed = world.list().await.unwrap_or_default();
    listed.get(id).is_some_and(|state| state == "stopped")
}
