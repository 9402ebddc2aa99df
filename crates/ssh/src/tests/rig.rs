//! A sandbox in memory: its shell knows a few words.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tombolo_proc::{Command, Output};

use crate::{
    Backend, ConnectError, Exit, Forwarded, Gateway, HostKey, Key, Launch, Limits, ListenError,
    Listening, Login, Process, Program, Sandbox, SpawnError, Started, Terminal,
};

pub(super) const USER: &str = "0123456789abcdef0123456789abcdef";
pub(super) const SANDBOX: &str = "sbx_ams_test";
/// A port at which an echo listens.
pub(super) const ECHO_PORT: u16 = 7;
/// A Unix socket at which another does.
pub(super) const ECHO_PATH: &str = "/run/echo";
/// What the sandbox listens on when any port will do, and one where it cannot.
pub(super) const FREE_PORT: NonZero<u16> = NonZero::new(4000).unwrap();
pub(super) const TAKEN_PORT: u16 = 4001;
const PIPE_LEN: usize = 4096;

/// A port that a client asked to listen on, and who takes its connections.
type Forward = (u16, mpsc::Sender<DuplexStream>);

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) closed: CancellationToken,
    pub(super) key: Arc<Mutex<Option<Key>>>,
    pub(super) launches: Arc<Mutex<Vec<Launch>>>,
    /// Where a test connects to what is forwarded from the sandbox.
    pub(super) forwards: Arc<Mutex<Vec<Forward>>>,
}

impl Backend for World {
    type Sandbox = Self;

    async fn authenticate(&self, login: Login<'_>) -> Option<Self> {
        let by_key = login.user_name == SANDBOX
            && login.key.is_some()
            && *self.key.lock() == login.key.map(|key| key.to_line().unwrap().parse().unwrap());
        (login.user_name == USER || by_key).then(|| self.clone())
    }
}

impl Sandbox for World {
    type Process = Word;
    type Stream = DuplexStream;

    fn id(&self) -> String {
        SANDBOX.to_owned()
    }

    async fn closed(&self) {
        self.closed.cancelled().await;
    }

    async fn spawn(&self, launch: Launch) -> Result<Started<Word>, SpawnError> {
        self.launches.lock().push(launch.clone());
        let line = match &launch.program {
            Program::Shell => "shell".to_owned(),
            Program::Sftp => "cat".to_owned(),
            Program::Command(line) if line == "missing" => return Err(SpawnError::Missing("it")),
            Program::Command(line) => line.clone(),
        };
        let (stdin, program_in) = duplex(PIPE_LEN);
        let (program_out, stdout) = duplex(PIPE_LEN);
        let (program_err, stderr) = duplex(PIPE_LEN);
        let (ended, exit) = watch::channel(None);
        let (signals, caught) = mpsc::unbounded_channel();
        let (sizes, resized) = watch::channel(launch.terminal);
        let streams = (program_in, program_out, program_err);
        let is_deaf = line == "deaf";
        tokio::spawn(async move {
            let end = act(&line, &launch, streams, caught, resized).await;
            ended.send_replace(Some(end));
        });
        Ok(Started {
            process: Word {
                exit,
                signals,
                sizes,
                is_deaf,
            },
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
        })
    }

    async fn connect(&self, port: NonZero<u16>) -> Result<DuplexStream, ConnectError> {
        if port.get() != ECHO_PORT {
            return Err(ConnectError::NothingListens);
        }
        let (near, far) = duplex(PIPE_LEN);
        tokio::spawn(echo(far));
        Ok(near)
    }

    async fn connect_local(&self, path: &str) -> Result<DuplexStream, ConnectError> {
        if path != ECHO_PATH {
            return Err(ConnectError::NothingListens);
        }
        let (near, far) = duplex(PIPE_LEN);
        tokio::spawn(echo(far));
        Ok(near)
    }

    async fn listen(&self, port: u16) -> Result<Forwarded<DuplexStream>, ListenError> {
        let (sender, streams) = mpsc::channel(1);
        self.forwards.lock().push((port, sender));
        if port == TAKEN_PORT {
            return Err(ListenError("taken".into()));
        }
        let port = NonZero::new(port).unwrap_or(FREE_PORT);
        Ok(Forwarded { port, streams })
    }
}

async fn echo(stream: DuplexStream) {
    let (mut from, mut to) = tokio::io::split(stream);
    drop(tokio::io::copy(&mut from, &mut to).await);
    drop(to.shutdown().await);
}

