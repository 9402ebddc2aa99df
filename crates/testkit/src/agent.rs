//! A guest agent without a guest: processes follow a script, files are bytes
//! in a map.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tombolo_guest_proto::v1::dial_chunk::Part;
use tombolo_guest_proto::v1::dial_target::To;
use tombolo_guest_proto::v1::listen_event::Event;
use tombolo_guest_proto::v1::{
    KillRequest, ListenEvent, OsError, SpawnRequest, WaitReply, WatchEvent, WatchRequest,
};
use tonic::Status;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EADDRINUSE: i32 = 98;
const ENOTCONN: i32 = 107;
const ECONNREFUSED: i32 = 111;
/// Where the host listens if any port will do.
pub const FREE_PORT: u16 = 40_000;
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
    /// Where programs of the guest reach the ports at which the host listens: in
    /// truth at addresses of the test's own.
    listening: BTreeMap<u16, SocketAddr>,
    /// Their connections, until the host takes them up.
    accepted: BTreeMap<u64, TcpStream>,
    accepted_count: u64,
    watchers: Vec<(WatchRequest, mpsc::UnboundedSender<Vec<WatchEvent>>)>,
    is_older_than_watches: bool,
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

    /// What is being watched.
    #[must_use]
    pub fn watches(&self) -> Vec<WatchRequest> {
        let mut state = self.lock();
        state.watchers.retain(|(_, watcher)| !watcher.is_closed());
        let requests = state.watchers.iter().map(|(request, _)| request.clone());
        requests.collect()
    }

    /// Tells everybody who watches.
    pub fn change(&self, events: &[WatchEvent]) {
        let mut state = self.lock();
        let tell = |watcher: &mpsc::UnboundedSender<_>| watcher.send(events.to_vec()).is_ok();
        state.watchers.retain(|(_, watcher)| tell(watcher));
    }

    /// Ends every watch, as when nothing is there any more.
    pub fn end_watches(&self) {
        self.lock().watchers.clear();
    }

    /// From now on it is as old as agents that do not know the call by which files are
    /// watched.
    pub fn be_older_than_watches(&self) {
        self.lock().is_older_than_watches = true;
    }

    /// Only files can be watched here.
    pub(crate) fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<UnboundedReceiverStream<Vec<WatchEvent>>, Status> {
        let mut state = self.lock();
        if state.is_older_than_watches {
            // What a server of gRPC says of itself of a method that it does not have.
            return Err(Status::unimplemented(""));
        }
        if !state.files.contains_key(&request.path) {
            return Err(not_found("watch", &request.path));
        }
        let (watcher, changes) = mpsc::unbounded_channel();
        state.watchers.push((request, watcher));
        Ok(UnboundedReceiverStream::new(changes))
    }

    /// Where to connect to as a program of the guest that connects to a port at
    /// which the host listens.
    #[must_use]
    pub fn listening(&self, port: u16) -> Option<SocketAddr> {
        self.lock().listening.get(&port).copied()
    }

    /// Listens in the guest until nobody wants to hear of it. Any port is
    /// [`FREE_PORT`].
    pub(crate) async fn listen_for_host(
        &self,
        port: u32,
    ) -> Result<ReceiverStream<Result<ListenEvent, Status>>, Status> {
        let wrong = |_| Status::invalid_argument("no such port");
        let port = u16::try_from(port).map_err(wrong)?;
        let port = if port == 0 { FREE_PORT } else { port };
        if self.listening(port).is_some() {
            return Err(os_error(EADDRINUSE, "listen"));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        self.lock().listening.insert(port, listener.local_addr()?);
        let (events, told) = mpsc::channel(1);
        let place = Place {
            agent: self.clone(),
            port,
        };
        let told_first = events.try_send(Ok(event(Event::Port(port.into()))));
        told_first.map_err(|_full| Status::internal("a new channel takes no message"))?;
        tokio::spawn(async move {
            tokio::select! {
                () = place.agent.accept(listener, &events) => {}
                () = events.closed() => {}
            }
        });
        Ok(ReceiverStream::new(told))
    }

    async fn accept(
        &self,
        listener: TcpListener,
        events: &mpsc::Sender<Result<ListenEvent, Status>>,
    ) {
        while let Ok((stream, _)) = listener.accept().await {
            let number = {
                let mut state = self.lock();
                state.accepted_count += 1;
                let number = state.accepted_count;
                state.accepted.insert(number, stream);
                number
            };
            if events
                .send(Ok(event(Event::Accepted(number))))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    pub(crate) async fn connect(&self, first: Option<Part>) -> Result<TcpStream, Status> {
        let to = match first {
            Some(Part::Target(target)) => target.to,
            _ => None,
        };
        let listens = match to {
            Some(To::Port(port)) => Listens::OnPort(port),
            Some(To::Pid(pid)) => Listens::AsProcess(pid),
            Some(To::Accepted(number)) => {
                let taken = self.lock().accepted.remove(&number);
                return taken.ok_or_else(|| os_error(ENOTCONN, "connect"));
            }
            Some(To::Path(_)) => return Err(nobody_listens()),
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

/// A port at which the host listens until this is dropped.
struct Place {
    agent: FakeAgent,
    port: u16,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.agent.lock().listening.remove(&self.port);
    }
}

fn event(event: Event) -> ListenEvent {
    ListenEvent { event: Some(event) }
}

fn os_error(errno: i32, operation: &str) -> Status {
    OsError {
        errno,
        operation: operation.to_owned(),
        path: String::new(),
        kind: String::new(),
    }
    .into_status(format!("{operation} failed (os error {errno})"))
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
