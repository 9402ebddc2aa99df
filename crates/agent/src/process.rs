//! The sandbox's processes: a table of what was started here, running or ended.
//!
//! ```text
//! spawn ──► starting ──exec──► running ──reaped──► ended ──► forgotten
//!              └──failed──► removed
//! ```
//!
//! All of it runs on the agent's one main thread, which alone forks and alone
//! waits for children; so a child's end is never seen before its entry exists.
//! Signals, arguments and output come from hostile programs and the network:
//! nothing panics, everything is bounded.

mod input;
mod oom;
mod output;
mod reaper;
mod spawn;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::watch;
use tombolo_guest_proto::v1::{OomVerdict, ProcessInfo, WaitReply, WindowSize};

use crate::deno::Role;
use crate::fault::{CallError, at};
use input::StdinPipe;
pub(crate) use input::feed;
pub(crate) use oom::KernelKills;
use output::{Output, ReplayBudget};
pub(crate) use output::{OutputReader, Stream as OutputStream};
pub(crate) use reaper::reap_forever;
pub(crate) use spawn::Spawner;

/// Processes started here and running at one time.
const RUNNING_MAX: usize = 16_384;
/// Ended processes whose exit status is kept.
const ENDED_MAX: usize = 65_536;
/// Ended processes whose pipes are kept for a late reader.
const ENDED_WITH_PIPES_MAX: usize = 1024;
/// Entries in one listing.
const LISTED_MAX: usize = 8192;
const COMMAND_LEN_MAX: usize = 256;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: i32,
    pub(crate) oom: OomVerdict,
}

impl From<Exit> for WaitReply {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom.into(),
        }
    }
}

/// One process started here.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Tells this process from a later one with the same pid.
    serial: u64,
    command: String,
    exit: watch::Sender<Option<Exit>>,
    /// How many processes the kernel had killed for memory before this began.
    kills_before: u64,
    streams: ProcessStreams,
    /// Set for some processes of Deno's.
    pub(crate) deno: OnceLock<Role>,
}

/// The agent's ends of a process's standard streams.
#[derive(Debug)]
pub(crate) struct ProcessStreams {
    stdin: Option<tokio::sync::Mutex<Option<StdinPipe>>>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<OwnedFd>,
}

impl Process {
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Answers when the process has ended; at once when it has already.
    pub(crate) async fn wait(&self) -> Result<Exit, CallError> {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|exit| *exit);
        ended.ok_or_else(|| no_process("wait"))
    }

    pub(crate) fn kill(&self, signal: i32) -> Result<(), CallError> {
        if self.exit().is_some() {
            return Err(no_process("kill"));
        }
        // Not reaped yet, so the pid cannot belong to another process.
        let pid = Pid::from_raw(self.pid).ok_or_else(|| no_process("kill"))?;
        if signal == 0 {
            return test_kill_process(pid).map_err(at("kill", ""));
        }
        let signal = Signal::from_named_raw(signal);
        let signal = signal.ok_or_else(|| CallError::errno("kill", "", Errno::INVAL))?;
        kill_process(pid, signal).map_err(at("kill", ""))
    }

    /// Writes all that the process reads on its standard input, and closes that.
    pub(crate) fn give_input(self: &Arc<Self>, input: Bytes) {
        let process = Arc::clone(self);
        tokio::spawn(async move {
            let Some(stdin) = &process.streams.stdin else {
                return;
            };
            if let Some(mut pipe) = stdin.lock().await.take() {
                // A process that ends, or closes it, wants no more.
                pipe.write_all(input).await.unwrap_or_default();
            }
        });
    }

    /// Closes the pipe of `stream`, so that the process learns that nobody reads
    /// what it writes. A terminal stays open: it is the input too.
    pub(crate) fn close_output(&self, stream: OutputStream) {
        if self.streams.terminal.is_none()
            && let Some(output) = stream.of(self)
        {
            output.close();
        }
    }

    fn close_streams(&self) {
        let outputs = [&self.streams.stdout, &self.streams.stderr];
        for output in outputs.into_iter().flatten() {
            output.close();
        }
        if let Some(stdin) = &self.streams.stdin
            && let Ok(mut stdin) = stdin.try_lock()
        {
            *stdin = None;
        }
    }
}

/// Every process started here.
#[derive(Debug)]
pub(crate) struct Processes {
    table: Mutex<Table>,
    pub(crate) kills: KernelKills,
}

#[derive(Debug, Default)]
struct Table {
    by_pid: HashMap<i32, Arc<Process>>,
    /// The ended ones, oldest first.
    ended: VecDeque<Arc<Process>>,
    /// How many at the front of `ended` have had their pipes closed.
    stripped: usize,
    running: usize,
    next_serial: u64,
}

