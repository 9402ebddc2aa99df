//! Starting a program from PID 1.
//!
//! The standard library's way waits, with a blocking read, until the child has
//! executed its program; an asynchronous single-threaded agent cannot wait, and
//! wants the child born inside its control group (moving it there afterwards
//! costs a grace period of the kernel). So: one `clone3`, and a pipe that the
//! caller reads when it likes. It ends without bytes when the program runs.

#![expect(unsafe_code, reason = "clone3 and execve have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::identity::Identity;

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const SHELL: &CStr = c"/bin/sh";
const OOM_SCORE_FILE: &CStr = c"/proc/self/oom_score_adj";

/// What to start, and around it what the child must be before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Paths to try in order, as the search along `PATH` does.
    pub paths: &'a [CString],
    /// The arguments, the program's own name first.
    pub args: &'a [CString],
    /// `KEY=value` strings.
    pub env: &'a [CString],
    pub directory: &'a CStr,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    pub terminal: ControllingTerminal,
    /// Absent when the program runs as whoever the caller is.
    pub identity: Option<&'a Identity>,
    /// The control group the program is born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub oom_score: OomScore,
    /// Soft and hard limit of open files.
    pub open_files_max: Option<(u64, u64)>,
}

/// Whether standard input becomes the session's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllingTerminal {
    None,
    Stdin,
}

/// What becomes of the parent's protection from the out-of-memory killer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomScore {
    Inherit,
    Neutral,
}

/// A child that may not have reached its program yet.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    /// Ends without bytes when the program runs; otherwise holds a report for
    /// [`SpawnFailure::from_report`]. Non-blocking.
    pub report: OwnedFd,
}

/// At what step a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Prepare,
    Directory,
    Execute,
}

/// Why a child never reached its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnFailure {
    pub stage: Stage,
    pub errno: i32,
}

/// Bytes of a report.
pub const REPORT_LEN: usize = 8;

impl SpawnFailure {
    /// Reads what a child left in the report pipe; `None` when it left nothing.
    #[must_use]
    pub fn from_report(report: &[u8]) -> Option<Self> {
        let (stage, errno) = report.split_first_chunk::<4>()?;
        let (errno, _) = errno.split_first_chunk::<4>()?;
        let stage = match u32::from_ne_bytes(*stage) {
            1 => Stage::Directory,
            2 => Stage::Execute,
            _ => Stage::Prepare,
        };
        let errno = i32::from_ne_bytes(*errno);
        Some(Self { stage, errno })
    }

    fn to_report(self) -> [u8; REPORT_LEN] {
        let stage: u32 = match self.stage {
            Stage::Prepare => 0,
            Stage::Directory => 1,
            Stage::Execute => 2,
        };
        let mut report = [0; REPORT_LEN];
        let (head, tail) = report.split_at_mut(4);
        head.copy_from_slice(&stage.to_ne_bytes());
        tail.copy_from_slice(&self.errno.to_ne_bytes());
        report
    }
}

/// Starts `program` in a session of its own. Does not wait for it.
pub fn spawn(program: &Program<'_>) -> io::Result<Started> {
    let (report, child_report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let mut prepared = Prepared::new(program);
    let (flags, cgroup) = match program.cgroup {
        Some(cgroup) => (CLONE_INTO_CGROUP, cgroup.as_raw_fd()),
        None => (0, 0),
    };
    // SAFETY: `clone_args` is plain data for which all zeroes is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | CLONE_CLEAR_SIGHAND;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.cgroup = u64::from(cgroup.unsigned_abs());
    // SAFETY: without CLONE_VM and with no stack given this is a fork: the
    // child goes on in a copy of this memory. Other threads may have held the
    // allocator's or libc's locks at that moment, so the child allocates
    // nothing and calls nothing that locks, until it executes or exits.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => run_child(program, &mut prepared, &child_report),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => Ok(Started {
            pid: i32::try_from(pid).unwrap_or(i32::MAX),
            report,
        }),
    }
}

