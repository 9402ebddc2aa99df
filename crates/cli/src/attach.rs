//! A process in a sandbox with this command's own input and output: bytes
//! both ways with backpressure, signals and terminal sizes inwards, the exit
//! status back.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tombolo_diag::ExitCode;

use crate::failure::{Failure, OrFail as _, Outcome};
use crate::terminal::{self, RawMode};
use crate::wire;
use tombolo_client::{
    CallError, Command, ExitStatus, Process, ProcessHandle, ReadStream, Signal as GuestSignal,
    Stdio, StreamError, WriteStream,
};

mod keys;

use keys::DetachKeys;

/// How much of the input is read at once.
const INPUT_CHUNK_LEN: usize = 64 * 1024;
/// After the exit, how long an output may be silent before it is taken to be
/// held open by a process that was left behind.
const SILENCE_AFTER_EXIT: Duration = Duration::from_secs(2);
/// So many interrupts end the command here, whatever becomes of the process.
const INTERRUPTS_MAX: u32 = 3;
/// How long a signal may take to reach the sandbox before the next is heard.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(1);

/// How the process talks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Terminal,
    Pipes,
}

impl Mode {
    /// A terminal where the person has one, unless they decided.
    pub(crate) fn choose(force_terminal: bool, force_pipes: bool) -> Self {
        if force_terminal || (terminal::is_attached() && !force_pipes) {
            Self::Terminal
        } else {
            Self::Pipes
        }
    }
}

/// Starts the command and stays with it until it has exited and its output is
/// written.
pub(crate) async fn run(
    command: Command,
    mode: Mode,
    signals: &mut Signals,
) -> Outcome<ExitStatus> {
    let piped = Stdio::Piped;
    let command = command.stdin(piped).stdout(piped).stderr(piped);
    let command = match mode {
        Mode::Terminal => command.terminal(terminal::size()),
        Mode::Pipes => command,
    };
    let process = command.spawn().await.map_err(wire::not_started)?;
    let _raw = match mode {
        Mode::Terminal => enter_raw_mode(),
        Mode::Pipes => None,
    };
    let status = converse(process, mode, None, signals).await?;
    let left = || {
        let words = "the command was left, which nobody asked for";
        Failure::message(ExitCode::Internal, words)
    };
    status.ok_or_else(left)
}

/// Stays with a process on the terminal until it has exited and its output is
/// written, or, with nothing to answer, until the person leaves it running: by
/// the keys for that, or by closing the terminal.
pub(crate) async fn stay(process: Process, signals: &mut Signals) -> Outcome<Option<ExitStatus>> {
    let _raw = enter_raw_mode();
    let keys = Some(DetachKeys::default());
    converse(process, Mode::Terminal, keys, signals).await
}

/// Raw mode only where there is a terminal to set: `-t` may be given without.
fn enter_raw_mode() -> Option<RawMode> {
    if !terminal::is_attached() {
        return None;
    }
    match RawMode::enter() {
        Ok(raw) => Some(raw),
        Err(error) => {
            tracing::warn!(%error, "the terminal stays in line mode");
            None
        }
    }
}

async fn converse(
    mut process: Process,
    mode: Mode,
    keys: Option<DetachKeys>,
    signals: &mut Signals,
) -> Outcome<Option<ExitStatus>> {
    let handle = process.handle();
    let stdin = process.stdin.take();
    let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
    let (exited, has_exited) = watch::channel(false);
    // A terminal that is gone is no end of the program that has its own.
    let may_leave = keys.is_some();
    // The pump ends with the process that reads it; the thread that may still
    // wait for a key is left to the end of this program.
    let mut input = AbortOnDrop(tokio::spawn(pump_input(stdin, keys)));
    let has_both_exited = has_exited.clone();
    let out = async {
        match pump_output(stdout, tokio::io::stdout(), has_both_exited).await {
            Err(OutputError::Write(error)) if may_leave => {
                tracing::debug!(%error, "the terminal is gone");
                // The input or the signal that says so as well is what ends this.
                std::future::pending().await
            }
            pumped => pumped.while_doing("the command's output is not complete"),
        }
    };
    let err = async {
        let pumped = pump_output(stderr, tokio::io::stderr(), has_exited).await;
        pumped.while_doing("the command's error output is not complete")
    };
    let exit = async {
        let status = process.exited().await;
        exited.send_replace(true);
        status.while_doing("the command's exit is not known")
    };
    let work = async {
        // An output that fails, as when another client has taken it, is the end.
        let (status, (), ()) = tokio::try_join!(exit, out, err)?;
        Ok(Some(status))
    };
    let left = async {
        match (&mut input.0).await {
            Ok(Pumped::Left) => {}
            // The process goes on without input, or is over.
            Ok(Pumped::All) | Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        status = work => status,
        forwarded = forward(&handle, mode, may_leave, signals) => forwarded,
        () = left => Ok(None),
    }
}

/// A task that does not outlive its owner.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<Pumped>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How the input came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pumped {
    All,
    /// The person leaves the process, whose input stays open.
    Left,
}

