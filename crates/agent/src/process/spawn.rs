//! Starting processes.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, tcgetattr, tcsetattr, tcsetwinsize};
use tombolo_guest_proto::v1::{SpawnRequest, Stdio, WindowSize};
use tombolo_sys::guest::identity::Identity;
use tombolo_sys::guest::readiness::Readiness;
use tombolo_sys::guest::spawn::{
    ControllingTerminal, OomScore, Program, REPORT_LEN, SpawnFailure, Stage, Started,
};

use super::{Output, Process, ProcessStreams, Processes, ReplayBudget, StdinPipe, winsize};
use crate::environment::{Environment, Inherit, ProcessEnvironment};
use crate::fault::{CallError, Cause, at};
use crate::log::log;

/// Where programs are looked for when the environment has no `PATH`.
const FALLBACK_PATH: &str = "/bin:/usr/bin";

/// What every process starts with.
#[derive(Debug)]
pub(crate) struct Spawner {
    identity: Option<Identity>,
    home: String,
    /// The control group that bounds them all.
    cgroup: Option<OwnedFd>,
    oom_score: OomScore,
    open_files_max: Option<(u64, u64)>,
    null: OwnedFd,
    budget: Arc<ReplayBudget>,
}

/// What becomes of the standard streams.
#[derive(Clone, Copy, Debug)]
enum Streams {
    Terminal(WindowSize),
    Each {
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    },
}

impl Streams {
    fn of(request: &SpawnRequest) -> Self {
        match request.terminal {
            Some(size) => Self::Terminal(size),
            None => Self::Each {
                stdin: request.stdin(),
                stdout: request.stdout(),
                stderr: request.stderr(),
            },
        }
    }
}

impl Spawner {
    /// Processes that run as `identity` with no limits besides the caller's.
    pub(crate) fn new(identity: Identity, home: &str) -> std::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self {
            identity: geteuid().is_root().then_some(identity),
            home: home.to_owned(),
            cgroup: None,
            oom_score: OomScore::Inherit,
            open_files_max: None,
            null: rustix::fs::open("/dev/null", flags, Mode::empty())?,
            budget: Arc::default(),
        })
    }

    /// Processes of a guest: inside `cgroup`, without the agent's privileges.
    pub(crate) fn in_guest(self, cgroup: Option<OwnedFd>, open_files_max: (u64, u64)) -> Self {
        Self {
            cgroup,
            oom_score: OomScore::Neutral,
            open_files_max: Some(open_files_max),
            ..self
        }
    }

    /// Starts what `request` asks for; answers when the program runs.
    pub(crate) async fn spawn(
        &self,
        processes: &Processes,
        environment: &Environment,
        mut request: SpawnRequest,
    ) -> Result<Arc<Process>, CallError> {
        let streams = Streams::of(&request);
        let inherit = if request.clear_env {
            Inherit::Nothing
        } else {
            Inherit::Store
        };
        let terminal = matches!(streams, Streams::Terminal(_));
        let environment =
            environment.for_process(std::mem::take(&mut request.env), inherit, terminal)?;
        let directory = Path::new(&self.home).join(&request.cwd);
        let directory = directory.into_os_string().into_encoded_bytes();
        let directory = CString::new(directory).map_err(|_nul| nul("chdir", &request.cwd))?;
        let paths = paths_of(&request.command, &environment)?;
        let args = std::iter::once(&request.command).chain(&request.args);
        let args = args
            .map(|arg| CString::new(arg.as_str()).map_err(|_nul| nul("spawn", &request.command)))
            .collect::<Result<Vec<_>, _>>()?;
        if !processes.has_room() {
            return Err(CallError::errno("spawn", &request.command, Errno::AGAIN));
        }
        let ends = self.ends(streams).map_err(at("spawn", &request.command))?;
        let program = Program {
            paths: &paths,
            args: &args,
            env: &environment.to_strings(),
            directory: &directory,
            stdin: ends.child_stdin.as_ref().unwrap_or(&self.null).as_fd(),
            stdout: ends.child_stdout.as_ref().unwrap_or(&self.null).as_fd(),
            stderr: ends.child_stderr.as_ref().unwrap_or(&self.null).as_fd(),
            terminal: ends.terminal,
            identity: self.identity.as_ref(),
            cgroup: self.cgroup.as_ref().map(OwnedFd::as_fd),
            oom_score: self.oom_score,
            open_files_max: self.open_files_max,
        };
        let Started { pid, report } = start(&program).map_err(at("spawn", &request.command))?;
        let process = processes.insert(pid, &request.command, ends.ours);
        drop((ends.child_stdin, ends.child_stdout, ends.child_stderr));
        let unfinished = Unfinished {
            processes,
            process: &process,
            armed: true,
        };
        let failure = read_report(report).await;
        let failure = failure.map_err(at("spawn", &request.command))?;
        unfinished.finish(failure, &request)?;
        Ok(process)
    }

    fn ends(&self, streams: Streams) -> std::io::Result<Ends> {
        match streams {
            Streams::Terminal(size) => self.terminal_ends(size),
            Streams::Each {
                stdin,
                stdout,
                stderr,
            } => self.pipe_ends(stdin, stdout, stderr),
        }
    }

    fn pipe_ends(&self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> std::io::Result<Ends> {
        let mut ends = Ends::default();
        if stdin == Stdio::Piped {
            let (reader, writer) = self.pipe()?;
            ioctl_fionbio(&writer, true)?;
            ends.child_stdin = Some(reader);
            let pipe = StdinPipe::pipe(writer);
            ends.ours.stdin = Some(tokio::sync::Mutex::new(Some(pipe)));
        }
        if stdout == Stdio::Piped {
            let (output, writer) = self.output()?;
            ends.child_stdout = Some(writer);
            ends.ours.stdout = Some(output);
        }
        if stderr == Stdio::Piped {
            let (output, writer) = self.output()?;
            ends.child_stderr = Some(writer);
            ends.ours.stderr = Some(output);
        }
        Ok(ends)
    }

    fn output(&self) -> std::io::Result<(Output, OwnedFd)> {
        let (reader, writer) = self.pipe()?;
        ioctl_fionbio(&reader, true)?;
        Ok((Output::new(reader, Arc::clone(&self.budget)), writer))
    }

    fn pipe(&self) -> std::io::Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        self.give(writer.as_fd())?;
        Ok((reader, writer))
    }

    /// Makes the process's user the owner, who may then open `/dev/stdout`.
    fn give(&self, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        if let Some(identity) = &self.identity {
            let uid = Uid::from_raw(identity.uid);
            let gid = Gid::from_raw(identity.gid);
            fchown(fd, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    fn terminal_ends(&self, size: WindowSize) -> std::io::Result<Ends> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        self.give(slave.as_fd())?;
        let mut attributes = tcgetattr(&slave)?;
        attributes.input_modes |= InputModes::IUTF8;
        tcsetattr(&slave, OptionalActions::Now, &attributes)?;
        tcsetwinsize(&master, winsize(size))?;
        ioctl_fionbio(&master, true)?;
        // One registration for readiness each, so one descriptor each.
        let stdin = StdinPipe::terminal(master.try_clone()?);
        Ok(Ends {
            child_stdin: Some(slave.try_clone()?),
            child_stdout: Some(slave.try_clone()?),
            child_stderr: Some(slave),
            terminal: ControllingTerminal::Stdin,
            ours: ProcessStreams {
                stdin: Some(tokio::sync::Mutex::new(Some(stdin))),
                stdout: Some(Output::new(master.try_clone()?, Arc::clone(&self.budget))),
                stderr: None,
                terminal: Some(master),
            },
        })
    }
}

/// Both ends of a new process's streams; the null device where there is none.
#[derive(Debug)]
struct Ends {
    child_stdin: Option<OwnedFd>,
    child_stdout: Option<OwnedFd>,
    child_stderr: Option<OwnedFd>,
    terminal: ControllingTerminal,
    ours: ProcessStreams,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            child_stdin: None,
            child_stdout: None,
            child_stderr: None,
            terminal: ControllingTerminal::None,
            ours: ProcessStreams {
                stdin: None,
                stdout: None,
                stderr: None,
                terminal: None,
            },
        }
    }
}

