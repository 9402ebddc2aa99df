//! A guest agent without a guest: processes follow a script, files are bytes
//! in a map.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tombolo_guest_proto::v1::dial_chunk::Part;
use tombolo_guest_proto::v1::dial_target::To;
use tombolo_guest_proto::v1::{KillRequest, OsError, SpawnRequest, WaitReply};
use tonic::Status;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ECONNREFUSED: i32 = 111;
/// The first pid that is handed out.
const FIRST_PID: i32 = 100;

/// What a command does.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// How it exits by itself; `None` runs until it is killed.
    pub exit: Option<WaitReply>,
}

impl Script {
    /// Prints and exits with 0.
    #[must_use]
    pub fn prints(stdout: &str) -> Self {
        Self {
            stdout: stdout.as_bytes().to_vec(),
            stderr: Vec::new(),
            exit: Some(WaitReply::default()),
        }
    }

    /// Runs until a signal ends it.
    #[must_use]
    pub fn runs() -> Self {
        Self::default()
    }
}

/// A process that was started.
#[derive(Clone, Debug)]
pub struct Process {
    pub request: SpawnRequest,
    pub script: Script,
    /// What came through its standard input.
    pub stdin: Vec<u8>,
    pub(crate) exit: watch::Sender<Option<WaitReply>>,
}

#[derive(Debug, Default)]
struct State {
    scripts: BTreeMap<String, Script>,
    processes: BTreeMap<i32, Process>,
    files: BTreeMap<String, Vec<u8>>,
    env: BTreeMap<String, String>,
    /// Where the programs are that listen in the guest, by what they are
    /// connected to for.
    listeners: BTreeMap<Listens, SocketAddr>,
}

/// What a program of the guest is connected to for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listens {
    OnPort(u32),
    AsProcess(i32),
}

/// The agent of one sandbox. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FakeAgent {
    state: Arc<Mutex<State>>,
}

impl FakeAgent {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `command` does this.
    pub fn script(&self, command: &str, script: Script) {
        self.lock().scripts.insert(command.to_owned(), script);
    }

    /// What was started, by pid.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<i32, Process> {
        self.lock().processes.clone()
    }

    #[must_use]
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.lock().files.get(path).cloned()
    }

    pub fn put_file(&self, path: &str, bytes: Vec<u8>) {
        self.lock().files.insert(path.to_owned(), bytes);
    }

    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        self.lock().env.clone()
    }

    /// From now on a program listens in the guest: in truth at this address of
    /// the test's own.
    pub fn listen(&self, listens: Listens, address: SocketAddr) {
        self.lock().listeners.insert(listens, address);
    }

    pub(crate) async fn connect(&self, first: Option<Part>) -> Result<TcpStream, Status> {
        let to = match first {
            Some(Part::Target(target)) => target.to,
            _ => None,
        };
        let listens = match to {
            Some(To::Port(port)) => Listens::OnPort(port),
            Some(To::Pid(pid)) => Listens::AsProcess(pid),
            None => return Err(Status::invalid_argument("no target is named")),
        };
        let address = self.lock().listeners.get(&listens).copied();
        let address = address.ok_or_else(nobody_listens)?;
        Ok(TcpStream::connect(address).await?)
    }

    pub(crate) fn set_env(&self, key: String, value: Option<String>) {
        let env = &mut self.lock().env;
        match value {
            Some(value) => env.insert(key, value),
            None => env.remove(&key),
        };
    }

    pub(crate) fn remove_file(&self, path: &str) -> Result<(), Status> {
        let removed = self.lock().files.remove(path);
        removed.map(drop).ok_or_else(|| not_found("remove", path))
    }

    pub(crate) fn read_file(&self, path: &str) -> Result<Vec<u8>, Status> {
        self.file(path).ok_or_else(|| not_found("open", path))
    }

    pub(crate) fn spawn(&self, request: SpawnRequest) -> Result<i32, Status> {
        let mut state = self.lock();
        let Some(script) = state.scripts.get(&request.command).cloned() else {
            return Err(not_found("spawn", &request.command));
        };
        let last = state.processes.last_key_value().map(|(pid, _)| *pid);
        let pid = last.map_or(FIRST_PID, |pid| pid + 1);
        let exit = watch::Sender::new(script.exit);
        state.processes.insert(
            pid,
            Process {
                request,
                script,
                stdin: Vec::new(),
                exit,
            },
        );
        Ok(pid)
    }

    pub(crate) fn process(&self, pid: i32) -> Result<Process, Status> {
        let process = self.lock().processes.get(&pid).cloned();
        process.ok_or_else(|| no_process(pid))
    }

    pub(crate) fn take_input(&self, pid: i32, data: &[u8]) {
        if let Some(process) = self.lock().processes.get_mut(&pid) {
            process.stdin.extend_from_slice(data);
        }
    }

    pub(crate) fn kill(&self, request: KillRequest) -> Result<(), Status> {
        let process = self.process(request.pid)?;
        if process.exit.borrow().is_some() {
            return Err(no_process(request.pid));
        }
        process.exit.send_replace(Some(WaitReply {
            code: 128 + request.signal,
            signal: request.signal,
            oom: 0,
        }));
        Ok(())
    }
}

fn not_found(operation: &str, path: &str) -> Status {
    OsError {
        errno: ENOENT,
        operation: operation.to_owned(),
        path: path.to_owned(),
        kind: String::new(),
    }
    .into_status(format!(
        "No such file or directory (os error 2), {operation} '{path}'"
    ))
}

fn nobody_listens() -> Status {
    OsError {
        errno: ECONNREFUSED,
        operation: "connect".to_owned(),
        path: String::new(),
        kind: String::new(),
    }
    .into_status("Connection refused (os error 111), connect")
}

fn no_process(pid: i32) -> Status {
    OsError {
        errno: ESRCH,
        operation: "kill".to_owned(),
        path: String::new(),
        kind: String::new(),
    }
    .into_status(format!("No such process (os error 3), kill {pid}"))
}
