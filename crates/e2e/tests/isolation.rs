//! What a sandbox cannot do to the host or to another sandbox, tried from
//! inside with everything a root user of the guest has.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tombolo_e2e::host::{has_cgroup, machine, processes};
use tombolo_e2e::{Footprint, World, with_world};
use tombolo_testkit::eventually;

const LIMIT: Duration = Duration::from_mins(6);
/// How many times `true` runs to measure a neighbour, in each of so many turns.
const EXEC_COUNT: usize = 20;
const ROUND_COUNT: usize = 5;
/// The promise is 2; the machines that run this test are busy with others
/// and have two processors, which three emulated guests share with the test.
const SLOWDOWN_MAX: f64 = 4.0;
/// In hundredths of a second.
const HARD_WORK_TICKS: u64 = 150;
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const CREATE_COUNT: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_reaches_nothing_of_the_host() {
    with_world(LIMIT, async |world| {
        let world = &*world;
        let id = world.create().await?;
        let secret = world.state().join("secret");
        fs_err::write(&secret, "of the host")?;

        let read = format!("sudo cat {}", secret.display());
        ensure!(!world.shell(&id, &read).await?.status.success());
        let mounts = world.shell_text(&id, "cat /proc/mounts").await?;
        for shared in ["9p", "virtiofs", "fuse"] {
            ensure!(!mounts.contains(&format!(" {shared}")), "{mounts}");
        }

        // The server's own arguments name the state directory.
        let state = world.state().to_string_lossy().into_owned();
        ensure!(
            processes()
                .iter()
                .any(|process| process.command.contains(&state))
        );
        let inside = "sudo sh -c 'cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ' | tr '\\0' ' '";
        let inside = world.shell_text(&id, inside).await?;
        ensure!(
            inside.contains("bash") && !inside.contains(&state),
            "{inside}"
        );

        let port = world.url().rsplit(':').next().context("a port")?;
        for address in ["127.0.0.1", "10.0.2.2", "169.254.169.254", "192.168.0.1"] {
            // The proxy takes every connection before it knows where to, and
            // resets it: what counts is whether anybody answers. To HTTP it
            // would say why not.
            let ask = format!(
                "exec 3<>/dev/tcp/{address}/{port} && echo SSH-2.0-x >&3 && read -r line <&3"
            );
            let output = world
                .shell(&id, &format!("timeout 5 bash -c '{ask}'"))
                .await?;
            // At once: nothing is lost in silence.
            ensure!(output.status.code() == Some(1), "{address}: {output:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sandboxes_do_not_see_each_other() {
    with_world(LIMIT, async |world| {
        let world = &*world;
        let (first, second) = (world.create().await?, world.create().await?);
        let leave = "touch /tmp/mark; nohup sleep 4321 >/dev/null 2>&1 &";
        world.shell_text(&first, leave).await?;
        let look = "ls /tmp; pgrep -f '^sleep 4321' || true";
        let seen = world.shell_text(&first, look).await?;
        ensure!(seen.lines().count() == 2, "{seen}");
        let seen = world.shell_text(&second, look).await?;
        ensure!(seen.trim().is_empty(), "{seen}");
        let identity = "cat /etc/machine-id /proc/sys/kernel/random/uuid; hostname";
        let one = world.shell_text(&first, identity).await?;
        let other = world.shell_text(&second, identity).await?;
        for (one, other) in one.lines().zip(other.lines()) {
            ensure!(one != other, "both are {one}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wild_sandbox_leaves_its_neighbour_in_peace() {
    let wild = [
        ("fork bomb", "f() { f | f & }; f; sleep 600"),
        (
            "memory hog",
            "while :; do python3 -c 'x = b\"x\"\nwhile True: x += x'; done",
        ),
        (
            // No zeros: those would never reach the host's disk.
            "disk filler",
            "head -c 64M /dev/urandom > block; while :; do cat block block > full; done",
        ),
    ];
    with_world(LIMIT, async move |world| {
        let quiet = world.create().await?;
        exec_times(&world, &quiet).await?;
        let mut bad: Vec<&str> = Vec::new();
        for (name, script) in wild {
            let id = world.create().await?;
            let process = machine(&world, &id)?;
            let exec = ["sandbox", "exec", &id, "--", "bash", "-c", script];
            let command = world.tombolo(exec);
            let running = tokio::spawn(async move { command.output().await });
            let slowdown = slowdown(&world, &quiet, process).await;
            kill_process(process, Signal::CONT)?;
            world.kill(&id).await?;
            running.await?.ok();
            let slowdown = slowdown?;
            println!("{name}: {}", slowdown.words);
            if slowdown.ratio > SLOWDOWN_MAX {
                bad.push(name);
            }
        }
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(())
    })
    .await;
}

struct Slowdown {
    ratio: f64,
    words: String,
}

/// How many times longer the slowest `exec` takes while the wild machine runs
/// than while it is stopped. Both are measured in turns, so that whatever else
/// the host does falls on both, and the median of the turns is what counts.
async fn slowdown(world: &World, quiet: &str, wild: Pid) -> anyhow::Result<Slowdown> {
    let (mut ratios, mut idle, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUND_COUNT {
        kill_process(wild, Signal::CONT)?;
        works_hard(wild).await?;
        let with = exec_times(world, quiet).await?;
        kill_process(wild, Signal::STOP)?;
        let without = exec_times(world, quiet).await?;
        let slowest = |times: &[Duration]| times.iter().max().map_or(0.0, Duration::as_secs_f64);
        ratios.push(slowest(&with) / slowest(&without));
        idle.extend(without);
        busy.extend(with);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ROUND_COUNT / 2];
    let words = format!(
        "the slowest of {EXEC_COUNT} takes {ratio:.1} times as long as beside nothing \
         ({ratios:.1?}); p50 {:?} for {:?}, p99 {:?} for {:?}",
        quantile(&mut busy, 50),
        quantile(&mut idle, 50),
        quantile(&mut busy, 99),
        quantile(&mut idle, 99),
    );
    Ok(Slowdown { ratio, words })
}

fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}

/// Waits until a machine has worked for a while, so that the host knows that
/// it is one that does.
async fn works_hard(process: Pid) -> anyhow::Result<()> {
    let ticks = || cpu_ticks(process).context("the wild machine has ended");
    let begun = ticks()?;
    while ticks()? < begun + HARD_WORK_TICKS {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// The processor time of a process, in hundredths of a second; see proc(5),
/// fields 14 and 15.
fn cpu_ticks(process: Pid) -> Option<u64> {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    let stat = fs_err::read_to_string(path).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u64>().ok();
    Some(field()? + field()?)
}

/// How long each of many runs of `true` takes: of so few, the slowest is their
/// p99.
async fn exec_times(world: &World, id: &str) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for _ in 0..EXEC_COUNT {
        let begun = Instant::now();
        world
            .tombolo(["sandbox", "exec", id, "--", "true"])
            .run()
            .await?;
        all.push(begun.elapsed());
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_leave_a_clean_host() {
    with_world(LIMIT, async |world| {
        let world = &*world;
        let before = Footprint::at_rest(world).await?;
        let mut ids = Vec::new();
        for _ in 0..CREATE_COUNT {
            let id = world.create().await?;
            world.shell_text(&id, "true").await?;
            world.kill(&id).await?;
            ids.push(id);
        }
        let listed = world.list().await?;
        for id in &ids {
            let state = listed.get(id).map(String::as_str);
            ensure!(state == Some("stopped"), "{id} is {state:?}");
        }
        before.comes_back(world).await
    })
    .await;
}

/// The directories of the machines that this server has now.
fn machines(world: &World) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs_err::read_dir(world.state().join("vms"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_leaves_no_machine() {
    let (send, receive) = tokio::sync::oneshot::channel();
    with_world(LIMIT, async |world| {
        world.create().await?;
        let names: Vec<String> = machines(&world)?
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        ensure!(names.iter().any(|name| has_cgroup(name)), "{names:?}");
        send.send(names).ok().context("somebody listens")
    })
    .await;
    let names = receive.await.unwrap();
    eventually("the control groups of its machines are gone", async || {
        names.iter().all(|name| !has_cgroup(name)).then_some(())
    })
    .await;
}
