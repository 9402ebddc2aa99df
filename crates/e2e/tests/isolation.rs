//! What a sandbox cannot do to the host or to another sandbox, tried from
//! inside with everything a root user of the guest has.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;
use tombolo_e2e::host::{has_cgroup, processes};
use tombolo_e2e::{Footprint, World, with_world};
use tombolo_testkit::eventually;

const LIMIT: Duration = Duration::from_mins(6);
/// How many times `true` runs to measure a neighbour.
const EXEC_COUNT: usize = 30;
/// The promise is 2; the machines that run this test are busy with others
/// and have two processors, which three emulated guests share with the test.
const SLOWDOWN_MAX: f64 = 4.0;
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

        let interfaces = world.shell_text(&id, "ls /sys/class/net").await?;
        ensure!(interfaces.trim() == "lo", "{interfaces}");
        let port = world.url().rsplit(':').next().context("a port")?;
        for address in ["127.0.0.1", "10.0.2.2", "169.254.169.254", "1.1.1.1"] {
            let dial = format!("sudo timeout 5 bash -c '</dev/tcp/{address}/{port}'");
            let output = world.shell(&id, &dial).await?;
            // Refused at once: not even a lost packet leaves.
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
#[ignore = "does not hold yet: beside a fork bomb the slowest of 30 took 1.7 s, idle 68 ms"]
async fn a_wild_sandbox_leaves_its_neighbour_in_peace() {
    let wild = [
        ("fork bomb", "f() { f | f & }; f; sleep 600"),
        (
            "memory hog",
            "exec python3 -c 'x = b\"x\"\nwhile True: x += x'",
        ),
        (
            "disk filler",
            "exec dd if=/dev/zero of=/home/app/full bs=1M",
        ),
    ];
    with_world(LIMIT, async move |world| {
        let quiet = world.create().await?;
        slowest(&world, &quiet).await?;
        let idle = slowest(&world, &quiet).await?;
        let mut bad: Vec<&str> = Vec::new();
        for (name, script) in wild {
            let id = world.create().await?;
            let exec = ["sandbox", "exec", &id, "--", "bash", "-c", script];
            let command = world.tombolo(exec);
            let running = tokio::spawn(async move { command.output().await });
            let busy = slowest(&world, &quiet).await?;
            world.tombolo(["sandbox", "kill", &id]).run().await?;
            running.await?.ok();
            let ratio = busy.as_secs_f64() / idle.as_secs_f64();
            println!(
                "{name}: the slowest of {EXEC_COUNT} took {busy:?}, idle {idle:?}, {ratio:.1} times"
            );
            if ratio > SLOWDOWN_MAX {
                bad.push(name);
            }
        }
        ensure!(bad.is_empty(), "{bad:?}");
        Ok(())
    })
    .await;
}

/// The slowest of many runs of `true`: of so few, that is their p99.
async fn slowest(world: &World, id: &str) -> anyhow::Result<Duration> {
    let mut all = Vec::new();
    for _ in 0..EXEC_COUNT {
        let begun = Instant::now();
        world
            .tombolo(["sandbox", "exec", id, "--", "true"])
            .run()
            .await?;
        all.push(begun.elapsed());
    }
    all.sort();
    Ok(all[EXEC_COUNT - 1])
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
