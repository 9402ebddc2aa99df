//! What happens when something runs out: places for sandboxes, the machine's
//! disk, a sandbox's own. Everybody is told so, and all works again when there
//! is room.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tombolo_e2e::{ANSWER_MAX, Footprint, Options, World, with_world, with_world_of};
use tombolo_proc::Output;

const LIMIT: Duration = Duration::from_mins(6);
const CREATE_COUNT: usize = 12;
/// Enough for a server, its pool and a few sandboxes that write little.
const ROOM_MIB: u32 = 64;
static BLOCK: [u8; 64 * 1024] = [0x5a; 64 * 1024];

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_sandboxes_each_create_is_refused_by_name() {
    check_limit(&["--sandbox-limit", "5"], 5, "its limit is 5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_memory_each_create_is_refused_by_name() {
    // Three times the usual size, and not quite a fourth.
    check_limit(&["--memory-limit-mib", "5000"], 3, "5000 MiB").await;
}

/// Creates more sandboxes at once than wait in the pool and than may be.
async fn check_limit(flags: &[&'static str], allowed: usize, words: &'static str) {
    let options = Options {
        pool_size: 2,
        flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        ..Options::default()
    };
    with_world_of(options, LIMIT, async move |world| {
        let before = Footprint::at_rest(&world).await?;
        let mut creates = JoinSet::new();
        for _ in 0..CREATE_COUNT {
            let world = Arc::clone(&world);
            creates.spawn(async move { create(&world).await });
        }
        let mut made = Vec::new();
        while let Some(output) = creates.join_next().await {
            let output = output??;
            if output.status.success() {
                made.push(output.stdout_text().trim().to_owned());
            } else {
                let said = output.stderr_tail();
                ensure!(said.contains(words), "not refused clearly: {said}");
            }
        }
        ensure!(made.len() == allowed, "{} were made", made.len());
        for id in &made {
            world.shell_text(id, "true").await?;
        }
        let one = made.pop().context("one was made")?;
        world.kill(&one).await?;
        let next = world.create().await?;
        world.shell_text(&next, "true").await?;
        before.comes_back(&world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_everybody_is_answered_and_all_works_again_after_it() {
    let options = Options {
        room_mib: Some(ROOM_MIB),
        ..Options::default()
    };
    with_world_of(options, LIMIT, async |world| {
        let before = Footprint::at_rest(&world).await?;
        let (quiet, writer) = (world.create().await?, world.create().await?);
        let ballast = Ballast::new(&world);
        ballast.fill()?;
        // Whoever does not need the disk does not notice.
        world.shell_text(&quiet, "echo still here").await?;
        let refused = create(&world).await?;
        let said = refused.stderr_tail();
        ensure!(!refused.status.success(), "there is no room for it");
        ensure!(said.contains("is full"), "not refused clearly: {said}");
        // What the refused one gave back is taken again.
        ballast.fill()?;
        let write = "dd if=/dev/urandom of=full bs=1M count=16 conv=fsync";
        let failed = answer(world.shell(&writer, write)).await?;
        ensure!(!failed.status.success(), "there is no room for that");
        answer(world.shell(&writer, "true")).await?;
        world.shell_text(&quiet, "echo still here").await?;
        // Ending a sandbox is how a person makes room.
        world.kill(&writer).await?;

        ballast.remove()?;
        world
            .shell_text(&quiet, "echo kept > f && sync && cat f")
            .await?;
        let next = world.create().await?;
        world.shell_text(&next, write).await?;
        let listed = world.list().await?;
        let state = listed.get(&writer).map(String::as_str);
        ensure!(state == Some("stopped"), "{writer} is {state:?}");
        before.comes_back(&world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_fills_its_own_disk_is_told_so() {
    with_world(LIMIT, async |world| {
        let id = world.create().await?;
        let too_much = world.shell(&id, "fallocate --length 100G over").await?;
        ensure!(!too_much.status.success());
        ensure!(too_much.stderr_tail().contains("No space left on device"));
        let nearly = "rm -f over; room=$(df --output=avail -k / | tail -n 1); \
                      fallocate --length $((room - 4096))K nearly";
        world.shell_text(&id, nearly).await?;

        let written = world.shell(&id, "dd if=/dev/urandom of=rest bs=1M count=16");
        let written = answer(written).await?;
        ensure!(!written.status.success(), "there is no room for that");
        let said = written.stderr_tail();
        ensure!(said.contains("No space left on device"), "{said}");
        let large = tempfile::NamedTempFile::new()?;
        fs_err::write(large.path(), BLOCK.repeat(256))?;
        let (from, to) = (large.path().to_string_lossy(), format!("{id}:large"));
        let copied = world.tombolo(["sandbox", "copy", &from, &to]);
        let copied = timeout(ANSWER_MAX, copied.output()).await??;
        ensure!(!copied.status.success(), "there is no room for that");
        let said = copied.stderr_tail().to_lowercase();
        ensure!(said.contains("no space left"), "{said}");

        world.shell_text(&id, "rm -f nearly rest large").await?;
        world.tombolo(["sandbox", "copy", &from, &to]).run().await?;
        Ok(())
    })
    .await;
}

async fn create(world: &World) -> anyhow::Result<Output> {
    let create = world.tombolo(["sandbox", "create", "--timeout", "10m"]);
    answer(async { Ok(create.output().await?) }).await
}

/// Any answer, as long as there is one.
async fn answer(call: impl Future<Output = anyhow::Result<Output>>) -> anyhow::Result<Output> {
    timeout(ANSWER_MAX, call).await.context("no answer")?
}

/// A file that takes what room there is.
struct Ballast(PathBuf);

impl Ballast {
    fn new(world: &World) -> Self {
        Self(world.state().join("ballast"))
    }

    fn fill(&self) -> anyhow::Result<()> {
        let mut file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)?;
        for block in [&BLOCK[..], &BLOCK[..1]] {
            // As much as goes in, down to the last page.
            while file.write_all(block).is_ok() {}
        }
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        Ok(fs_err::remove_file(&self.0)?)
    }
}
