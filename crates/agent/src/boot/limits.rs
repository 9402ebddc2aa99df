//! What keeps the sandbox's processes from taking the agent down: they live in
//! one control group that leaves it some memory and bounds their number.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::set;
use crate::log::log;
use crate::system::memory_bytes;

/// Soft and hard limit of a process's open files, as a login has them.
pub(crate) const OPEN_FILES_MAX: (u64, u64) = (1024, 524_288);

const AGENT_OPEN_FILES_MAX: u64 = 1_048_576;
/// Memory that the sandbox's processes never get, of what is there after the
/// boot: the agent's, and what the kernel needs to stay responsive.
const RESERVED_LEN: u64 = 48 * 1024 * 1024;
const PROCESSES_MAX: u64 = 4096;
/// About what one process costs the kernel.
const PROCESS_LEN: u64 = 160 * 1024;
const CGROUP: &str = "/sys/fs/cgroup/app";

/// The usual settings of a Debian system that are not the kernel's defaults.
const SETTINGS: [(&str, &str); 8] = [
    ("/proc/sys/kernel/pid_max", "4194304"),
    ("/proc/sys/fs/protected_hardlinks", "1"),
    ("/proc/sys/fs/protected_symlinks", "1"),
    ("/proc/sys/fs/protected_regular", "2"),
    ("/proc/sys/fs/protected_fifos", "1"),
    ("/proc/sys/vm/max_map_count", "1048576"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
];

pub(super) fn set_system_limits() {
    for (path, value) in SETTINGS {
        set(path, value);
    }
}

/// Keeps the agent alive when memory runs out.
pub(super) fn protect_agent() {
    set("/proc/self/oom_score_adj", "-1000");
    let limit = Rlimit {
        current: Some(AGENT_OPEN_FILES_MAX),
        maximum: Some(AGENT_OPEN_FILES_MAX),
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log!("cannot raise the limit of open files: {error}");
    }
}

/// Makes the control group for the sandbox's processes.
pub(crate) fn app_cgroup() -> std::io::Result<OwnedFd> {
    let meminfo = fs_err::read_to_string("/proc/meminfo")?;
    let memory_len = memory_bytes(&meminfo, "MemAvailable:");
    for controller in ["+memory", "+pids", "+cpu", "+io"] {
        set("/sys/fs/cgroup/cgroup.subtree_control", controller);
    }
    match fs_err::create_dir(CGROUP) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let memory_max = memory_len.saturating_sub(RESERVED_LEN);
    set(&format!("{CGROUP}/memory.max"), &memory_max.to_string());
    let processes_max = (memory_len / PROCESS_LEN).min(PROCESSES_MAX);
    set(&format!("{CGROUP}/pids.max"), &processes_max.to_string());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(CGROUP, flags, Mode::empty())?)
}