/// A process whose program may not run yet. When nobody waits to learn its pid
/// any more it is ended, or it would run unknown to all.
struct Unfinished<'a> {
    processes: &'a Processes,
    process: &'a Process,
    armed: bool,
}

impl Unfinished<'_> {
    fn finish(
        mut self,
        failure: Option<SpawnFailure>,
        request: &SpawnRequest,
    ) -> Result<(), CallError> {
        self.armed = false;
        let Some(SpawnFailure { stage, errno }) = failure else {
            return Ok(());
        };
        self.processes.remove(self.process);
        let (operation, path) = match stage {
            Stage::Prepare | Stage::Execute => ("spawn", &request.command),
            Stage::Directory => ("chdir", &request.cwd),
        };
        Err(CallError::new(operation, path, Cause::Os(errno)))
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed
            && self.process.exit().is_none()
            && let Some(pid) = Pid::from_raw(self.process.pid)
        {
            // It may end by itself at this moment, which is as good.
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
    }
}

/// Starts the program where it belongs. Root of the guest can close a control
/// group to new members, or remove it, and then programs start outside.
fn start(program: &Program<'_>) -> std::io::Result<Started> {
    let started = tombolo_sys::guest::spawn::spawn(program);
    let errno = started.as_ref().err().and_then(Errno::from_io_error);
    match errno {
        Some(Errno::BUSY | Errno::NODEV | Errno::OPNOTSUPP) if program.cgroup.is_some() => {
            log!("the control group takes no programs");
            tombolo_sys::guest::spawn::spawn(&Program {
                cgroup: None,
                ..*program
            })
        }
        _ => started,
    }
}

/// Waits until the child runs its program or has said why it cannot.
async fn read_report(report: OwnedFd) -> std::io::Result<Option<SpawnFailure>> {
    let report = Readiness::new(report)?;
    let mut bytes = [0; REPORT_LEN];
    loop {
        let mut ready = report.readable().await?;
        match rustix::io::read(report.fd(), &mut bytes) {
            Ok(len) => {
                let bytes = bytes.get(..len).unwrap_or_default();
                return Ok(SpawnFailure::from_report(bytes));
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The files that `command` may mean, in the order to try them.
fn paths_of(command: &str, environment: &ProcessEnvironment) -> Result<Vec<CString>, CallError> {
    let to_path = |path: String| CString::new(path).map_err(|_nul| nul("spawn", command));
    if command.is_empty() {
        return Err(CallError::errno("spawn", command, Errno::NOENT));
    }
    if command.contains('/') {
        return Ok(vec![to_path(command.to_owned())?]);
    }
    let directories = environment.path().unwrap_or(FALLBACK_PATH).split(':');
    directories
        .map(|directory| match directory {
            "" => to_path(format!("./{command}")),
            directory => to_path(format!("{directory}/{command}")),
        })
        .collect()
}

fn nul(operation: &'static str, path: &str) -> CallError {
    let cause = Cause::InvalidArgument("an argument holds a nul byte");
    CallError::new(operation, path, cause)
}
