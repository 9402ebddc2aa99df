//! The machine: which processor does what, and what a process took of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use nix::sched::CloneFlags;
use rustix::thread::CpuSet;

/// Places of fields in `/proc/PID/stat` after the name (`proc_pid_stat(5)`).
const STAT_PARENT: usize = 1;
const STAT_USER_TICKS: usize = 11;
const STAT_SYSTEM_TICKS: usize = 12;
/// `USER_HZ`, which Linux has kept at this for programs whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// Who runs where. A proxy has a processor to itself; what loads it does not
/// take its time, and what it takes is what it costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// The processes that are measured.
    pub(crate) proxy: usize,
    /// The client that loads them.
    pub(crate) load: usize,
    /// The host that the client asks.
    pub(crate) origin: usize,
}

impl Cores {
    /// Of those that this process may use.
    pub(crate) fn choose() -> anyhow::Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (proxy, load) = (usable.next(), usable.next());
        let (Some(proxy), Some(load)) = (proxy, load) else {
            anyhow::bail!("two processors are needed: one for the proxy, one for its load");
        };
        Ok(Self {
            proxy,
            load,
            origin: usable.next().unwrap_or(load),
        })
    }
}

/// Keeps the calling thread, and what it starts, on one processor.
pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).context("cannot stay on a processor")
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(namespace: &OwnedFd) -> anyhow::Result<()> {
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")
}

/// The kernel's monotonic clock, in nanoseconds.
pub(crate) fn now_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let [seconds, nanos] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}

/// The processor time of a process, those it started and theirs, in seconds.
pub(crate) fn cpu_seconds(root: u32) -> anyhow::Result<f64> {
    let mut processes = HashMap::new();
    for entry in fs_err::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has just ended is nobody's cost any more.
        let Ok(text) = fs_err::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(stat) = parse_stat(&text) {
            processes.insert(pid, stat);
        }
    }
    anyhow::ensure!(processes.contains_key(&root), "process {root} has ended");
    let belongs = |mut pid: u32| {
        while let Some((parent, _)) = processes.get(&pid) {
            if pid == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    let own = processes.iter().filter(|(pid, _)| belongs(**pid));
    let ticks: u64 = own.map(|(_, (_, ticks))| ticks).sum();
    Ok(number(ticks) / TICKS_PER_SECOND)
}

/// The parent and the ticks of a process.
fn parse_stat(text: &str) -> Option<(u32, u64)> {
    // The name is in parentheses and may have any character in it.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let parent = fields.get(STAT_PARENT)?.parse().ok()?;
    Some((parent, ticks(STAT_USER_TICKS)? + ticks(STAT_SYSTEM_TICKS)?))
}

/// What a process has in memory, in KiB.
pub(crate) fn resident_kib(pid: u32) -> anyhow::Result<f64> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = words.context("no resident memory is told")?.parse()?;
    Ok(number(kib))
}

/// A descriptor that others keep.
pub(crate) fn own_namespace() -> anyhow::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

/// A count to calculate with. None here is near what is lost.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_a_name() {
        let text = "7 (a) b (c)) S 3 7 7 0 -1 0 0 0 0 0 21 34 0 0";
        assert_eq!(parse_stat(text), Some((3, 55)));
        assert_eq!(parse_stat("7 (a S 3"), None);
        assert_eq!(parse_stat("7 (a) S 3 7"), None);
    }

    #[test]
    fn this_process_took_time_and_memory() {
        assert!(cpu_seconds(std::process::id()).unwrap() >= 0.0);
        assert!(resident_kib(std::process::id()).unwrap() > 0.0);
        assert!(cpu_seconds(0).is_err());
    }
}
