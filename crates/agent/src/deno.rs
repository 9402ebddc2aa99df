//! Deno in the guest: programs, REPLs, fetches.
//!
//! What Deno runs are processes of the sandbox's user like any other. Three
//! small programs of ours run in them, kept in [`DIRECTORY`]:
//!
//! ```text
//! repl.mjs   in the process of a REPL: evaluates what comes over its socket
//! fetch.mjs  in a process of its own: fetches, one connection each
//! watch.mjs  before a program that Deno watches: tells of its starts
//! ```
//!
//! The agent is a pipe between them and the host, and does not read what they
//! say but for the lengths of frames: they share their user, and the REPL its
//! process, with code that nobody trusts. A connection carries one request, so
//! that none waits for another, and is broken when a process ends, so that
//! none waits for ever. Design record 0012.

mod fetch;
mod frames;
pub(crate) mod listeners;
mod repl;
mod socket;
mod watch;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::{Instant, sleep};
use tombolo_guest_proto::v1::spawn_deno_request::Program;
use tombolo_guest_proto::v1::{
    DenoCode, DenoEntrypoint, DenoHttpWaitReply, SpawnDenoRequest, SpawnRequest, Stdio,
};

use crate::agent::Agent;
use crate::fault::{CallError, Cause, at};
use crate::log::log;
use crate::process::Process;
use fetch::Fetcher;
pub(crate) use fetch::fetch;
use repl::Repl;
pub(crate) use repl::{close, run, warm};
use socket::Socket;
use watch::Watched;
pub(crate) use watch::restarts;

/// Where the programs are in a guest.
pub(crate) const DIRECTORY: &str = "/run/tombolo/deno";
const SCRIPTS: [(&str, &str); 4] = [
    ("frames.mjs", include_str!("deno/scripts/frames.mjs")),
    ("repl.mjs", include_str!("deno/scripts/repl.mjs")),
    ("fetch.mjs", include_str!("deno/scripts/fetch.mjs")),
    ("watch.mjs", include_str!("deno/scripts/watch.mjs")),
];
/// Below the directory: where programs make their sockets.
const SOCKETS: &str = "sockets";
const DENO: &str = "deno";
/// Where the image has it, for processes without a `PATH`.
const DENO_PATH: &str = "/usr/local/bin/deno";
const EXTENSIONS: [&str; 8] = ["js", "cjs", "mjs", "ts", "cts", "mts", "jsx", "tsx"];
/// The longest argument that Linux gives a program, less its end.
const ARGUMENT_LEN_MAX: usize = 128 * 1024 - 1;
/// How often is looked for a listening socket, and until what age of the wait.
const LOOKS: [(Duration, Duration); 2] = [
    (Duration::from_secs(5), Duration::from_millis(20)),
    (Duration::from_mins(1), Duration::from_millis(100)),
];
const LOOK_AT_LAST: Duration = Duration::from_millis(500);

/// Deno's part of the agent's state.
#[derive(Debug)]
pub(crate) struct Deno {
    directory: PathBuf,
    fetcher: Fetcher,
}

/// What a process of Deno's is besides a process.
#[derive(Debug)]
pub(crate) enum Role {
    Repl(Repl),
    Watched(Watched),
}

impl Deno {
    /// Writes the programs. A guest without them works but for Deno.
    pub(crate) fn prepare(directory: PathBuf) -> Self {
        if let Err(error) = write_scripts(&directory) {
            log!("cannot write the programs that Deno runs: {error}");
        }
        Self {
            directory,
            fetcher: Fetcher::default(),
        }
    }

    fn script(&self, name: &str) -> String {
        format!("file://{}/{name}", self.directory.display())
    }

    fn new_socket(&self) -> Result<Socket, CallError> {
        Ok(Socket::new(self.new_path()?))
    }

    /// A path that nobody else has or guesses.
    fn new_path(&self) -> Result<PathBuf, CallError> {
        let mut bytes = [0; 16];
        getrandom(&mut bytes, GetRandomFlags::empty()).map_err(at("spawn", DENO))?;
        let name = format!("{:032x}", u128::from_ne_bytes(bytes));
        Ok(self.directory.join(SOCKETS).join(name))
    }
}

