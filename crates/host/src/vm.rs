//! One VM as its node holds it: a directory with its record, disk and sockets,
//! a process watched through a pidfd, and control groups. The record is what a
//! restarted node finds it by.

use crate::cgroup::{Balance, Cgroup, CgroupError};
use crate::qemu::{Isolation, TAP_DESCRIPTOR};
use crate::usage::{self, Usage};
use crate::words::Exit;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;
use tombolo_ids::SandboxId;
use tombolo_net::{FindNamespaceError, HeldSlot};
use tombolo_sys::jail;

const RECORD_FILE: &str = "record.json";
/// The VM's own directory below its record's: disk, nothing else.
pub(crate) const FILES_DIR: &str = "files";
pub(crate) const DISK_FILE: &str = "disk.qcow2";

/// Names one VM on its node, before and after it belongs to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(String);

impl VmId {
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(format!("{:016x}", getrandom::u64()?)))
    }

    /// Takes the name of a directory that might be a VM's.
    pub(crate) fn from_directory_name(name: &str) -> Option<Self> {
        let is_ours = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_ours.then(|| Self(name.to_owned()))
    }

    /// The name as text: sixteen hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What survives the node: enough to find the VM and to know whose it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Absent while the VM waits in the pool.
    pub(crate) sandbox: Option<SandboxId>,
    pub(crate) pid: i32,
    /// From `/proc/PID/stat`, so that a reused pid is not taken for the VM.
    pub(crate) pid_start_ticks: u64,
    pub(crate) memory_mib: u32,
    pub(crate) isolation: Isolation,
    /// Milliseconds since the epoch; zero while in the pool.
    pub(crate) deadline_unix_millis: i64,
}

/// Why a VM's files or process could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A file of the VM failed.
    #[error("cannot keep the record of a VM")]
    Io(#[from] io::Error),
    /// The record could not be written or read.
    #[error("the record of a VM is unreadable")]
    Record(#[from] serde_json::Error),
    /// Its control groups could not be changed or removed.
    #[error("cannot use the control groups of a VM")]
    Cgroup(#[from] CgroupError),
}

#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) id: VmId,
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
    cgroup: Cgroup,
    balance: Balance,
    pidfd: AsyncFd<OwnedFd>,
}

impl Vm {
    pub(crate) fn new(
        id: VmId,
        dir: PathBuf,
        record: Record,
        cgroup: Cgroup,
        pidfd: OwnedFd,
    ) -> Result<Self, VmError> {
        let pidfd = watch(pidfd)?;
        let vm = Self {
            id,
            dir,
            record,
            cgroup,
            balance: Balance::new(),
            pidfd,
        };
        vm.save()?;
        Ok(vm)
    }

    /// Finds a VM by its directory, if its process still runs.
    pub(crate) fn adopt(id: VmId, dir: PathBuf) -> Result<Option<Self>, VmError> {
        let text = fs_err::read(dir.join(RECORD_FILE))?;
        let record: Record = serde_json::from_slice(&text)?;
        let Ok(pidfd) = jail::pidfd_open(record.pid) else {
            return Ok(None);
        };
        // Read after the pidfd is open, which pins the process.
        if start_ticks(record.pid) != Some(record.pid_start_ticks) {
            return Ok(None);
        }
        let cgroup = Cgroup::named(id.as_str())?;
        Self::new(id, dir, record, cgroup, pidfd).map(Some)
    }

    /// Writes the record so that a reader sees the old or the new, never half.
    pub(crate) fn save(&self) -> Result<(), VmError> {
        let text = serde_json::to_vec(&self.record)?;
        let temporary = self.dir.join("record.json.new");
        fs_err::write(&temporary, text)?;
        fs_err::rename(temporary, self.dir.join(RECORD_FILE))?;
        Ok(())
    }

    /// Answers when the process has ended.
    pub(crate) async fn ended(&self) -> Result<(), VmError> {
        // A pidfd stays readable once its process has ended.
        let _guard = self.pidfd.readable().await?;
        Ok(())
    }

    /// How the process ended, if it has and is this one's child.
    pub(crate) fn exit(&self) -> Option<Exit> {
        exit(self.pidfd.get_ref())
    }

    /// Finds the network slot of the running process again.
    pub(crate) fn find_slot(&self) -> Result<HeldSlot, FindNamespaceError> {
        HeldSlot::of_vm(self.pidfd.get_ref(), TAP_DESCRIPTOR)
    }

    pub(crate) fn balance(&mut self) -> Result<(), VmError> {
        Ok(self.cgroup.balance(&mut self.balance)?)
    }

    pub(crate) fn usage(&self) -> Usage {
        let disk = self.dir.join(FILES_DIR).join(DISK_FILE);
        usage::measure(&self.cgroup, self.record.pid, &disk)
    }

    /// Ends the process and removes everything of the VM.
    pub(crate) async fn destroy(self) -> Result<(), VmError> {
        jail::pidfd_kill(self.pidfd.get_ref())?;
        self.ended().await?;
        let pid = self.record.pid;
        // An adopted VM's process is not our child; its new parent reaps it.
        tokio::task::spawn_blocking(move || jail::wait(pid))
            .await
            .map_err(io::Error::other)?;
        remove_files(&self.dir)?;
        self.cgroup.remove().await?;
        Ok(())
    }
}

/// How a child of this process ended, if it has.
pub(crate) fn exit(pidfd: &OwnedFd) -> Option<Exit> {
    // Looked at only: whoever destroys the VM collects the child.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).ok()??;
    let code = status.exit_status().map(Exit::Code);
    code.or_else(|| status.terminating_signal().map(Exit::Signal))
}

/// Watches a process through its pidfd, which is readable once it has ended.
pub(crate) fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "an owned descriptor stays open as long as it is registered"
    )]
    AsyncFd::new(pidfd)
}

/// Removes what a VM left whose process is gone or was never recorded: kills
/// what still runs in its control groups first.
pub(crate) async fn reap(id: &VmId, dir: &Path) -> Result<(), VmError> {
    reap_name(id.as_str()).await?;
    remove_files(dir)
}

/// Kills and removes whatever runs in the control groups of this name.
pub(crate) async fn reap_name(name: &str) -> Result<(), VmError> {
    let cgroup = Cgroup::named(name)?;
    for pid in cgroup.pids() {
        if let Ok(pidfd) = jail::pidfd_open(pid) {
            jail::pidfd_kill(&pidfd)?;
            let pidfd = watch(pidfd)?;
            let _guard = pidfd.readable().await?;
        }
    }
    cgroup.remove().await?;
    Ok(())
}

fn remove_files(dir: &Path) -> Result<(), VmError> {
    match fs_err::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// When a process began, in ticks since the host's boot; see proc(5), field 22.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}
