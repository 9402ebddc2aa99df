//! What a run of the tests that was killed left running: virtual machines,
//! which outlive whoever started them by design, and the server of a test.
//! Machines are found by what they see of the file system, servers by the state
//! directory that they were told, so that nobody else's can be meant.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// Where the control groups of virtual machines are, in either version.
const CGROUP_ROOTS: [&str; 6] = ["", "cpu", "cpuacct", "memory", "pids", "blkio"];
const CGROUP_PARENT: &str = "tombolo";
/// A process that was killed is gone after this, or the kernel is in trouble.
const END_MAX: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
/// The kernel lets go of a control group shortly after its last process.
const REMOVE_ATTEMPTS_MAX: u32 = 200;
const REMOVE_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Ends every server of this directory with its children, then every process whose
/// own view of the file system shows something of it, and removes the control
/// groups of the machines among them.
pub(super) fn end_all(directory: &Path) -> anyhow::Result<()> {
    let ours = fs_err::read_link("/proc/self/ns/mnt")?;
    // First, so that nobody makes more.
    for server in processes()? {
        let Some(pinned) = pin(&server, |process| is_server(process, directory)) else {
            continue;
        };
        let children = children_of(&server)?;
        end(&server, &pinned)?;
        for (child, pinned) in children {
            // With its parent gone it ends by itself, but later.
            end(&child, &pinned)?;
        }
    }
    for process in processes()? {
        // Whoever sees what we see belongs to the host, whatever is mounted.
        let namespace = fs_err::read_link(process.join("ns/mnt"));
        if namespace.is_ok_and(|namespace| namespace != ours)
            && let Some(pinned) = pin(&process, |process| shows(process, directory))
        {
            end(&process, &pinned)?;
        }
    }
    Ok(())
}

/// All processes, as their directories.
fn processes() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().parse::<u32>().is_ok() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A descriptor of a process, if it is one of those that are meant.
fn pin(process: &Path, is_meant: impl Fn(&Path) -> bool) -> Option<OwnedFd> {
    if !is_meant(process) {
        return None;
    }
    let pinned = pidfd_open(number_of(process)?, PidfdFlags::empty()).ok()?;
    // Again: its number may have become another's until now.
    is_meant(process).then_some(pinned)
}

fn end(process: &Path, pinned: &OwnedFd) -> anyhow::Result<()> {
    let groups = fs_err::read_to_string(process.join("cgroup")).unwrap_or_default();
    pidfd_send_signal(pinned, Signal::KILL).ok();
    poll(&mut [PollFd::new(pinned, PollFlags::IN)], Some(&END_MAX))?;
    for name in machine_names(&groups) {
        for root in CGROUP_ROOTS {
            let parent = Path::new(CGROUP_MOUNT).join(root).join(CGROUP_PARENT);
            remove_group(&parent.join(name))?;
        }
    }
    Ok(())
}

fn number_of(process: &Path) -> Option<Pid> {
    let name = process.file_name()?.to_str()?;
    Pid::from_raw(name.parse().ok()?)
}

/// Whether it is `tombolo up` on a state directory here.
fn is_server(process: &Path, directory: &Path) -> bool {
    let command = fs_err::read(process.join("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).into_owned();
    let words: Vec<&str> = command.split('\0').collect();
    let is_state = |pair: &[&str]| match pair {
        [flag, path] => *flag == "--state-dir" && Path::new(path).starts_with(directory),
        _ => false,
    };
    words.contains(&"up") && words.windows(2).any(is_state)
}

fn children_of(parent: &Path) -> anyhow::Result<Vec<(PathBuf, OwnedFd)>> {
    let number = number_of(parent);
    let found = processes()?.into_iter().filter_map(|process| {
        let pinned = pin(&process, |process| {
            number.is_some() && parent_of(process) == number
        })?;
        Some((process, pinned))
    });
    Ok(found.collect())
}

/// The parent in proc(5)'s `stat`: `17 (name) S 16 …`.
fn parent_of(process: &Path) -> Option<Pid> {
    let stat = fs_err::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let number = fields.split_whitespace().nth(1)?;
    Pid::from_raw(number.parse().ok()?)
}

fn shows(process: &Path, directory: &Path) -> bool {
    let mounts = fs_err::read_to_string(process.join("mountinfo"));
    mounts.is_ok_and(|mounts| names(&mounts, directory))
}

/// Whether a mount of proc(5)'s `mountinfo` is of something below a directory,
/// or at such a place. Test directories have no characters that it escapes.
fn names(mounts: &str, directory: &Path) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(3).take(2).map(PathBuf::from);
        fields.any(|path| path.starts_with(directory))
    })
}

/// The machines in proc(5)'s `cgroup` of a process: `4:memory:/tombolo/NAME`.
fn machine_names(groups: &str) -> impl Iterator<Item = &str> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(|path| {
        let (parent, name) = path.rsplit_once('/')?;
        let is_ours = parent.rsplit('/').next() == Some(CGROUP_PARENT);
        (is_ours && !name.is_empty()).then_some(name)
    })
}

fn remove_group(group: &Path) -> anyhow::Result<()> {
    for _ in 0..REMOVE_ATTEMPTS_MAX {
        if !group.exists() || fs_err::remove_dir(group).is_ok() {
            return Ok(());
        }
        poll(&mut [], Some(&REMOVE_INTERVAL))?;
    }
    fs_err::remove_dir(group).context("a control group is still in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_the_directory_count() {
        let directory = Path::new("/var/tmp/tombolo-test-a1");
        for (line, expected) in [
            // Its files, shown in a jail; also when they are gone.
            (
                "5 4 254:0 /var/tmp/tombolo-test-a1/e2e-x/vms/1/files /tombolo/sandbox rw",
                true,
            ),
            ("5 4 254:0 /var/tmp/tombolo-test-a1//deleted /x rw", true),
            // A file system of its own.
            ("5 4 0:55 / /var/tmp/tombolo-test-a1/e2e-x rw - tmpfs", true),
            ("5 4 254:0 /var/tmp/tombolo-test-a12/e2e-x /x rw", false),
            ("5 4 254:0 / / rw - ext4 /var/tmp/tombolo-test-a1 rw", false),
            ("5 4 254:0 / / rw", false),
            ("", false),
        ] {
            assert_eq!(names(line, directory), expected, "{line}");
        }
    }

    #[test]
    fn machines_are_those_below_our_own_group() {
        let groups = "4:memory:/tombolo/00aa\n0::/user.slice\n1:cpu:/tombolo/00aa\n\
                      2:pids:/tombolo\n3:cpuset:/other/bb\n5:x:/tombolo/\n";
        let found: Vec<&str> = machine_names(groups).collect();
        assert_eq!(found, ["00aa", "00aa"]);
    }
}