fn write_scripts(directory: &Path) -> std::io::Result<()> {
    let sockets = directory.join(SOCKETS);
    fs_err::create_dir_all(&sockets)?;
    // As `/tmp` is: everybody's, but each removes only what is theirs.
    fs_err::set_permissions(&sockets, PermissionsExt::from_mode(0o1777))?;
    for (name, text) in SCRIPTS {
        let path = directory.join(name);
        fs_err::write(&path, text)?;
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

/// How Deno is started on a program.
struct Launch {
    args: Vec<String>,
    /// The program, where it comes by standard input.
    input: Option<String>,
    role: Option<Role>,
}

/// Starts Deno.
pub(crate) async fn spawn(
    agent: &Agent,
    request: SpawnDenoRequest,
) -> Result<Arc<Process>, CallError> {
    let mut process = request.process.unwrap_or_default();
    let has_stdin = process.stdin() == Stdio::Piped;
    let launch = match request.program {
        Some(Program::Entrypoint(entrypoint)) => entry(&agent.deno, entrypoint)?,
        Some(Program::Code(code)) => inline(code, has_stdin)?,
        Some(Program::Repl(_)) => {
            let repl = Repl::new(agent.deno.new_socket()?);
            let code = DenoCode {
                text: repl.program(&agent.deno.script("repl.mjs")),
                extension: "mjs".to_owned(),
            };
            let role = Some(Role::Repl(repl));
            Launch {
                role,
                ..inline(code, has_stdin)?
            }
        }
        None => return Err(invalid("no program is named")),
    };
    prepare(&mut process);
    process.args = launch.args;
    process.args.extend(request.script_args);
    if launch.input.is_some() {
        process.stdin = Stdio::Piped.into();
    }
    let process = agent.spawn(process).await?;
    if let Some(input) = launch.input {
        process.give_input(Bytes::from(input));
    }
    if let Some(role) = launch.role {
        role.begin(&process);
    }
    Ok(process)
}

/// What every process of Deno's starts with.
fn prepare(process: &mut SpawnRequest) {
    let finds_deno = !process.clear_env || process.env.contains_key("PATH");
    DENO_PATH.clone_into(&mut process.command);
    if finds_deno {
        DENO.clone_into(&mut process.command);
    }
    let update_check = process.env.entry("DENO_NO_UPDATE_CHECK".to_owned());
    update_check.or_insert_with(|| "1".to_owned());
}

fn entry(deno: &Deno, entrypoint: DenoEntrypoint) -> Result<Launch, CallError> {
    let DenoEntrypoint {
        path,
        watch,
        watch_also,
    } = entrypoint;
    if path.is_empty() {
        return Err(invalid("the entrypoint has no name"));
    }
    let mut args = vec!["run".to_owned(), "-A".to_owned()];
    let mut role = None;
    if watch {
        let watched = Watched::new(deno.new_path()?)?;
        // A comma within a path is written twice.
        let also: Vec<_> = watch_also
            .iter()
            .map(|path| path.replace(',', ",,"))
            .collect();
        args.push(match also.as_slice() {
            [] => "--watch".to_owned(),
            also => format!("--watch={}", also.join(",")),
        });
        args.push("--no-clear-screen".to_owned());
        args.push(format!(
            "--preload={}",
            watched.module(&deno.script("watch.mjs"))
        ));
        role = Some(Role::Watched(watched));
    }
    // What follows is the program's, but its own name must not look like a flag.
    let is_flag = path.starts_with('-');
    args.push(if is_flag { format!("./{path}") } else { path });
    Ok(Launch {
        args,
        input: None,
        role,
    })
}

/// Code runs as a module of the working directory, so that what it imports by
/// a relative path is found there. Deno reads it from standard input, or where
/// the program is to have that itself, from an argument, which is slower.
fn inline(code: DenoCode, has_stdin: bool) -> Result<Launch, CallError> {
    let DenoCode { text, extension } = code;
    if !EXTENSIONS.contains(&extension.as_str()) {
        return Err(invalid(
            "the extension is not one of js, cjs, mjs, ts, cts, mts, jsx, tsx",
        ));
    }
    let extension = format!("--ext={extension}");
    if !has_stdin {
        let args = ["run", "-A", &extension, "-"].map(str::to_owned).to_vec();
        return Ok(Launch {
            args,
            input: Some(text),
            role: None,
        });
    }
    if text.len() > ARGUMENT_LEN_MAX {
        return Err(invalid(
            "code of 128 KiB or more cannot have a standard input; \
             write it to a file and run that",
        ));
    }
    let args = ["eval", &extension, "--", &text];
    Ok(Launch {
        args: args.map(str::to_owned).to_vec(),
        input: None,
        role: None,
    })
}

impl Role {
    /// Makes `process` be what this is, until it ends.
    fn begin(self, process: &Arc<Process>) {
        let path = match &self {
            Self::Repl(repl) => repl.path().to_owned(),
            Self::Watched(watched) => {
                watched.follow(process);
                watched.path().to_owned()
            }
        };
        // It has none yet: it is new.
        process.deno.set(self).unwrap_or_default();
        let process = Arc::clone(process);
        tokio::spawn(async move {
            if process.wait().await.is_ok() {
                // A program that never came so far has made nothing.
                fs_err::remove_file(path).unwrap_or_default();
            }
        });
    }
}

/// Waits until the process or one below it listens on a TCP port.
pub(crate) async fn http_wait(process: &Process) -> Result<DenoHttpWaitReply, CallError> {
    let begin = Instant::now();
    let mut search = listeners::Search::default();
    while process.exit().is_none() {
        if let Some(address) = search.look(process.pid, Instant::now()).await {
            return Ok(DenoHttpWaitReply {
                host: Some(address.ip().to_string()),
                port: address.port().into(),
            });
        }
        let age = begin.elapsed();
        let pause = LOOKS.iter().find(|(until, _)| age < *until);
        let pause = pause.map_or(LOOK_AT_LAST, |(_, pause)| *pause);
        tokio::select! {
            () = sleep(pause) => {}
            _ended = process.wait() => {}
        }
    }
    Ok(DenoHttpWaitReply::default())
}

fn invalid(why: &'static str) -> CallError {
    CallError::new("deno", "", Cause::InvalidArgument(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str, extension: &str) -> DenoCode {
        DenoCode {
            text: text.to_owned(),
            extension: extension.to_owned(),
        }
    }

    #[test]
    fn code_comes_by_standard_input_unless_that_is_the_programs_own() {
        for extension in EXTENSIONS {
            let flag = format!("--ext={extension}");
            let launch = inline(code("-1", extension), false).unwrap();
            assert_eq!(launch.args, ["run", "-A", &flag, "-"]);
            assert_eq!(launch.input.as_deref(), Some("-1"));
            let launch = inline(code("-1", extension), true).unwrap();
            assert_eq!(launch.args, ["eval", &flag, "--", "-1"]);
            assert_eq!(launch.input, None);
        }
        let long = "x".repeat(ARGUMENT_LEN_MAX + 1);
        assert!(inline(code(&long, "ts"), false).is_ok());
        assert!(inline(code(&long, "ts"), true).is_err());
        for wrong in ["", "TS", "json", "ts,js", "../ts"] {
            assert!(inline(code("1", wrong), false).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_entrypoint_is_never_a_flag() {
        let directory = tempfile::tempdir().unwrap();
        let deno = Deno::prepare(directory.path().to_owned());
        let args = |path: &str| {
            let entrypoint = DenoEntrypoint {
                path: path.to_owned(),
                ..DenoEntrypoint::default()
            };
            entry(&deno, entrypoint).map(|launch| launch.args)
        };
        assert_eq!(args("main.ts").unwrap(), ["run", "-A", "main.ts"]);
        assert_eq!(args("--watch").unwrap(), ["run", "-A", "./--watch"]);
        assert!(args("").is_err());
    }

    #[test]
    fn watched_paths_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let deno = Deno::prepare(directory.path().to_owned());
        let entrypoint = DenoEntrypoint {
            path: "main.ts".to_owned(),
            watch: true,
            watch_also: vec!["a,b".to_owned(), "c".to_owned()],
        };
        let launch = entry(&deno, entrypoint).unwrap();
        assert_eq!(launch.args[2], "--watch=a,,b,c");
        assert!(matches!(launch.role, Some(Role::Watched(_))));
    }
}
