//! The builder: what to run, where, with what environment and descriptors.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    future::Future,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::io::AsyncWriteExt;

use crate::{
    Output, RunError,
    capture::{Captured, Keep},
};

/// What a program sees of the environment unless told otherwise.
pub const BASE_ENVIRONMENT: [(&str, &str); 3] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/"),
    ("LANG", "C.UTF-8"),
];

/// How much is kept of each output stream unless told otherwise.
pub const OUTPUT_LIMIT: usize = 1 << 20;

/// After a program ended, how long its pipes may stay open in the hands of a
/// process it left behind before what was read so far has to do.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// A program to run. Running does not consume it, so it can be run again.
#[derive(Debug, Clone)]
#[must_use]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    cwd: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    input: Vec<u8>,
    output_limit: usize,
    deadline: Option<Duration>,
    process_group: bool,
    kill_on_drop: bool,
    run_as: Option<(u32, u32)>,
}

impl Command {
    /// A program by absolute path, or by a name looked up in the `PATH` that
    /// the program itself will see.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let environment = BASE_ENVIRONMENT
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            cwd: PathBuf::from("/"),
            environment,
            input: Vec::new(),
            output_limit: OUTPUT_LIMIT,
            deadline: None,
            process_group: false,
            kill_on_drop: true,
            run_as: None,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let more = arguments.into_iter().map(|a| a.as_ref().to_owned());
        self.arguments.extend(more);
        self
    }

    /// Sets the working directory; `/` unless set.
    pub fn cwd(mut self, directory: impl AsRef<Path>) -> Self {
        directory.as_ref().clone_into(&mut self.cwd);
        self
    }

    /// Sets one variable, also one of [`BASE_ENVIRONMENT`].
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.insert(name, value);
        self
    }

    /// Sets variables.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        variables
            .into_iter()
            .fold(self, |command, (name, value)| command.env(name, value))
    }

    /// Passes on variables of this process that are set; the others stay unset.
    pub fn pass_env(self, names: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        names
            .into_iter()
            .fold(self, |command, name| match std::env::var_os(&name) {
                Some(value) => command.env(name, value),
                None => command,
            })
    }

    /// Passes on this process's whole environment, for a program that acts on
    /// behalf of the person who called us (a build tool, their own command).
    pub fn inherit_env(self) -> Self {
        self.envs(std::env::vars_os())
    }

    /// Starts from no variable at all, not even [`BASE_ENVIRONMENT`].
    pub fn clear_env(mut self) -> Self {
        self.environment.clear();
        self
    }

    /// What the program reads from standard input; nothing unless set.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// How many bytes are kept of each output stream.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Kills the program when it takes longer.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// Puts the program into a process group of its own: a terminal's Ctrl-C
    /// does not reach it, and a missed deadline kills what it started too.
    pub fn process_group(mut self, own: bool) -> Self {
        self.process_group = own;
        self
    }

    /// Whether a program started by [`spawn`](Self::spawn) or whose run was
    /// cancelled is killed when its handle is dropped; it is unless turned off.
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// Runs the program as this user and group, without supplementary groups.
    pub fn run_as(mut self, uid: u32, gid: u32) -> Self {
        self.run_as = Some((uid, gid));
        self
    }

    /// The program and its arguments as a person would type them.
    pub fn display(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        let quoted: Vec<String> = words.map(|word| quote(&word.to_string_lossy())).collect();
        quoted.join(" ")
    }

    /// Runs the program; anything but success is an error.
    pub async fn run(&self) -> Result<Output, RunError> {
        self.run_with_lines(|_| ()).await
    }

    /// Like [`run`](Self::run), and hands every line the program writes to
    /// either stream to a listener as it appears.
    pub async fn run_with_lines(&self, on_line: impl Fn(&str) + Sync) -> Result<Output, RunError> {
        let output = self.output_with_lines(on_line).await?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(RunError::failed(&self.program_name(), &output))
        }
    }

    /// Runs the program and reports however it ended.
    pub async fn output(&self) -> Result<Output, RunError> {
        self.output_with_lines(|_| ()).await
    }

    /// [`run`](Self::run) for callers without a runtime.
    pub fn run_blocking(&self) -> Result<Output, RunError> {
        self.block_on(self.run())
    }

    /// [`run_with_lines`](Self::run_with_lines) for callers without a runtime.
    pub fn run_with_lines_blocking(
        &self,
        on_line: impl Fn(&str) + Sync + Send,
    ) -> Result<Output, RunError> {
        self.block_on(self.run_with_lines(on_line))
    }

    /// [`output`](Self::output) for callers without a runtime.
    pub fn output_blocking(&self) -> Result<Output, RunError> {
        self.block_on(self.output())
    }

    /// Starts the program with the given descriptors and leaves the rest to
    /// the caller. Input, limits and deadline of the builder do not apply.
    pub fn spawn(
        &self,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<tokio::process::Child, RunError> {
        let mut command = tokio::process::Command::from(self.prepare(&self.program));
        command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(self.kill_on_drop)
            .spawn()
            .map_err(|source| self.start_error(source))
    }

    /// Runs the program with this process's own standard streams, for a tool
    /// whose output is meant for the person who called us. Input, limits and
    /// deadline of the builder do not apply.
    pub fn status_blocking(&self) -> Result<ExitStatus, RunError> {
        self.prepare(&self.program)
            .status()
            .map_err(|source| self.start_error(source))
    }

    /// Replaces this process by the program, which keeps our standard streams.
    /// Returns only when that fails.
    pub fn exec(&self) -> RunError {
        let source = self.prepare(&self.program).exec();
        self.start_error(source)
    }

    async fn output_with_lines(&self, on_line: impl Fn(&str) + Sync) -> Result<Output, RunError> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped(), Stdio::piped())?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut out = Captured::new(Keep::First, self.output_limit);
        let mut err = Captured::new(Keep::Last, self.output_limit);
        let waited = {
            let transfer = async {
                let feed = feed(stdin, &self.input);
                let read_out = out.fill(stdout, &on_line);
                let read_err = err.fill(stderr, &on_line);
                tokio::try_join!(feed, read_out, read_err).map(|_| ())
            };
            self.wait(&mut child, transfer).await
        };
        let (stdout, out_truncated) = out.into_parts();
        let (stderr, err_truncated) = err.into_parts();
        match waited {
            Ok(Some(status)) => Ok(Output {
                status,
                stdout,
                stderr,
                truncated: out_truncated || err_truncated,
            }),
            Ok(None) => Err(RunError::Deadline {
                program: self.program_name(),
                limit: self.deadline.unwrap_or_default(),
                stderr: crate::capture::last_lines(&stderr),
            }),
            Err(source) => Err(RunError::Contact {
                program: self.program_name(),
                source,
            }),
        }
    }

    /// The status, or `None` when the deadline passed and the program was killed.
    async fn wait(
        &self,
        child: &mut tokio::process::Child,
        transfer: impl Future<Output = io::Result<()>>,
    ) -> io::Result<Option<ExitStatus>> {
        tokio::pin!(transfer);
        let mut transferred = false;
        let ended = {
            let deadline = async {
                match self.deadline {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    done = &mut transfer, if !transferred => {
                        done?;
                        transferred = true;
                    }
                    status = child.wait() => break Some(status?),
                    () = &mut deadline => break None,
                }
            }
        };
        if ended.is_none() {
            self.kill(child).await?;
        }
        if !transferred {
            match tokio::time::timeout(DRAIN_LIMIT, transfer).await {
                Ok(done) => done?,
                Err(_still_open) => (),
            }
        }
        Ok(ended)
    }

    async fn kill(&self, child: &mut tokio::process::Child) -> io::Result<()> {
        let group = child
            .id()
            .filter(|_| self.process_group)
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // The group may be gone already; the child itself is reaped below.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        child.kill().await
    }

    /// Runs a future to its end on a thread of its own, so that callers inside
    /// and outside a runtime may both block.
    fn block_on<F>(&self, future: F) -> Result<Output, RunError>
    where
        F: Future<Output = Result<Output, RunError>> + Send,
    {
        let drive = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| self.start_error(source))?
                .block_on(future)
        };
        std::thread::scope(|scope| match scope.spawn(drive).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that every subprocess passes through"
    )]
    pub(crate) fn prepare(&self, program: &OsStr) -> std::process::Command {
        let mut command = std::process::Command::new(program);
        command
            .args(&self.arguments)
            .current_dir(&self.cwd)
            .env_clear()
            .envs(&self.environment);
        if self.process_group {
            command.process_group(0);
        }
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(crate) fn path_variable(&self) -> &OsStr {
        self.environment
            .get(OsStr::new("PATH"))
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    pub(crate) fn start_error(&self, source: io::Error) -> RunError {
        RunError::Start {
            program: self.program_name(),
            cwd: self.cwd.clone(),
            source,
        }
    }

    fn program_name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }
}

/// Writes a program's input and closes it. A program that ends without reading
/// it all is no error.
async fn feed(stdin: Option<tokio::process::ChildStdin>, input: &[u8]) -> io::Result<()> {
    if let Some(mut stdin) = stdin {
        stdin.write_all(input).await.ok();
    }
    Ok(())
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
