//! Host side: the jail one VM runs in.
//!
//! [`spawn`] starts a program as the first process of new mount, pid, ipc,
//! network and host-name namespaces, on a root that holds only what the spec
//! lists, under its own user, inside its control groups, without privileges it
//! could regain, and with only the descriptors it was given. The child stays a
//! child of the caller, which watches it through a pidfd; it does not die with
//! the caller.
//!
//! Between clone and exec the child of a threaded process may only do what is
//! async-signal-safe, so everything it needs is allocated before, in `Plan`.

mod child;

use std::ffi::{CString, NulError, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A directory or file of the host, shown inside the jail.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the jail; it must exist in the jail's root.
    pub target: PathBuf,
    /// Whether the jail may write there.
    pub access: Access,
}

/// What a jail may do with a bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// Everything a jailed program gets.
#[derive(Debug)]
pub struct JailSpec {
    /// Directory that becomes `/`, read-only. It must hold an empty `dev`.
    pub root: PathBuf,
    /// Shown inside the root, in this order.
    pub binds: Vec<Bind>,
    /// Whether `/dev/kvm` is among the devices.
    pub with_kvm: bool,
    /// User and group of the program; it gets no supplementary groups.
    pub uid: u32,
    /// Group of the program.
    pub gid: u32,
    /// `cgroup.procs` files the program is entered into, opened for writing.
    pub cgroup_procs: Vec<OwnedFd>,
    /// Absolute path of the program inside the jail.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// Descriptors it gets: the first is 3, the next 4, and so on.
    pub descriptors: Vec<OwnedFd>,
    /// Its standard output; standard input is `/dev/null`.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// A running jailed program.
#[derive(Debug)]
pub struct Jailed {
    /// Its process id on the host.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
}

/// Why a jail could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A path or argument holds a NUL byte.
    #[error("a jail path or argument holds a NUL byte")]
    Nul(#[from] NulError),
    /// A descriptor could not be prepared or the process not be made.
    #[error("cannot {step} for a jail")]
    Prepare {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The child gave up before it became the program.
    #[error("the jail could not {step}")]
    Child {
        /// What the child was doing.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Starts the program. Answers once it runs (its `exec` succeeded).
pub fn spawn(spec: JailSpec) -> Result<Jailed, SpawnError> {
    let plan = Plan::new(spec)?;
    let (mut report, report_writer) = std::io::pipe().map_err(prepare("make a pipe"))?;
    // Above every number the program's own descriptors are put at.
    let report_writer = raise(&report_writer.into(), "raise a pipe")?;
    let (pid, pidfd) = child::clone(&plan, &report_writer).map_err(prepare("clone a process"))?;
    drop(report_writer);
    drop(plan);
    let mut failure = [0_u8; child::REPORT_LEN];
    if report.read(&mut failure).map_err(prepare("read a pipe"))? == 0 {
        return Ok(Jailed { pid, pidfd });
    }
    let (step, source) = child::decode_report(failure);
    wait(pid);
    Err(SpawnError::Child { step, source })
}

fn prepare(step: &'static str) -> impl FnOnce(std::io::Error) -> SpawnError {
    move |source| SpawnError::Prepare { step, source }
}

/// Collects a child that has ended, if it is ours and has; never blocks long,
/// since it is called only after the pidfd said so or the child reported.
pub fn wait(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // An adopted VM is not our child: then there is nothing to collect.
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok();
    }
}

/// Opens a pidfd for a running process.
pub fn pidfd_open(pid: i32) -> std::io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    Ok(rustix::process::pidfd_open(
        pid,
        rustix::process::PidfdFlags::empty(),
    )?)
}

/// Sends SIGKILL through a pidfd. A process that is gone is success.
pub fn pidfd_kill(pidfd: &impl AsFd) -> std::io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Descriptors of the program are first moved to numbers from here on, so that
/// placing one at its final number cannot overwrite another.
const RAISED_MIN: i32 = 200;

fn raise(descriptor: &OwnedFd, step: &'static str) -> Result<OwnedFd, SpawnError> {
    rustix::io::fcntl_dupfd_cloexec(descriptor, RAISED_MIN)
        .map_err(|errno| prepare(step)(errno.into()))
}

/// The spec, with everything allocated.
struct Plan {
    root: CString,
    dev: CString,
    dev_nodes: Vec<(CString, u32, u32)>,
    binds: Vec<(CString, CString, Access)>,
    uid: u32,
    gid: u32,
    cgroup_procs: Vec<OwnedFd>,
    program: CString,
    /// Kept for `argv_pointers`.
    _argv: Vec<CString>,
    /// Pointers into `_argv`, ended by a null, as `execve` wants them.
    argv_pointers: Vec<*const libc::c_char>,
    descriptors: Vec<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    null: OwnedFd,
}

impl Plan {
    fn new(spec: JailSpec) -> Result<Self, SpawnError> {
        let inside = |path: &str| -> Result<CString, NulError> {
            let mut full = spec.root.as_os_str().as_bytes().to_vec();
            full.extend_from_slice(path.as_bytes());
            CString::new(full)
        };
        let mut dev_nodes = vec![
            (inside("/dev/null")?, 1, 3),
            (inside("/dev/zero")?, 1, 5),
            (inside("/dev/urandom")?, 1, 9),
        ];
        if spec.with_kvm {
            dev_nodes.push((inside("/dev/kvm")?, 10, 232));
        }
        let mut binds = Vec::with_capacity(spec.binds.len());
        for bind in &spec.binds {
            let target = inside(&bind.target.to_string_lossy())?;
            let source = CString::new(bind.source.as_os_str().as_bytes())?;
            binds.push((source, target, bind.access));
        }
        let program = CString::new(spec.program.as_os_str().as_bytes())?;
        let mut argv = vec![program.clone()];
        for argument in spec.args {
            argv.push(CString::new(argument.into_vec())?);
        }
        let argv_pointers = argv
            .iter()
            .map(|argument| argument.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        let mut descriptors = Vec::with_capacity(spec.descriptors.len());
        for descriptor in spec.descriptors {
            descriptors.push(raise(&descriptor, "raise a descriptor")?);
        }
        let null = std::fs::OpenOptions::new()
            .read(true)
            .open("/dev/null")
            .map_err(prepare("open /dev/null"))?;
        Ok(Self {
            dev: inside("/dev")?,
            root: inside("")?,
            dev_nodes,
            binds,
            uid: spec.uid,
            gid: spec.gid,
            cgroup_procs: spec.cgroup_procs,
            program,
            _argv: argv,
            argv_pointers,
            descriptors,
            stdout: raise(&spec.stdout, "raise the standard output")?,
            stderr: raise(&spec.stderr, "raise the standard error")?,
            null: raise(&null.into(), "raise /dev/null")?,
        })
    }
}

/// Takes over a raw descriptor that the kernel has just handed to us.
fn own(raw: i32) -> OwnedFd {
    // SAFETY: the caller got `raw` from the kernel in this very call and has
    // given it to nobody else.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn raw(descriptor: &OwnedFd) -> i32 {
    descriptor.as_raw_fd()
}

#[cfg(test)]
mod tests;
