//! Starts the process of one VM: its directory, sockets, disk, control groups
//! and jail. What is made is unmade when a later step fails.

use crate::agent_channel::AGENT_SOCKET;
use crate::artefacts::Artefacts;
use crate::cgroup::{Cgroup, CgroupError, Limits};
use crate::monitor::{MONITOR_SOCKET, MonitorError};
use crate::qemu::{
    self, BootPaths, JAIL_IMAGE, JAIL_SANDBOX, JAIL_TEMPLATE, QEMU_PROGRAM, Shape, Start,
};
use crate::short_path;
use crate::words::Words;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tombolo_sys::jail::{self, Access, Bind, JailSpec, Jailed, SpawnError};

/// Jailed users are numbered from here, one per VM; no account has them.
const UID_MIN: u32 = 1_600_000_000;
const UID_COUNT: u32 = 1 << 24;
/// Processor time beyond its virtual processors that a VM's own work may take.
const CPU_PERCENT_OVERHEAD: u32 = 50;
/// Threads of one VM: its processors, its main loop, its disk workers.
const PROCESS_COUNT_MAX: u32 = 256;

/// Why a VM's process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartVmError {
    /// A file or directory of the VM failed.
    #[error("cannot lay out the files of a VM")]
    Files(#[from] io::Error),
    /// No control group.
    #[error("cannot confine a VM")]
    Cgroup(#[from] CgroupError),
    /// No jail, or QEMU does not start in it.
    #[error("cannot start QEMU in its jail")]
    Jail(#[from] SpawnError),
    /// QEMU runs but does not do as told.
    #[error("cannot instruct QEMU")]
    Monitor(#[from] MonitorError),
    /// No randomness.
    #[error("the host gives no random numbers")]
    Random(#[from] getrandom::Error),
}

/// What a VM's process is started from.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) artefacts: &'a Artefacts,
    /// Names the control groups.
    pub(crate) name: &'a str,
    /// Holds the sockets; root's own.
    pub(crate) vm_dir: &'a Path,
    /// Shown to the VM as its own directory, with `disk.qcow2` in it.
    pub(crate) files_dir: &'a Path,
    pub(crate) template_dir: Option<&'a Path>,
    pub(crate) shape: Shape,
    pub(crate) start: Start,
}

/// A VM's process, just started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) jailed: Jailed,
    pub(crate) cgroup: Cgroup,
    pub(crate) words: Words,
}

/// A user number for a new VM. Two VMs of the same number would still be in
/// namespaces and roots of their own.
pub(crate) fn random_uid() -> Result<u32, getrandom::Error> {
    Ok(UID_MIN + getrandom::u32()? % UID_COUNT)
}

/// Hands a file to the VM's user.
pub(crate) fn give(path: &Path, uid: u32, mode: u32) -> io::Result<()> {
    chown(path, Some(uid), Some(uid))?;
    fs_err::set_permissions(path, PermissionsExt::from_mode(mode))
}

impl Launch<'_> {
    /// Starts QEMU with this tap as its guest's network; it is loading or booting
    /// when this answers.
    pub(crate) fn start_as(&self, uid: u32, tap: OwnedFd) -> Result<Started, StartVmError> {
        let agent = short_path::listen(self.vm_dir, AGENT_SOCKET)?;
        let monitor = short_path::listen(self.vm_dir, MONITOR_SOCKET)?;
        let limits = Limits {
            cpu_percent: self.shape.vcpu_count * 100 + CPU_PERCENT_OVERHEAD,
            memory_bytes: self.shape.memory_limit_bytes(),
            process_count: PROCESS_COUNT_MAX,
        };
        let cgroup = Cgroup::create(self.name, limits)?;
        let (words, writers) = Words::new()?;
        let jailed = jail::spawn(JailSpec {
            root: self.artefacts.engine_root.clone(),
            binds: self.binds(),
            with_kvm: self.shape.isolation_is_kvm,
            uid,
            gid: uid,
            cgroup_procs: cgroup.open_procs()?,
            program: QEMU_PROGRAM.into(),
            args: qemu::arguments(self.shape, &self.start),
            // In the order of the constants in `qemu`.
            descriptors: vec![agent.into(), monitor.into(), tap],
            stdout: writers.console,
            stderr: writers.emulator,
        })?;
        Ok(Started {
            jailed,
            cgroup,
            words,
        })
    }

    fn binds(&self) -> Vec<Bind> {
        let parent = |path: &Path| path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let mut binds = vec![
            Bind {
                source: parent(&self.artefacts.image),
                target: JAIL_IMAGE.into(),
                access: Access::Read,
            },
            Bind {
                source: self.files_dir.to_owned(),
                target: JAIL_SANDBOX.into(),
                access: Access::Write,
            },
        ];
        // A VM that boots needs the kernel's parts where a restored one sees
        // its template.
        let template = self
            .template_dir
            .map_or_else(|| parent(&self.artefacts.initramfs), Path::to_owned);
        binds.push(Bind {
            source: template,
            target: JAIL_TEMPLATE.into(),
            access: Access::Read,
        });
        binds
    }
}

/// Where a booting VM finds the kernel's parts in its jail.
pub(crate) fn boot_paths(artefacts: &Artefacts) -> BootPaths {
    let kernel = artefacts
        .kernel
        .strip_prefix(&artefacts.engine_root)
        .unwrap_or(&artefacts.kernel);
    let initramfs = artefacts
        .initramfs
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    BootPaths {
        kernel: Path::new("/").join(kernel).to_string_lossy().into_owned(),
        initramfs: format!("{JAIL_TEMPLATE}/{initramfs}"),
    }
}