async fn pump_input(stdin: Option<WriteStream>, mut keys: Option<DetachKeys>) -> Pumped {
    let Some(stdin) = stdin else {
        return Pumped::All;
    };
    let may_leave = keys.is_some();
    let mut source = tokio::io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK_LEN];
    loop {
        match source.read(&mut buffer).await {
            Ok(0) => break,
            Ok(len) => {
                let typed = &buffer[..len];
                let (typed, leaves) = match &mut keys {
                    Some(keys) => keys.pass(typed),
                    None => (typed.to_vec(), false),
                };
                if let Err(error) = stdin.write(&typed).await {
                    tracing::debug!(%error, "the command reads no more");
                    return Pumped::All;
                }
                if leaves {
                    return Pumped::Left;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "standard input ended");
                break;
            }
        }
    }
    if may_leave {
        // In raw mode no key ends the input: the terminal is gone.
        return Pumped::Left;
    }
    if let Err(error) = stdin.finish().await {
        tracing::debug!(%error, "the command reads no more");
    }
    Pumped::All
}

/// Why output was not passed on.
#[derive(Debug, thiserror::Error)]
enum OutputError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("it cannot be written here")]
    Write(#[source] std::io::Error),
}

async fn pump_output(
    stream: Option<ReadStream>,
    mut sink: impl AsyncWrite + Unpin,
    has_exited: watch::Receiver<bool>,
) -> Result<(), OutputError> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    loop {
        let next = tokio::select! {
            biased;
            chunk = stream.chunk() => Some(chunk?),
            () = silence(has_exited.clone()) => None,
        };
        // Dropping the stream tells the process that nobody reads any more.
        let Some(Some(chunk)) = next else {
            return Ok(());
        };
        let written = async {
            sink.write_all(&chunk).await?;
            sink.flush().await
        };
        match written.await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                // Whoever read our output has had enough, and so the process
                // shall find its own pipe closed.
                return Ok(());
            }
            Err(error) => return Err(OutputError::Write(error)),
        }
    }
}

/// Ends some time after the process has.
async fn silence(mut has_exited: watch::Receiver<bool>) {
    // The sender lives as long as the wait for the exit; an error is an exit.
    if has_exited.wait_for(|exited| *exited).await.is_err() {
        tracing::trace!("the wait for the exit is over");
    }
    tokio::time::sleep(SILENCE_AFTER_EXIT).await;
}

/// What the person or the system tells this command. Listened for from before
/// the process starts, so that nothing is missed and an early interrupt does
/// not leave a sandbox behind.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    window: Signal,
}

/// One thing that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Signal(GuestSignal, u8),
    WindowChanged,
}

const HANG_UP: Told = Told::Signal(GuestSignal::Hup, 1);
const INTERRUPT: Told = Told::Signal(GuestSignal::Int, 2);
const TERMINATE: Told = Told::Signal(GuestSignal::Term, 15);

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// Waits for a signal that would end a program, and answers the exit code
    /// of one that it has ended.
    pub(crate) async fn end(&mut self) -> u8 {
        loop {
            if let Told::Signal(_, number) = self.next().await {
                return 128 + number;
            }
        }
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => TERMINATE,
            _ = self.hang_up.recv() => HANG_UP,
            _ = self.quit.recv() => Told::Signal(GuestSignal::Quit, 3),
            _ = self.window.recv() => Told::WindowChanged,
        }
    }
}

/// Passes on what this command is told. Ends only when the person insists, or,
/// with nothing to answer, when the terminal of a process that may be left is
/// closed: what that means to this command does not mean it to the process.
async fn forward(
    process: &ProcessHandle,
    mode: Mode,
    may_leave: bool,
    signals: &mut Signals,
) -> Outcome<Option<ExitStatus>> {
    let mut interrupts = 0;
    loop {
        let told = signals.next().await;
        if may_leave && matches!(told, HANG_UP | TERMINATE) {
            return Ok(None);
        }
        if told == INTERRUPT {
            interrupts += 1;
        }
        if interrupts >= INTERRUPTS_MAX {
            return Ok(Some(ExitStatus {
                success: false,
                code: 130,
                signal: Some("SIGINT".to_owned()),
                oom: None,
            }));
        }
        let sent = async {
            match told {
                Told::Signal(signal, _) => process.kill(signal).await,
                Told::WindowChanged if mode == Mode::Terminal => {
                    process.resize(terminal::size()).await
                }
                Told::WindowChanged => Ok(()),
            }
        };
        // Not waited for without end, so that a stalled connection does not
        // swallow the interrupts that follow.
        match tokio::time::timeout(SIGNAL_PATIENCE, sent).await {
            Ok(sent) => report(sent.err()),
            Err(_elapsed) => tracing::warn!(?told, "the sandbox has not heard of it yet"),
        }
    }
}

fn report(error: Option<CallError>) {
    if let Some(error) = error {
        tracing::warn!(%error, "the process could not be told");
    }
}
