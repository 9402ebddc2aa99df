//! A channel of RFC 4254, section 6: a program with its streams, its terminal and its end.

use std::pin::pin;
use std::time::Duration;

use russh::server::Msg;
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tombolo_diag::log_limited;

use crate::backend::{Exit, Launch, Process, Sandbox, SpawnError, Started, Terminal};
use crate::pace::{Gauge, Held, Output};
use crate::shared::Shared;

/// RFC 4254, section 5.2: the data type of standard error.
const STDERR: u32 = 1;
/// What OpenSSH's server reports of a program that it could not start.
const EXIT_NOT_STARTED: u32 = 255;
const COPY_LEN: usize = 32 * 1024;

/// Starts a program on a channel and stays with it until either has ended.
pub(crate) async fn run<S: Sandbox>(shared: Shared<S>, channel: Channel<Msg>, launch: Launch) {
    let is_terminal = launch.terminal.is_some();
    let id = channel.id();
    let (mut read, write) = channel.split();
    let starting = timeout(shared.limits.start_timeout, shared.sandbox.spawn(launch));
    match starting.await {
        Ok(Ok(started)) => {
            attend(&shared, id, &mut read, &write, started, is_terminal).await;
        }
        Ok(Err(error)) => refuse(&shared, &write, &error).await,
        Err(elapsed) => {
            let error = SpawnError::Failed(elapsed.into());
            refuse(&shared, &write, &error).await;
        }
    }
    drop(write);
    drain(&mut read, &shared.gauge).await;
}

async fn refuse<S>(shared: &Shared<S>, write: &ChannelWriteHalf<Msg>, error: &SpawnError) {
    let text = format!("tombolo: {error}\r\n");
    let told = async {
        pin!(write.make_writer_ext(Some(STDERR)))
            .write_all(text.as_bytes())
            .await?;
        write.eof().await?;
        write.exit_status(EXIT_NOT_STARTED).await?;
        write.close().await?;
        Ok::<(), Gone>(())
    };
    // A client that takes nothing is waited for as long as it is there.
    if let Some(Err(error)) = shared.ended.run_until_cancelled(told).await {
        tracing::debug!(%error, "the client is gone already");
    }
}

/// Whatever fails when a client is told something means that it is gone.
type Gone = Box<dyn std::error::Error + Send + Sync>;

async fn attend<S: Sandbox>(
    shared: &Shared<S>,
    id: ChannelId,
    read: &mut ChannelReadHalf,
    write: &ChannelWriteHalf<Msg>,
    started: Started<S::Process>,
    is_terminal: bool,
) {
    let process = started.process;
    let gauge = &shared.gauge;
    let (chunks, queue) = mpsc::unbounded_channel();
    let ended = CancellationToken::new();
    let linger = shared.limits.linger;
    let out = Output::new(write.make_writer(), gauge.clone());
    let err = Output::new(write.make_writer_ext(Some(STDERR)), gauge.clone());
    let work = async {
        let wait = async {
            let exit = process.wait().await;
            // What else holds a terminal may keep it for ever; a pipe is read to its end.
            if is_terminal || exit.is_none() {
                ended.cancel();
            }
            exit
        };
        let copies = (
            copy(started.stdout, out, &ended, linger),
            copy(started.stderr, err, &ended, linger),
        );
        let (exit, (), ()) = tokio::join!(wait, copies.0, copies.1);
        exit
    };
    tokio::select! {
        exit = work => report(shared, id, write, exit).await,
        () = listen(shared, read, chunks, &process) => {
            if is_terminal {
                within(shared, process.signal(SIGHUP)).await;
            }
        }
        // A program goes on without input.
        () = async { feed(started.stdin, queue).await; std::future::pending().await } => {}
    }
}

async fn report<S: Sandbox>(
    shared: &Shared<S>,
    id: ChannelId,
    write: &ChannelWriteHalf<Msg>,
    exit: Option<Exit>,
) {
    let told = async {
        write.eof().await?;
        match exit {
            None => {}
            Some(Exit {
                signal: Some(signal),
                ..
            }) => {
                let name = signal_name(signal);
                let told = shared.handle.exit_signal_request(
                    id,
                    name,
                    false,
                    String::new(),
                    String::new(),
                );
                told.await
                    .map_err(|()| std::io::ErrorKind::BrokenPipe)
                    .map_err(std::io::Error::from)?;
            }
            Some(Exit { code, signal: None }) => {
                write
                    .exit_status(u32::try_from(code).unwrap_or(EXIT_NOT_STARTED))
                    .await?;
            }
        }
        write.close().await?;
        Ok::<(), Gone>(())
    };
    if told.await.is_err() {
        tracing::debug!("the client is gone already");
    }
}

