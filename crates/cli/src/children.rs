//! The processes that `tombolo up` starts. Each reads how to run as one line
//! of JSON from its standard input, says on its standard output when it is
//! ready, and ends when its standard input does: then its parent has gone.

mod egress_program;
mod launch;
pub(crate) mod node_program;
mod server_program;

use std::io::{BufRead as _, Read as _, Write as _};

use rustix::process::{Signal, getpid, kill_process};
use serde::de::DeserializeOwned;
use tombolo_diag::ExitCode;
use tombolo_server::Ending;

pub(crate) use launch::{EgressLaunch, NodeLaunch, Ready, ServerLaunch};

use crate::failure::{Failure, Outcome};
use crate::privileges::{self, Keep};

/// The longest line of launch instructions: the table of hosts may be long.
const LAUNCH_LEN_MAX: u64 = 1024 * 1024;
/// The threads of the server, which mostly waits.
const SERVER_THREADS: usize = 2;
/// The threads of the node and of the egress proxy, on a large machine.
const THREADS_MAX: usize = 8;

/// The exit code of a server that made room for another, which no other end has.
pub(crate) const RETIRED: u8 = 10;

/// `tombolo server`. Answers its exit code.
pub(crate) fn server() -> Outcome<u8> {
    let launch: ServerLaunch = read_launch()?;
    privileges::raise_descriptor_limit();
    privileges::drop_to(launch.run_as, launch.rights())
        .map_err(|error| Failure::new(ExitCode::NoPermission, error))?;
    // Whoever started this has gone, so nobody would start it again: it ends
    // in order, and the sandboxes live on.
    when_parent_is_gone(Signal::TERM);
    let ending = runtime(SERVER_THREADS)?.block_on(server_program::run(launch, say_ready))?;
    Ok(match ending {
        Ending::Stopped => ExitCode::Ok.code(),
        Ending::Retired => RETIRED,
    })
}

/// `tombolo node`.
pub(crate) fn node() -> Outcome {
    let launch: NodeLaunch = read_launch()?;
    privileges::raise_descriptor_limit();
    // Not in order: an ordered end of the node may be the end of its virtual
    // machines, and they have to be there for the next one to take over.
    when_parent_is_gone(Signal::KILL);
    runtime(machine_threads())?.block_on(node_program::run(launch, || say_ready("node")))
}

/// `tombolo egress-proxy`.
pub(crate) fn egress() -> Outcome {
    let launch: EgressLaunch = read_launch()?;
    privileges::raise_descriptor_limit();
    privileges::raise_locked_memory_limit();
    let run_as = launch.settings.run_as;
    let opened = egress_program::open(launch)?;
    privileges::drop_to(run_as, Keep::Nothing)
        .map_err(|error| Failure::new(ExitCode::NoPermission, error))?;
    when_parent_is_gone(Signal::TERM);
    let run = egress_program::run(opened, || say_ready("egress"));
    // It never blocks a thread, so a processor for each is enough: two on one would only
    // take it from each other.
    runtime(processors().clamp(1, THREADS_MAX))?.block_on(run)
}

/// As many threads as this machine runs at once, within reason.
fn machine_threads() -> usize {
    processors().clamp(2, THREADS_MAX)
}

/// The processors that this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn runtime(threads: usize) -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

fn read_launch<T: DeserializeOwned>() -> Outcome<T> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock().take(LAUNCH_LEN_MAX);
    input.read_line(&mut line)?;
    serde_json::from_str(&line).map_err(|error| {
        Failure::new(ExitCode::Usage, error)
            .context("there are no launch instructions on standard input")
            .hint("this is a part of \"tombolo up\"; start that instead")
    })
}

/// Sends this process a signal when standard input ends.
fn when_parent_is_gone(signal: Signal) {
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let ended = std::io::stdin().lock().read_to_end(&mut rest);
        tracing::debug!(?ended, "standard input has ended");
        if let Err(error) = kill_process(getpid(), signal) {
            tracing::error!(%error, "this process cannot end itself");
        }
    });
}

/// Tells the parent that callers can come, and where to.
fn say_ready(what: impl std::fmt::Display) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{what}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "nobody hears that this process is ready");
    }
}
