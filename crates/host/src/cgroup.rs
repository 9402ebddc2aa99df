//! The control groups of one VM: processor, memory, process count. Works on
//! cgroup v2 and on v1 hierarchies, as far as the host has them.
//!
//! Among VMs the processors go first to those that lately used little of them:
//! with equal weights, one that computes without end makes each of the many
//! short turns of another's `exec` wait for a turn of its own. Measured on two
//! processors beside a fork bomb: the slowest of 48 took 160 ms with equal
//! weights, 69 ms where the bomb was given a tenth of them by hand, 59 ms alone.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

const ROOT: &str = "/sys/fs/cgroup";
/// All VMs' groups are below one of this name.
const PARENT: &str = "tombolo";
const V1_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const PERIOD_MICROS: u64 = 100_000;
/// Removing a group fails until the kernel has seen its last process out.
const REMOVE_ATTEMPTS_MAX: u32 = 200;
const REMOVE_INTERVAL: Duration = Duration::from_millis(5);

/// The weight of a VM by what it used lately, in per cent of one processor: the
/// first line that is not exceeded holds.
const WEIGHTS: [(u64, Weight); 3] = [(40, Weight(1024)), (70, Weight(256)), (100, Weight(64))];
/// Of a VM that keeps more than one processor busy.
const LEAST_WEIGHT: Weight = Weight(16);
/// Of a VM that boots, is restored or waits: nobody is kept waiting by it, and
/// others are at work.
const FIRST_WEIGHT: Weight = Weight(256);
/// Less time than this says nothing of what a VM uses.
const MEASURED_MIN: Duration = Duration::from_millis(100);

/// How much of the processors a VM gets when several want them, relative to
/// another's; in the unit of v1, `cpu.shares`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weight(u64);

impl Weight {
    fn of_use(percent: u64) -> Self {
        let line = WEIGHTS.iter().find(|(most, _)| percent <= *most);
        line.map_or(LEAST_WEIGHT, |(_, weight)| *weight)
    }

    /// In the unit of v2, where 100 is what 1024 is in v1.
    fn as_v2(self) -> u64 {
        (self.0 * 100 / 1024).max(1)
    }
}

/// Weighs one VM against the others, again and again.
#[derive(Debug)]
pub(crate) struct Balance {
    weight: Weight,
    /// When it was last measured and what it had used by then.
    last: Option<(Instant, u64)>,
    use_percent: u64,
}

impl Balance {
    pub(crate) fn new() -> Self {
        Self {
            weight: FIRST_WEIGHT,
            last: None,
            use_percent: 0,
        }
    }

    /// What the VM is to weigh now, if that has changed. `cpu_nanos` is all
    /// processor time that it ever used.
    fn weigh(&mut self, now: Instant, cpu_nanos: u64) -> Option<Weight> {
        if let Some((then, before)) = self.last {
            let passed = now.saturating_duration_since(then);
            if passed < MEASURED_MIN {
                return None;
            }
            let used = u128::from(cpu_nanos.saturating_sub(before)) * 100;
            let percent = used / passed.as_nanos().max(1);
            // Half of it is the past, so that one busy moment weighs less.
            self.use_percent = u64::midpoint(
                self.use_percent,
                u64::try_from(percent).unwrap_or(u64::MAX / 2),
            );
        }
        self.last = Some((now, cpu_nanos));
        let weight = Weight::of_use(self.use_percent);
        (weight != self.weight).then(|| {
            self.weight = weight;
            weight
        })
    }
}

/// Why a control group could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no control groups we could use.
    #[error("no usable control groups under {ROOT}; mount cgroup v2 there")]
    Missing,
    /// One file or directory failed.
    #[error("cannot set up the control group of a VM")]
    Io(#[from] io::Error),
}

/// What one VM may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Processor time as a share of one processor, in percent.
    pub(crate) cpu_percent: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) process_count: u32,
}

