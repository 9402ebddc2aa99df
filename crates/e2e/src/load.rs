//! Work in several sandboxes at once, all of it checked: whatever a command
//! answers, it must answer in time, and what it calls a success must be one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::World;

/// A call that is under way when something dies is answered within this.
pub const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Work that goes on until it is told to stop.
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<anyhow::Result<Answers>>,
    stop: Arc<AtomicBool>,
}

/// How many commands were answered, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Did what they were to do.
    pub done: u32,
    /// Said that they could not.
    pub refused: u32,
    /// How long the slowest answer took.
    pub slowest: Duration,
}

impl Load {
    /// Begins: in each sandbox one command after the other, and beside them
    /// sandboxes that are created and ended.
    pub fn start(world: &Arc<World>, sandboxes: &[String], random: &mut Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = JoinSet::new();
        for id in sandboxes {
            let (world, id, stop) = (Arc::clone(world), id.clone(), Arc::clone(&stop));
            workers.spawn(work(world, id, stop, random.fork()));
        }
        workers.spawn(come_and_go(Arc::clone(world), Arc::clone(&stop)));
        Self { workers, stop }
    }

    /// Stops, and answers what came of it; fails when a command was not
    /// answered or lied.
    pub async fn finish(mut self) -> anyhow::Result<Answers> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Answers::default();
        while let Some(answers) = self.workers.join_next().await {
            all.add(answers??);
        }
        Ok(all)
    }
}

impl Answers {
    /// Counts others as well.
    pub fn add(&mut self, others: Self) {
        self.done += others.done;
        self.refused += others.refused;
        self.slowest = self.slowest.max(others.slowest);
    }

    fn count(&mut self, is_done: bool, begun: Instant) {
        self.add(Self {
            done: u32::from(is_done),
            refused: u32::from(!is_done),
            slowest: begun.elapsed(),
        });
    }
}

async fn work(
    world: Arc<World>,
    id: String,
    stop: Arc<AtomicBool>,
    mut random: Rng,
) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let step = async {
            match random.u8(..3) {
                0 => say(&world, &id, random.u32(..)).await,
                1 => transfer(&world, &id, random.u32(..)).await,
                _ => list(&world, &id).await,
            }
        };
        let is_done = timeout(ANSWER_MAX, step).await.context("no answer")??;
        answers.count(is_done, begun);
    }
    Ok(answers)
}

/// A command whose output is known.
async fn say(world: &World, id: &str, word: u32) -> anyhow::Result<bool> {
    let script = format!("echo {word}; sleep 0.1; echo {word} >&2");
    let output = world.shell(id, &script).await?;
    let is_done = output.status.success();
    let said = output.stdout_text();
    ensure!(!is_done || said.trim() == word.to_string(), "not {said}");
    Ok(is_done)
}

/// A file there and back again.
async fn transfer(world: &World, id: &str, word: u32) -> anyhow::Result<bool> {
    let directory = tempfile::tempdir()?;
    let (there, back) = (
        directory.path().join("there"),
        directory.path().join("back"),
    );
    fs_err::write(&there, word.to_string().repeat(10_000))?;
    let place = format!("{id}:/tmp/{word}");
    let copies = [
        [there.to_string_lossy(), (&place).into()],
        [(&place).into(), back.to_string_lossy()],
    ];
    for [from, to] in &copies {
        let copy = world.tombolo(["sandbox", "copy", from, to]);
        if !copy.output().await?.status.success() {
            return Ok(false);
        }
    }
    let is_whole = fs_err::read(there)? == fs_err::read(back)?;
    ensure!(is_whole, "what came back is not what went there");
    Ok(true)
}

async fn list(world: &World, id: &str) -> anyhow::Result<bool> {
    let list = world.tombolo(["sandbox", "list", "--json"]);
    let output = list.output().await?;
    let is_done = output.status.success();
    let is_listed = output.stdout_text().contains(id);
    ensure!(!is_done || is_listed, "{id} is not listed");
    Ok(is_done)
}

async fn come_and_go(world: Arc<World>, stop: Arc<AtomicBool>) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let step = async {
            match world.create().await {
                Ok(id) => world.kill(&id).await.is_ok(),
                Err(_refused) => false,
            }
        };
        let is_done = timeout(ANSWER_MAX, step).await.context("no answer")?;
        answers.count(is_done, begun);
    }
    Ok(answers)
}