/// Tells a program something, unless its sandbox does not take it in time: what the
/// client sends next waits meanwhile.
async fn within<S>(shared: &Shared<S>, telling: impl Future<Output = ()>) {
    if timeout(shared.limits.tell_timeout, telling).await.is_err() {
        log_limited!(debug, "a sandbox does not take a signal or a size");
    }
}

/// Takes what the client sends until it closes the channel.
async fn listen<S>(
    shared: &Shared<S>,
    read: &mut ChannelReadHalf,
    chunks: mpsc::UnboundedSender<Held>,
    process: &impl Process,
) {
    let gauge = &shared.gauge;
    let mut chunks = Some(chunks);
    while let Some(message) = read.wait().await {
        gauge.take(&message);
        match message {
            ChannelMsg::Data { data } => {
                let held = gauge.hold(data);
                // After the end of the input, or once nobody reads it, it is dropped.
                if let Some(chunks) = &chunks
                    && chunks.send(held).is_err()
                {
                    tracing::trace!("input after its end");
                }
            }
            ChannelMsg::Eof => chunks = None,
            ChannelMsg::WindowChange {
                col_width,
                row_height,
                ..
            } => {
                let terminal = Terminal {
                    columns: col_width,
                    rows: row_height,
                };
                within(shared, process.resize(terminal)).await;
            }
            ChannelMsg::Signal { signal } => {
                if let Some(signal) = signal_number(&signal) {
                    within(shared, process.signal(signal)).await;
                }
            }
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

/// Writes what was taken, and the end of it. Answers early when the program takes no more.
pub(crate) async fn feed(
    mut input: impl AsyncWrite + Unpin,
    mut chunks: mpsc::UnboundedReceiver<Held>,
) {
    let fed = async {
        while let Some(held) = chunks.recv().await {
            input.write_all(&held.data).await?;
            input.flush().await?;
        }
        input.shutdown().await
    };
    if let Err(error) = fed.await {
        tracing::debug!(%error, "a program takes no more input");
    }
}

/// Copies to the end, or, once `ended`, until a pause.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    ended: &CancellationToken,
    linger: Duration,
) {
    let mut buffer = vec![0; COPY_LEN];
    loop {
        let len = {
            let mut reading = pin!(from.read(&mut buffer));
            let read = tokio::select! {
                biased;
                read = &mut reading => read,
                () = ended.cancelled() => match timeout(linger, reading).await {
                    Ok(read) => read,
                    Err(_elapsed) => return,
                },
            };
            match read {
                Ok(0) => return,
                Ok(len) => len,
                Err(error) => {
                    tracing::debug!(%error, "a program's output broke off");
                    return;
                }
            }
        };
        let chunk = buffer.get(..len).unwrap_or_default();
        if to.write_all(chunk).await.is_err() {
            return;
        }
    }
}

/// Takes and drops what is left, so that it is counted no more.
pub(crate) async fn drain(read: &mut ChannelReadHalf, gauge: &Gauge) {
    while let Some(message) = read.wait().await {
        gauge.take(&message);
        if let ChannelMsg::Data { data } = message {
            drop(gauge.hold(data));
        }
    }
}

const SIGHUP: i32 = 1;

/// The signals that RFC 4254, section 6.10 names, with Linux's numbers, and those of
/// others that OpenSSH's client sends.
const SIGNALS: [(&str, i32); 15] = [
    ("HUP", SIGHUP),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
];

fn signal_number(signal: &Sig) -> Option<i32> {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name,
    };
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// RFC 4254 lets names of one's own have an `@`.
fn signal_name(number: i32) -> Sig {
    match SIGNALS.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => Sig::Custom((*name).to_owned()),
        None => Sig::Custom(format!("{number}@tombolo")),
    }
}