/// Keeps what this process was given from the programs it starts: descriptors
/// besides the standard streams, and signals that are ignored. Call once, before
/// any signal is handled.
pub fn withhold_inheritance() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: `sigaction` is plain data for which all zeroes is a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only asks, and writes into `action`, which lives on.
        let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
        // Our own choice, which every child undoes.
        if asked == 0 && action.sa_sigaction == libc::SIG_IGN && signal != libc::SIGPIPE {
            // SAFETY: the default disposition is not code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    let cloexec = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or_default();
    // SAFETY: sets a flag and closes nothing.
    let marked = unsafe { libc::close_range(3, libc::c_uint::MAX, cloexec) };
    if marked < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What the child needs and may not allocate.
struct Prepared {
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Arguments for a script without an interpreter line: the shell, room for
    /// the script's path, the program's arguments.
    shell_argv: Vec<*const libc::c_char>,
    groups: Vec<Gid>,
}

impl Prepared {
    fn new(program: &Program<'_>) -> Self {
        let pointers = |strings: &[CString]| {
            let strings = strings.iter().map(|string| string.as_ptr());
            strings.chain([ptr::null()]).collect::<Vec<_>>()
        };
        let argv = pointers(program.args);
        let mut shell_argv = vec![SHELL.as_ptr(), ptr::null()];
        shell_argv.extend(argv.get(1..).unwrap_or(&[ptr::null()]));
        Self {
            argv,
            envp: pointers(program.env),
            shell_argv,
            groups: program
                .identity
                .map(Identity::kernel_groups)
                .unwrap_or_default(),
        }
    }
}

/// Runs in the child, in a copy of the parent's memory. Must not allocate,
/// lock or panic.
fn run_child(program: &Program<'_>, prepared: &mut Prepared, report: &OwnedFd) -> ! {
    let failure = match enter(program, prepared) {
        Ok(()) => execute(program, prepared),
        Err(failure) => failure,
    };
    // A parent that no longer listens is the only way this fails.
    rustix::io::write(report, &failure.to_report()).unwrap_or_default();
    // SAFETY: ends the process at once, running nothing of the parent's.
    unsafe { libc::_exit(127) }
}

fn enter(program: &Program<'_>, prepared: &Prepared) -> Result<(), SpawnFailure> {
    let prepare = |errno: rustix::io::Errno| SpawnFailure {
        stage: Stage::Prepare,
        errno: errno.raw_os_error(),
    };
    rustix::process::setsid().map_err(prepare)?;
    // The three may be one descriptor, and none of them is below 3.
    rustix::stdio::dup2_stdin(program.stdin).map_err(prepare)?;
    rustix::stdio::dup2_stdout(program.stdout).map_err(prepare)?;
    rustix::stdio::dup2_stderr(program.stderr).map_err(prepare)?;
    if program.terminal == ControllingTerminal::Stdin {
        rustix::process::ioctl_tiocsctty(program.stdin).map_err(prepare)?;
    }
    if program.oom_score == OomScore::Neutral {
        let file = rustix::fs::open(OOM_SCORE_FILE, OFlags::WRONLY, Mode::empty());
        let file = file.map_err(prepare)?;
        rustix::io::write(&file, b"0").map_err(prepare)?;
    }
    if let Some((soft, hard)) = program.open_files_max {
        let limit = Rlimit {
            current: Some(soft),
            maximum: Some(hard),
        };
        rustix::process::setrlimit(Resource::Nofile, limit).map_err(prepare)?;
    }
    if let Some(identity) = program.identity {
        let uid = Uid::from_raw(identity.uid);
        let gid = Gid::from_raw(identity.gid);
        rustix::thread::set_thread_groups(&prepared.groups).map_err(prepare)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(prepare)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(prepare)?;
    }
    rustix::process::chdir(program.directory).map_err(|errno| SpawnFailure {
        stage: Stage::Directory,
        errno: errno.raw_os_error(),
    })?;
    reset_signals();
    Ok(())
}

/// The standard library ignores SIGPIPE, and what is ignored or blocked stays
/// so across an execution; programs expect neither.
fn reset_signals() {
    // SAFETY: the default disposition is not code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: a signal set is plain data for which all zeroes is the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` lives across the call, and the former mask is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// Tries the paths as `execvp` does; answers why none of them ran.
fn execute(program: &Program<'_>, prepared: &mut Prepared) -> SpawnFailure {
    // A single path was named outright, so its own error is the answer.
    let searching = program.paths.len() > 1;
    let mut failed = libc::ENOENT;
    for path in program.paths {
        let errno = match execute_one(path, &prepared.argv, &prepared.envp) {
            libc::ENOEXEC => execute_script(path, prepared),
            errno => errno,
        };
        match errno {
            libc::EACCES => failed = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ETIMEDOUT if searching => {}
            errno => {
                failed = errno;
                break;
            }
        }
    }
    SpawnFailure {
        stage: Stage::Execute,
        errno: failed,
    }
}

fn execute_script(path: &CStr, prepared: &mut Prepared) -> i32 {
    if let Some(script) = prepared.shell_argv.get_mut(1) {
        *script = path.as_ptr();
    }
    execute_one(SHELL, &prepared.shell_argv, &prepared.envp)
}

fn execute_one(path: &CStr, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> i32 {
    // SAFETY: the path ends in a nul, both vectors end in a null pointer and
    // hold pointers to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}
