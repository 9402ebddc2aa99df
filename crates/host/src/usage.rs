//! What one VM uses of its host.

use crate::cgroup::Cgroup;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One VM's use of its host, now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its start.
    pub cpu_nanos: u64,
    /// Memory that is its alone: private and written to.
    pub memory_private_bytes: u64,
    /// Disk space of its own layer.
    pub disk_allocated_bytes: u64,
}

pub(crate) fn measure(cgroup: &Cgroup, pid: i32, disk: &Path) -> Usage {
    Usage {
        cpu_nanos: cgroup.cpu_nanos().unwrap_or(0),
        memory_private_bytes: private_dirty_bytes(pid).unwrap_or(0),
        disk_allocated_bytes: fs_err::metadata(disk).map_or(0, |disk| disk.blocks() * 512),
    }
}

fn private_dirty_bytes(pid: i32) -> Option<u64> {
    let text = fs_err::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