impl Processes {
    pub(crate) fn watching(kills: KernelKills) -> Self {
        Self {
            table: Mutex::default(),
            kills,
        }
    }

    pub(crate) fn find(
        &self,
        operation: &'static str,
        pid: i32,
    ) -> Result<Arc<Process>, CallError> {
        let table = self.table.lock();
        let process = table.by_pid.get(&pid).cloned();
        process.ok_or_else(|| no_process(operation))
    }

    pub(crate) fn kill(&self, pid: i32, signal: i32) -> Result<(), CallError> {
        self.find("kill", pid)?.kill(signal)
    }

    /// Ends what still runs, each with the group it leads.
    pub(crate) fn kill_all(&self) {
        let table = self.table.lock();
        let running = table.by_pid.values();
        for process in running.filter(|process| process.exit().is_none()) {
            if let Some(group) = Pid::from_raw(process.pid) {
                // It may have ended by itself.
                kill_process_group(group, Signal::KILL).unwrap_or_default();
            }
        }
    }

    pub(crate) fn resize(&self, pid: i32, size: WindowSize) -> Result<(), CallError> {
        let process = self.find("resize", pid)?;
        let terminal = process.streams.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| CallError::errno("resize", "", Errno::NOTTY))?;
        tcsetwinsize(terminal, winsize(size)).map_err(at("resize", ""))
    }

    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let table = self.table.lock();
        let info = |process: &Arc<Process>| ProcessInfo {
            pid: process.pid,
            command: process.command.clone(),
            running: process.exit().is_none(),
            has_terminal: process.streams.terminal.is_some(),
        };
        let running = table.by_pid.values();
        let running = running.filter(|process| process.exit().is_none());
        let ended = table.ended.iter().rev();
        let mut list: Vec<_> = running.chain(ended).take(LISTED_MAX).map(info).collect();
        list.sort_by_key(|process| process.pid);
        list
    }

    pub(crate) fn running(&self) -> usize {
        self.table.lock().running
    }

    fn has_room(&self) -> bool {
        self.table.lock().running < RUNNING_MAX
    }

    fn insert(&self, pid: i32, command: &str, streams: ProcessStreams) -> Arc<Process> {
        let mut table = self.table.lock();
        table.next_serial += 1;
        table.running += 1;
        let process = Arc::new(Process {
            pid,
            serial: table.next_serial,
            command: command.chars().take(COMMAND_LEN_MAX).collect(),
            exit: watch::Sender::new(None),
            kills_before: self.kills.count(),
            streams,
            deno: OnceLock::new(),
        });
        table.by_pid.insert(pid, Arc::clone(&process));
        process
    }

    /// Forgets a process that never reached its program.
    fn remove(&self, process: &Process) {
        let mut table = self.table.lock();
        let same = |other: &Arc<Process>| other.serial == process.serial;
        if table.by_pid.get(&process.pid).is_some_and(same) {
            table.by_pid.remove(&process.pid);
        }
        if process.exit().is_none() {
            table.running = table.running.saturating_sub(1);
        } else if let Some(at) = table.ended.iter().rposition(same) {
            table.ended.remove(at);
            if at < table.stripped {
                table.stripped -= 1;
            }
        }
    }

    /// Records the end of `pid`, if it is one of ours and not an orphan.
    fn end(&self, pid: i32, code: i32, signal: i32) {
        let mut table = self.table.lock();
        let Some(process) = table.by_pid.get(&pid).cloned() else {
            return;
        };
        if process.exit().is_some() {
            return;
        }
        let oom = self.kills.verdict(pid, code, process.kills_before);
        process.exit.send_replace(Some(Exit { code, signal, oom }));
        table.running = table.running.saturating_sub(1);
        table.ended.push_back(process);
        if table.ended.len() - table.stripped > ENDED_WITH_PIPES_MAX {
            if let Some(oldest) = table.ended.get(table.stripped) {
                oldest.close_streams();
            }
            table.stripped += 1;
        }
        if table.ended.len() > ENDED_MAX
            && let Some(oldest) = table.ended.pop_front()
        {
            table.stripped = table.stripped.saturating_sub(1);
            let same = |other: &Arc<Process>| other.serial == oldest.serial;
            if table.by_pid.get(&oldest.pid).is_some_and(same) {
                table.by_pid.remove(&oldest.pid);
            }
        }
    }
}

pub(crate) fn no_process(operation: &'static str) -> CallError {
    CallError::errno(operation, "", Errno::SRCH)
}

fn winsize(size: WindowSize) -> Winsize {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    Winsize {
        ws_row: cells(size.rows),
        ws_col: cells(size.columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