/// What the shell knows.
async fn act(
    line: &str,
    launch: &Launch,
    (mut input, mut output, mut error): (DuplexStream, DuplexStream, DuplexStream),
    mut signals: mpsc::UnboundedReceiver<i32>,
    resized: watch::Receiver<Option<Terminal>>,
) -> Exit {
    let mut words = line.split(' ');
    let mut code = 0;
    match (words.next().unwrap(), words.next()) {
        ("exit", Some(number)) => code = number.parse().unwrap(),
        ("cat" | "deaf", _) => drop(tokio::io::copy(&mut input, &mut output).await),
        ("complain", _) => error.write_all(b"complaint\n").await.unwrap(),
        ("flood", Some(bytes)) => {
            let mut left: usize = bytes.parse().unwrap();
            while left > 0 {
                let len = left.min(PIPE_LEN);
                if output.write_all(&[b'x'; PIPE_LEN][..len]).await.is_err() {
                    break;
                }
                left -= len;
            }
        }
        ("variable", Some(name)) => {
            let found = launch.environment.iter().find(|(known, _)| known == name);
            let value = found.map(|(_, value)| value.as_str()).unwrap_or_default();
            output.write_all(value.as_bytes()).await.unwrap();
        }
        ("die", Some(signal)) => {
            let signal = signal.parse().unwrap();
            return Exit {
                code: 128 + signal,
                signal: Some(signal),
            };
        }
        ("shell", _) => {
            let size = resized.borrow().unwrap_or(Terminal {
                columns: 0,
                rows: 0,
            });
            let text = format!("{}x{}\n", size.columns, size.rows);
            output.write_all(text.as_bytes()).await.unwrap();
            drop(input.read_to_end(&mut Vec::new()).await);
        }
        ("wait", _) => {
            output.write_all(b"waiting\n").await.unwrap();
            let signal = signals.recv().await;
            return Exit { code: 0, signal };
        }
        (other, _) => panic!("the shell does not know {other}"),
    }
    Exit { code, signal: None }
}

#[derive(Debug)]
pub(super) struct Word {
    exit: watch::Receiver<Option<Exit>>,
    signals: mpsc::UnboundedSender<i32>,
    sizes: watch::Sender<Option<Terminal>>,
    /// Whether nothing that it is told is ever answered.
    is_deaf: bool,
}

impl Process for Word {
    async fn resize(&self, terminal: Terminal) {
        if self.is_deaf {
            std::future::pending::<()>().await;
        }
        self.sizes.send_replace(Some(terminal));
    }

    async fn signal(&self, signal: i32) {
        self.signals.send(signal).unwrap_or_default();
    }

    async fn wait(&self) -> Option<Exit> {
        let mut exit = self.exit.clone();
        *exit.wait_for(Option::is_some).await.ok()?
    }
}

/// A gateway and a client's home.
pub(super) struct Rig {
    pub(super) world: World,
    pub(super) home: TempDir,
    pub(super) gateway: Gateway,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(Limits {
            refusal_time: Duration::from_millis(1),
            ..Limits::STANDARD
        })
        .await
    }

    pub(super) async fn with(limits: Limits) -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = HostKey::load_or_make(&home.path().join("host_key")).unwrap();
        let listening = Listening::at("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listening.address().port();
        let known = format!("[127.0.0.1]:{port} {}\n", key.public_line());
        fs_err::write(home.path().join("known_hosts"), known).unwrap();
        let world = World::default();
        let gateway = Gateway::start(listening, &key, limits, world.clone());
        Self {
            world,
            home,
            gateway,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// `ssh` as this user, in batch mode, with nobody's configuration.
    pub(super) fn ssh(&self, user: &str, options: &[&str], command: &[&str]) -> Command {
        let known = self.home.path().join("known_hosts");
        Command::new("ssh")
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
            ])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .args(["-o", "GlobalKnownHostsFile=none", "-o", "LogLevel=INFO"])
            .arg("-p")
            .arg(self.address().port().to_string())
            .args(options)
            .arg(format!("{user}@127.0.0.1"))
            .args(command)
            .env("HOME", self.home.path())
            .deadline(Duration::from_mins(1))
    }

    pub(super) async fn run(&self, options: &[&str], line: &[&str], input: &[u8]) -> Output {
        let command = self.ssh(USER, options, line).input(input);
        command.output().await.unwrap()
    }
}
