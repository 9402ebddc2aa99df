//! What a server under test takes of its host: processes, namespaces,
//! descriptors, files, mounts and control groups. Two footprints of the same
//! server without sandboxes must be equal, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::World;
use crate::host::{self, Process};

/// How long a server may take until nothing of what ended is left.
const SETTLE_MAX: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Made once for all tests, and grown by any of them.
const SHARED: [&str; 2] = ["artefacts", "templates"];
/// The server's database: its pool of connections opens and closes them as it
/// sees fit.
const DATABASE_DIR: &str = "server";
const NAMESPACES: [&str; 5] = ["mnt", "net", "pid", "ipc", "uts"];

/// How much there is of each kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    counts: BTreeMap<String, usize>,
    /// Machines that wait in the pool.
    waiting: usize,
    /// Of all servers of this host: those that were there before a test are
    /// not its own.
    empty_cgroups: BTreeSet<String>,
}

impl Footprint {
    /// The footprint of a server that has no sandbox any more and a full pool,
    /// which this waits for.
    pub async fn at_rest(world: &World) -> anyhow::Result<Self> {
        // What is opened at the first use and kept is no leak.
        let id = world.create().await?;
        world.shell_text(&id, "true").await?;
        world.kill(&id).await?;
        let give_up = Instant::now() + SETTLE_MAX;
        let mut before = Self::now(world)?;
        loop {
            sleep(LOOK_AGAIN).await;
            let now = Self::now(world)?;
            if now.waiting == world.pool_size() && now.counts == before.counts {
                return Ok(now);
            }
            ensure!(
                Instant::now() < give_up,
                "it does not come to rest: {now:?}"
            );
            before = now;
        }
    }

    /// Ends all sandboxes and waits until the server takes no more than this
    /// again.
    pub async fn comes_back(&self, world: &World) -> anyhow::Result<()> {
        world.kill_all().await?;
        let give_up = Instant::now() + SETTLE_MAX;
        loop {
            let left = self.left_in(&Self::now(world)?);
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < give_up, "something is left:\n{left}");
            sleep(LOOK_AGAIN).await;
        }
    }

    /// What there is too much or too little of in another footprint.
    fn left_in(&self, now: &Self) -> String {
        let mut text = String::new();
        let kinds: BTreeSet<&String> = self.counts.keys().chain(now.counts.keys()).collect();
        for kind in kinds {
            let count = |of: &Self| of.counts.get(kind).copied().unwrap_or(0);
            let (was, is) = (count(self), count(now));
            // A process that is new has opened less than an old one.
            let fewer_is_fine = kind.starts_with(DESCRIPTOR);
            if is > was || (is < was && !fewer_is_fine) {
                // Writing to a string cannot fail.
                writeln!(text, "{kind}: {was} before, {is} now").ok();
            }
        }
        for name in now.empty_cgroups.difference(&self.empty_cgroups) {
            writeln!(text, "the empty control group {name}").ok();
        }
        text
    }

    fn now(world: &World) -> anyhow::Result<Self> {
        let mut counts = Counts::default();
        let mut namespaces = BTreeSet::new();
        let parts = host::parts(world);
        for process in &parts {
            let role = role(world, process);
            counts.add(format!("process: {role}"));
            count_descriptors(world, process, &role, &mut counts);
        }
        for process in machines(world, &parts) {
            counts.add("process: machine".to_owned());
            namespaces.extend(namespaces_of(&process));
        }
        for name in namespaces {
            let kind = name.split(':').next().unwrap_or_default();
            counts.add(format!("namespace: {kind}"));
        }
        let waiting = count_files(world, &mut counts)?;
        let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
        for _ in mounts.lines().filter(|line| line.contains(world.name())) {
            counts.add("mount of the host".to_owned());
        }
        Ok(Self {
            counts: counts.0,
            waiting,
            empty_cgroups: host::empty_cgroups().collect(),
        })
    }
}

const DESCRIPTOR: &str = "descriptor of the ";

#[derive(Default)]
struct Counts(BTreeMap<String, usize>);

impl Counts {
    fn add(&mut self, kind: String) {
        *self.0.entry(kind).or_default() += 1;
    }
}

fn role(world: &World, process: &Process) -> String {
    if process.pid == world.pid() {
        return "supervisor".to_owned();
    }
    process.command.get(1).cloned().unwrap_or_default()
}

/// The processes whose own view of the file system shows something of this
/// server's state directory, also after it was removed: its machines.
fn machines(world: &World, parts: &[Process]) -> Vec<Process> {
    let mut all = host::processes();
    all.retain(|process| {
        let is_part = parts.iter().any(|part| part.pid == process.pid);
        let mounts = fs_err::read_to_string(format!("/proc/{}/mountinfo", process.pid));
        !is_part
            && !shares_mounts_with(world, process.pid)
            && mounts.is_ok_and(|mounts| mounts.contains(world.name()))
    });
    all
}

/// Commands of the test itself may run where the server does.
fn shares_mounts_with(world: &World, pid: i32) -> bool {
    let of = |pid: i32| fs_err::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    of(pid) == of(world.pid())
}

fn namespaces_of(process: &Process) -> Vec<String> {
    let of = |kind: &&str| fs_err::read_link(format!("/proc/{}/ns/{kind}", process.pid)).ok();
    let links = NAMESPACES.iter().filter_map(of);
    links
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

fn count_descriptors(world: &World, process: &Process, role: &str, counts: &mut Counts) {
    let entries = fs_err::read_dir(format!("/proc/{}/fd", process.pid));
    for entry in entries.into_iter().flatten().flatten() {
        let Ok(target) = fs_err::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        if target.contains(world.name()) && target.contains(&format!("/{DATABASE_DIR}/")) {
            continue;
        }
        // As in `socket:[123]` or `anon_inode:[pidfd]`.
        let kind = match target.split_once(":[") {
            Some(("anon_inode", what)) => what.trim_end_matches(']'),
            Some((kind, _number)) => kind,
            None => "file",
        };
        counts.add(format!("{DESCRIPTOR}{role}: {kind}"));
    }
}

/// Counts the files below the state directory by their names, those of
/// machines together. Answers how many machines belong to nobody.
fn count_files(world: &World, counts: &mut Counts) -> anyhow::Result<usize> {
    let mut waiting = 0;
    let state = world.state();
    let mut directories = vec![state.to_owned()];
    while let Some(directory) = directories.pop() {
        // What vanishes while we look is not there.
        for entry in fs_err::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let relative = path.strip_prefix(state).context("below the state")?;
            let is_ignored = |name: &&str| relative == Path::new(name);
            if SHARED.iter().any(is_ignored) || is_ignored(&DATABASE_DIR) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path.clone());
            }
            if relative.ends_with("record.json")
                && let Ok(text) = fs_err::read_to_string(&path)
                && let Ok(record) = serde_json::from_str::<serde_json::Value>(&text)
            {
                waiting += usize::from(record["sandbox"].is_null());
            }
            counts.add(format!("file: {}", without_id(relative)));
        }
    }
    Ok(waiting)
}

/// `vms/0123456789abcdef/record.json` as `vms/*/record.json`.
fn without_id(relative: &Path) -> String {
    let mut words: Vec<String> = relative
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let [first, id, ..] = &mut words[..]
        && first == "vms"
    {
        "*".clone_into(id);
    }
    words.join("/")
}