/// The groups of one VM. Dropping this leaves them; [`Cgroup::remove`] ends them.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// The groups that a VM of this name has or would have.
    pub(crate) fn named(name: &str) -> Result<Self, CgroupError> {
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            return Ok(Self {
                directories: vec![root.join(PARENT).join(name)],
                version: Version::Two,
            });
        }
        let mut directories: Vec<PathBuf> = Vec::new();
        for controller in V1_CONTROLLERS {
            let hierarchy = root.join(controller);
            // `cpu` and `cpuacct` may be two names of one hierarchy.
            let hierarchy = fs_err::canonicalize(&hierarchy).unwrap_or(hierarchy);
            let directory = hierarchy.join(PARENT).join(name);
            if hierarchy.join("cgroup.procs").exists() && !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        if directories.is_empty() {
            return Err(CgroupError::Missing);
        }
        Ok(Self {
            directories,
            version: Version::One,
        })
    }

    /// Makes the groups and sets their limits.
    pub(crate) fn create(name: &str, limits: Limits) -> Result<Self, CgroupError> {
        let cgroup = Self::named(name)?;
        for directory in &cgroup.directories {
            fs_err::create_dir_all(directory)?;
        }
        if cgroup.version == Version::Two {
            delegate_controllers()?;
        }
        cgroup.set_weight(FIRST_WEIGHT)?;
        let quota = u64::from(limits.cpu_percent) * PERIOD_MICROS / 100;
        match cgroup.version {
            Version::Two => {
                cgroup.write("cpu.max", &format!("{quota} {PERIOD_MICROS}"))?;
                cgroup.write("memory.max", &limits.memory_bytes.to_string())?;
            }
            Version::One => {
                cgroup.write("cpu.cfs_period_us", &PERIOD_MICROS.to_string())?;
                cgroup.write("cpu.cfs_quota_us", &quota.to_string())?;
                cgroup.write("memory.limit_in_bytes", &limits.memory_bytes.to_string())?;
            }
        }
        cgroup.write("pids.max", &limits.process_count.to_string())?;
        Ok(cgroup)
    }

    /// Opens the files that enter the writing process into the groups.
    pub(crate) fn open_procs(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut files = Vec::with_capacity(self.directories.len());
        for directory in &self.directories {
            let path = directory.join("cgroup.procs");
            let file = OpenOptions::new().write(true).open(path)?;
            files.push(file.into());
        }
        Ok(files)
    }

    /// Weighs the VM anew against the others, by what it used since the last
    /// time.
    pub(crate) fn balance(&self, balance: &mut Balance) -> Result<(), CgroupError> {
        let Some(cpu_nanos) = self.cpu_nanos() else {
            return Ok(());
        };
        match balance.weigh(Instant::now(), cpu_nanos) {
            Some(weight) => self.set_weight(weight),
            None => Ok(()),
        }
    }

    fn set_weight(&self, weight: Weight) -> Result<(), CgroupError> {
        match self.version {
            Version::One => self.write("cpu.shares", &weight.0.to_string()),
            Version::Two => self.write("cpu.weight", &weight.as_v2().to_string()),
        }
    }

    /// Processor time used so far.
    pub(crate) fn cpu_nanos(&self) -> Option<u64> {
        match self.version {
            Version::One => self.read("cpuacct.usage")?.trim().parse().ok(),
            Version::Two => {
                let text = self.read("cpu.stat")?;
                let micros = text
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "))?;
                Some(micros.trim().parse::<u64>().ok()?.saturating_mul(1000))
            }
        }
    }

    /// Processes inside, by pid. Empty when the groups are not there.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.read("cgroup.procs")
            .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
            .unwrap_or_default()
    }

    /// Removes the groups, once the kernel lets go of them.
    pub(crate) async fn remove(&self) -> Result<(), CgroupError> {
        for directory in &self.directories {
            remove_group(directory).await?;
        }
        Ok(())
    }

    fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        match self
            .directories
            .iter()
            .find(|path| path.join(file).exists())
        {
            Some(directory) => Ok(fs_err::write(directory.join(file), value)?),
            None => Err(CgroupError::Missing),
        }
    }

    fn read(&self, file: &str) -> Option<String> {
        self.directories
            .iter()
            .find_map(|directory| fs_err::read_to_string(directory.join(file)).ok())
    }
}

/// Removes the common parent where it holds no group of another node.
pub fn remove_empty_parent() {
    let root = Path::new(ROOT);
    let parents = V1_CONTROLLERS
        .iter()
        .map(|controller| root.join(controller));
    for hierarchy in parents.chain([root.to_owned()]) {
        // Another node's groups keep it, and that is right.
        fs_err::remove_dir(hierarchy.join(PARENT)).ok();
    }
}

fn delegate_controllers() -> Result<(), CgroupError> {
    for directory in [PathBuf::from(ROOT), Path::new(ROOT).join(PARENT)] {
        fs_err::write(
            directory.join("cgroup.subtree_control"),
            "+cpu +memory +pids",
        )?;
    }
    Ok(())
}

async fn remove_group(directory: &Path) -> Result<(), CgroupError> {
    for _ in 0..REMOVE_ATTEMPTS_MAX {
        match fs_err::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                tokio::time::sleep(REMOVE_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CgroupError::Io(io::Error::other(format!(
        "{} still has processes",
        directory.display()
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_little_weighs_much() {
        for (percent, shares, v2) in [
            (0, 1024, 100),
            (40, 1024, 100),
            (41, 256, 25),
            (100, 64, 6),
            (101, 16, 1),
            (u64::MAX, 16, 1),
        ] {
            let weight = Weight::of_use(percent);
            assert_eq!((weight.0, weight.as_v2()), (shares, v2), "{percent}");
        }
    }

    #[test]
    fn a_vm_that_computes_without_end_gives_way_and_recovers() {
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut balance = Balance::new();
        let mut cpu_nanos = 0;
        let mut weights = Vec::new();
        // In per cent of a processor, second by second.
        for used in [0, 200, 200, 200, 0, 0, 0] {
            cpu_nanos += used * 10_000_000;
            let changed = balance.weigh(now, cpu_nanos);
            weights.push(changed.map(|weight| weight.0));
            now += second;
        }
        let expected = [
            Some(1024),
            Some(64),
            Some(16),
            None,
            Some(64),
            Some(256),
            Some(1024),
        ];
        assert_eq!(weights, expected);
        assert_eq!(balance.weigh(now - second, cpu_nanos + 1), None);
    }
}
