//! The file systems that programs expect.

use rustix::fs::{Mode, chmod, mkdir, symlink};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::BootError;

struct Mount {
    filesystem: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: Option<&'static std::ffi::CStr>,
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const EARLY: [Mount; 3] = [
    Mount {
        filesystem: "devtmpfs",
        target: "/dev",
        flags: MountFlags::NOSUID,
        options: Some(c"mode=0755"),
    },
    Mount {
        filesystem: "proc",
        target: "/proc",
        flags: NO_PROGRAMS,
        options: None,
    },
    Mount {
        filesystem: "sysfs",
        target: "/sys",
        flags: NO_PROGRAMS,
        options: None,
    },
];

const LATE: [Mount; 4] = [
    Mount {
        filesystem: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: Some(c"gid=5,mode=620,ptmxmode=666"),
    },
    Mount {
        filesystem: "tmpfs",
        target: "/dev/shm",
        flags: NO_DEVICES,
        options: Some(c"mode=1777"),
    },
    Mount {
        filesystem: "tmpfs",
        target: "/run",
        flags: NO_DEVICES,
        options: Some(c"mode=755,size=20%"),
    },
    Mount {
        filesystem: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: NO_PROGRAMS,
        options: None,
    },
];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// What the agent itself needs first.
pub(super) fn mount_early() -> Result<(), BootError> {
    EARLY.iter().try_for_each(mount_one)
}

/// What programs need besides, on the root disk.
pub(super) fn mount_late() -> Result<(), BootError> {
    LATE.iter().try_for_each(mount_one)?;
    for (target, link) in LINKS {
        match symlink(target, link) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(BootError::MakeDirectory { path: link, error }),
        }
    }
    make_directory("/run/lock", 0o1777)?;
    make_directory("/tmp", 0o1777)
}

fn mount_one(wanted: &Mount) -> Result<(), BootError> {
    make_directory(wanted.target, 0o755)?;
    let Mount {
        filesystem,
        target,
        flags,
        options,
    } = *wanted;
    match mount(filesystem, target, filesystem, flags, options) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(BootError::Mount {
            filesystem,
            target,
            error,
        }),
    }
}

/// Makes a directory if it is not there, with exactly these permissions.
pub(super) fn make_directory(path: &'static str, mode: u32) -> Result<(), BootError> {
    let made = match mkdir(path, Mode::from(mode)) {
        Ok(()) => chmod(path, Mode::from(mode)),
        Err(Errno::EXIST) if mode & 0o1000 != 0 => chmod(path, Mode::from(mode)),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    };
    made.map_err(|error| BootError::MakeDirectory { path, error })
}
