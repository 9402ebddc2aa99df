//! What the host knows of a server under test: its processes, the control
//! groups of its machines, and how to kill either part.

use std::path::Path;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::World;

/// Where the control groups of virtual machines are, in either version.
const CGROUP_ROOTS: [&str; 6] = ["", "cpu", "cpuacct", "memory", "pids", "blkio"];
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
const CGROUP_PARENT: &str = "tombolo";

/// One process of the host.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its arguments, the program's own name first.
    pub command: Vec<String>,
}

impl Process {
    /// Whether a word of the command line is this one.
    pub fn is(&self, word: &str) -> bool {
        self.command.iter().any(|known| known == word)
    }
}

/// All processes of the host.
pub fn processes() -> Vec<Process> {
    let Ok(entries) = fs_err::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// A process, unless it is gone or has ended and only waits to be collected.
fn process(pid: i32) -> Option<Process> {
    let command = fs_err::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).into_owned();
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    (state != "Z").then_some(Process {
        pid,
        parent: parent.parse().ok()?,
        command: command.split('\0').map(str::to_owned).collect(),
    })
}

/// The processes that the server of a test consists of: the supervisor that
/// the test started, and its children.
pub fn parts(world: &World) -> Vec<Process> {
    let all = processes();
    let of_ours = |process: &&Process| {
        process.pid == world.pid() || (process.parent == world.pid() && !process.command.is_empty())
    };
    all.iter().filter(of_ours).cloned().collect()
}

/// The process of one part: `server`, `node` or `egress-proxy`.
pub fn part(world: &World, name: &str) -> anyhow::Result<Pid> {
    let child = parts(world)
        .into_iter()
        .find(|process| process.pid != world.pid() && process.is(name))
        .with_context(|| format!("no {name} runs"))?;
    Pid::from_raw(child.pid).context("a pid")
}

/// The process that runs a sandbox, by the node's record of it.
pub fn machine(world: &World, sandbox: &str) -> anyhow::Result<Pid> {
    for entry in fs_err::read_dir(world.state().join("vms"))? {
        let Ok(record) = fs_err::read_to_string(entry?.path().join("record.json")) else {
            continue;
        };
        let record: serde_json::Value = serde_json::from_str(&record)?;
        if record["sandbox"] == sandbox {
            let pid = record["pid"].as_i64().context("a pid")?;
            return Pid::from_raw(i32::try_from(pid)?).context("a pid");
        }
    }
    anyhow::bail!("no machine belongs to {sandbox}")
}

/// Ends a process as nothing it does can prevent.
pub fn kill(pid: Pid) -> anyhow::Result<()> {
    Ok(kill_process(pid, Signal::KILL)?)
}

/// Whether some control group of a machine of this name is there.
pub fn has_cgroup(machine: &str) -> bool {
    CGROUP_ROOTS
        .iter()
        .any(|root| cgroup_parent(root).join(machine).exists())
}

/// The names of the machines' control groups that hold no process, of all
/// servers of this host.
pub fn empty_cgroups() -> impl Iterator<Item = String> {
    CGROUP_ROOTS.iter().flat_map(|root| {
        let entries = fs_err::read_dir(cgroup_parent(root)).into_iter().flatten();
        entries.filter_map(move |entry| {
            let group = entry.ok()?.path();
            let processes = fs_err::read_to_string(group.join("cgroup.procs")).ok()?;
            let name = group.file_name()?.to_string_lossy().into_owned();
            processes.is_empty().then(|| format!("{root}/{name}"))
        })
    })
}

fn cgroup_parent(root: &str) -> std::path::PathBuf {
    Path::new(CGROUP_MOUNT).join(root).join(CGROUP_PARENT)
}
