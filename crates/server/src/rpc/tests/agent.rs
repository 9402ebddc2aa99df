//! A guest agent under a test's control.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tombolo_guest_proto::v1::{self, DenoFrameKind, OsError};
use tombolo_guest_proto::{BATCH_ENTRIES_MAX, CHUNK_LEN_MAX};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// The pid of the first process.
pub(super) const FIRST_PID: i32 = 100;
const ESRCH: i32 = 3;

/// Clones share their state.
#[derive(Clone, Debug, Default)]
pub(super) struct TestAgent {
    pub(super) state: Arc<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Every unary call: its name and its request.
    pub(super) calls: Mutex<Vec<(&'static str, String)>>,
    /// What a call of this name fails with.
    pub(super) failures: Mutex<HashMap<&'static str, OsError>>,
    pub(super) processes: Mutex<BTreeMap<i32, Process>>,
    /// What `read_file` gives.
    pub(super) files: Mutex<HashMap<String, Vec<u8>>>,
    /// What `stat` does not find.
    pub(super) missing: Mutex<BTreeSet<String>>,
    /// What `write_file` got.
    pub(super) written: Mutex<BTreeMap<String, Written>>,
    /// Chunks the guest is willing to take from `write_file` and `input`.
    pub(super) appetite: Semaphore,
    /// Chunks the guest is willing to give by `read_file`.
    pub(super) supply: Arc<Semaphore>,
    /// What `read_file` fails with when it has given all it has.
    pub(super) torn: Mutex<Option<i32>>,
    /// Bytes taken so far.
    pub(super) taken: AtomicUsize,
    /// What `walk`, `expand_glob` and `read_dir` list.
    pub(super) entries: Mutex<Vec<v1::WalkEntry>>,
    deno_frames: Mutex<Vec<v1::DenoFrame>>,
    /// Whether what a REPL answers never ends.
    pub(super) deno_stalls: AtomicBool,
    pub(super) open_handles: Mutex<BTreeSet<u64>>,
    pub(super) handles_opened: AtomicUsize,
    /// Calls that wait for a lock. A lock is never given.
    pub(super) lock_waiters: watch::Sender<usize>,
    /// Turns of `handle_write`, which waits for one each time.
    pub(super) handle_writes: Semaphore,
}

impl Default for State {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            failures: Mutex::default(),
            processes: Mutex::default(),
            files: Mutex::default(),
            missing: Mutex::default(),
            written: Mutex::default(),
            appetite: Semaphore::new(Semaphore::MAX_PERMITS),
            supply: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            torn: Mutex::default(),
            taken: AtomicUsize::new(0),
            entries: Mutex::default(),
            deno_frames: Mutex::default(),
            deno_stalls: AtomicBool::new(false),
            open_handles: Mutex::default(),
            handles_opened: AtomicUsize::new(0),
            lock_waiters: watch::Sender::new(0),
            handle_writes: Semaphore::new(Semaphore::MAX_PERMITS),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) exit: watch::Sender<Option<v1::WaitReply>>,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) stdin: Arc<Mutex<Input>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    pub(super) is_closed: bool,
    /// How often a writer left it open.
    pub(super) left_count: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) is_complete: bool,
    pub(super) open: v1::WriteFileOpen,
}

/// What a process prints, as far as it has.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) printed: watch::Sender<Printed>,
    /// Bytes read by anybody.
    pub(super) read: Arc<AtomicUsize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Printed {
    bytes: Arc<Vec<u8>>,
    is_over: bool,
    failure: Option<i32>,
}

impl Output {
    fn new() -> Self {
        Self {
            printed: watch::Sender::default(),
            read: Arc::default(),
        }
    }

    pub(super) fn print(&self, bytes: &[u8]) {
        self.printed
            .send_modify(|printed| Arc::make_mut(&mut printed.bytes).extend_from_slice(bytes));
    }

    pub(super) fn end(&self) {
        self.printed.send_modify(|printed| printed.is_over = true);
    }

    pub(super) fn fail(&self, errno: i32) {
        self.printed
            .send_modify(|printed| printed.failure = Some(errno));
    }

    pub(super) fn read(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    /// Whether anybody reads or has read.
    pub(super) fn readers(&self) -> usize {
        self.printed.receiver_count()
    }

    fn chunks(&self, offset: usize) -> Answers<v1::OutputChunk> {
        let state = (self.printed.subscribe(), offset, Arc::clone(&self.read));
        Box::pin(stream::try_unfold(
            state,
            |(mut printed, offset, read)| async move {
                let now = printed
                    .wait_for(|now| {
                        now.bytes.len() > offset || now.is_over || now.failure.is_some()
                    })
                    .await
                    .map_err(|_closed| Status::unavailable("the test is over"))?
                    .clone();
                let rest = now.bytes.get(offset..).unwrap_or_default();
                if let (true, Some(errno)) = (rest.is_empty(), now.failure) {
                    return Err(os_error(errno, "read"));
                }
                if rest.is_empty() {
                    return Ok(None);
                }
                let data = rest[..rest.len().min(CHUNK_LEN_MAX)].to_vec();
                let end = offset + data.len();
                read.fetch_max(end, Ordering::SeqCst);
                let chunk = v1::OutputChunk {
                    data: data.into(),
                    offset: offset as u64,
                };
                Ok(Some((chunk, (printed, end, read))))
            },
        ))
    }
}

impl TestAgent {
    pub(super) fn calls(&self, name: &str) -> Vec<String> {
        let calls = self.state.calls.lock();
        let named = calls.iter().filter(|(called, _)| *called == name);
        named.map(|(_, request)| request.clone()).collect()
    }

    pub(super) fn fail(&self, name: &'static str, errno: i32) {
        let error = OsError {
            errno,
            operation: name.to_owned(),
            path: "/x".to_owned(),
            kind: String::new(),
        };
        self.state.failures.lock().insert(name, error);
    }

    pub(super) fn put_file(&self, path: &str, bytes: Vec<u8>) {
        self.state.files.lock().insert(path.to_owned(), bytes);
    }

    pub(super) fn process(&self, pid: i32) -> Process {
        self.state.processes.lock()[&pid].clone()
    }

    pub(super) fn written(&self, path: &str) -> Written {
        let written = self.state.written.lock();
        written.get(path).cloned().unwrap_or_default()
    }

    /// The process exits.
    pub(super) fn exit(&self, pid: i32, code: i32, signal: i32) {
        let oom = v1::OomVerdict::OomNone.into();
        let process = self.process(pid);
        process
            .exit
            .send_replace(Some(v1::WaitReply { code, signal, oom }));
        process.stdout.end();
        process.stderr.end();
    }

    fn record(&self, name: &'static str, request: &impl std::fmt::Debug) -> Result<(), Status> {
        self.state.calls.lock().push((name, format!("{request:?}")));
        match self.state.failures.lock().get(name) {
            Some(error) => Err(error.clone().into_status("failed")),
            None => Ok(()),
        }
    }

    fn find(&self, pid: i32) -> Result<Process, Status> {
        let processes = self.state.processes.lock();
        let process = processes.get(&pid).cloned();
        process.ok_or_else(|| os_error(ESRCH, "kill"))
    }

    async fn take(&self, len: usize) {
        if let Ok(permit) = self.state.appetite.acquire().await {
            permit.forget();
        }
        self.state.taken.fetch_add(len, Ordering::SeqCst);
    }

    fn spawn(&self, request: &v1::SpawnRequest) -> i32 {
        let mut processes = self.state.processes.lock();
        let pid = FIRST_PID + i32::try_from(processes.len()).unwrap();
        let process = Process {
            exit: watch::Sender::new(None),
            stdout: Output::new(),
            stderr: Output::new(),
            stdin: Arc::default(),
        };
        if request.command == "echo" {
            process.stdout.print(request.args.join(" ").as_bytes());
            process.stdout.end();
            process.stderr.end();
            process.exit.send_replace(Some(v1::WaitReply::default()));
        }
        processes.insert(pid, process);
        pid
    }

    /// What a REPL or a fetch answers from now on; without an end the answer
    /// breaks off as one does whose process has ended.
    pub(super) fn answer_deno(&self, frames: &[(DenoFrameKind, &str)]) {
        *self.state.deno_frames.lock() = frames
            .iter()
            .map(|(kind, payload)| v1::DenoFrame {
                kind: (*kind).into(),
                payload: (*payload).to_owned().into(),
            })
            .collect();
    }

    fn deno_frames(&self) -> Answers<v1::DenoFrame> {
        let frames = self.state.deno_frames.lock().clone();
        let frames = frames.into_iter().map(|frame| match frame.kind() {
            DenoFrameKind::DenoFrameEnd => Err(os_error(ESRCH, "repl")),
            _ => Ok(frame),
        });
        let frames = stream::iter(frames.collect::<Vec<_>>());
        if self.state.deno_stalls.load(Ordering::SeqCst) {
            return Box::pin(frames.chain(stream::pending()));
        }
        Box::pin(frames)
    }

    fn batches(&self) -> Answers<v1::WalkEntryBatch> {
        let entries = self.state.entries.lock().clone();
        let batches: Vec<_> = entries
            .chunks(BATCH_ENTRIES_MAX)
            .map(|entries| {
                Ok(v1::WalkEntryBatch {
                    entries: entries.to_vec(),
                })
            })
            .collect();
        Box::pin(stream::iter(batches))
    }
}

pub(super) fn os_error(errno: i32, operation: &str) -> Status {
    OsError {
        errno,
        operation: operation.to_owned(),
        path: String::new(),
        kind: String::new(),
    }
    .into_status("failed")
}

pub(super) fn entry(path: &str) -> v1::WalkEntry {
    v1::WalkEntry {
        path: path.to_owned(),
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        is_file: true,
        ..v1::WalkEntry::default()
    }
}

fn file_info() -> v1::FileInfo {
    v1::FileInfo {
        mode: 0o100_644,
        size: 5,
        mtime_nanos: 1_767_225_600_000_000_000,
        ..v1::FileInfo::default()
    }
}

/// The methods that are written out, and a record with a fixed answer for each
/// of the others. One macro makes the whole block, because the attribute that
/// rewrites it must see every method.
macro_rules! agent_service {
    ({ $($written:tt)* } recorded { $($name:ident($request:ident) -> $reply:expr, $type:ident;)* }) => {
        #[tonic::async_trait]
        impl v1::agent_server::Agent for TestAgent {
            $($written)*
            $(
                async fn $name(&self, request: Request<v1::$request>) -> Answer<v1::$type> {
                    self.record(stringify!($name), request.get_ref())?;
                    Ok(Response::new($reply))
                }
            )*
        }
    };
}

agent_service! {
    {
        type OutputStream = Answers<v1::OutputChunk>;
        type DenoRestartsStream = Answers<v1::Empty>;
        type DenoReplRunStream = Answers<v1::DenoFrame>;
        type FetchStream = Answers<v1::DenoFrame>;
        type ReadFileStream = Answers<v1::DataChunk>;
        type ReadDirStream = Answers<v1::DirEntryBatch>;
        type WalkStream = Answers<v1::WalkEntryBatch>;
        type DialStream = Answers<v1::DataChunk>;
        type WatchStream = Answers<v1::WatchEventBatch>;
        type ListenStream = Answers<v1::ListenEvent>;
        type ExpandGlobStream = Answers<v1::WalkEntryBatch>;

        async fn spawn(&self, request: Request<v1::SpawnRequest>) -> Answer<v1::SpawnReply> {
            self.record("spawn", request.get_ref())?;
            let pid = TestAgent::spawn(self, request.get_ref());
            Ok(Response::new(v1::SpawnReply { pid }))
        }

        async fn spawn_deno(&self, request: Request<v1::SpawnDenoRequest>) -> Answer<v1::SpawnReply> {
            self.record("spawn_deno", request.get_ref())?;
            let pid = TestAgent::spawn(self, &v1::SpawnRequest::default());
            Ok(Response::new(v1::SpawnReply { pid }))
        }

        async fn deno_restarts(
            &self,
            request: Request<v1::DenoRestartsRequest>,
        ) -> Answer<Self::DenoRestartsStream> {
            self.record("deno_restarts", request.get_ref())?;
            let restarts = stream::iter([Ok(v1::Empty {}), Ok(v1::Empty {})]);
            Ok(Response::new(Box::pin(restarts)))
        }

        async fn deno_http_wait(
            &self,
            request: Request<v1::DenoRequest>,
        ) -> Answer<v1::DenoHttpWaitReply> {
            self.record("deno_http_wait", request.get_ref())?;
            let is_listening = self.find(request.get_ref().pid)?.exit.borrow().is_none();
            Ok(Response::new(v1::DenoHttpWaitReply {
                host: is_listening.then(|| "127.0.0.1".to_owned()),
                port: 8000,
            }))
        }

        async fn deno_repl_run(
            &self,
            request: Request<v1::DenoReplRunRequest>,
        ) -> Answer<Self::DenoReplRunStream> {
            let text = String::from_utf8_lossy(&request.get_ref().request).into_owned();
            self.record("deno_repl_run", &text)?;
            Ok(Response::new(self.deno_frames()))
        }

        async fn fetch(&self, request: Request<Streaming<v1::DenoFrame>>) -> Answer<Self::FetchStream> {
            let mut frames = request.into_inner();
            while let Some(frame) = frames.message().await? {
                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                self.record("fetch", &(frame.kind().as_str_name(), text))?;
            }
            Ok(Response::new(self.deno_frames()))
        }

        async fn wait(&self, request: Request<v1::WaitRequest>) -> Answer<v1::WaitReply> {
            let process = self.find(request.get_ref().pid)?;
            let mut exit = process.exit.subscribe();
            let reply = exit.wait_for(Option::is_some).await;
            let reply = reply.map_err(|_closed| Status::unavailable("the test is over"))?;
            Ok(Response::new(reply.unwrap_or_default()))
        }

        async fn kill(&self, request: Request<v1::KillRequest>) -> Answer<v1::Empty> {
            self.record("kill", request.get_ref())?;
            let v1::KillRequest { pid, signal } = request.into_inner();
            if self.find(pid)?.exit.borrow().is_some() {
                return Err(os_error(ESRCH, "kill"));
            }
            self.exit(pid, 128 + signal, signal);
            Ok(Response::new(v1::Empty {}))
        }

        async fn output(&self, request: Request<v1::OutputRequest>) -> Answer<Self::OutputStream> {
            let request = request.into_inner();
            let process = self.find(request.pid)?;
            let output = match request.stream() {
                v1::OutputStream::OutputStdout => process.stdout,
                v1::OutputStream::OutputStderr => process.stderr,
            };
            let printed = output.printed.borrow().bytes.len() as u64;
            let tail = request.tail.map(|len| printed - len.min(printed));
            let begin = tail.unwrap_or(request.offset);
            Ok(Response::new(output.chunks(usize::try_from(begin).unwrap())))
        }

        async fn input(&self, request: Request<Streaming<v1::InputChunk>>) -> Answer<v1::Empty> {
            let mut chunks = request.into_inner();
            let mut process = None;
            while let Some(chunk) = chunks.message().await? {
                self.take(chunk.data.len()).await;
                if process.is_none() {
                    process = Some(self.find(chunk.pid)?);
                }
                let Some(process) = &process else { continue };
                if process.exit.borrow().is_some() {
                    return Err(os_error(32, "write"));
                }
                let mut stdin = process.stdin.lock();
                stdin.bytes.extend_from_slice(&chunk.data);
                if chunk.leaves_open {
                    stdin.left_count += 1;
                    return Ok(Response::new(v1::Empty {}));
                }
            }
            if let Some(process) = process {
                process.stdin.lock().is_closed = true;
            }
            Ok(Response::new(v1::Empty {}))
        }

        async fn dial(
            &self,
            _: Request<Streaming<v1::DialChunk>>,
        ) -> Result<Response<Self::DialStream>, Status> {
            Err(Status::unimplemented("no program listens here"))
        }

        async fn listen(&self, _: Request<v1::ListenRequest>) -> Answer<Self::ListenStream> {
            Err(Status::unimplemented("no program connects here"))
        }

        async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
            Err(Status::unimplemented("nothing changes here"))
        }

        async fn stat(&self, request: Request<v1::StatRequest>) -> Answer<v1::FileInfo> {
            self.record("stat", request.get_ref())?;
            if self.state.missing.lock().contains(&request.get_ref().path) {
                return Err(os_error(2, "stat"));
            }
            Ok(Response::new(file_info()))
        }

        async fn read_file(&self, request: Request<v1::PathRequest>) -> Answer<Self::ReadFileStream> {
            self.record("read_file", request.get_ref())?;
            let files = self.state.files.lock();
            let bytes = files.get(&request.get_ref().path).cloned();
            let Some(bytes) = bytes else {
                if request.get_ref().path == "/never" {
                    return Ok(Response::new(Box::pin(stream::pending())));
                }
                return Err(os_error(2, "open"));
            };
            let mut chunks: Vec<_> = bytes
                .chunks(CHUNK_LEN_MAX)
                .map(|data| Ok(v1::DataChunk { data: data.to_vec().into() }))
                .collect();
            let torn = *self.state.torn.lock();
            chunks.extend(torn.map(|errno| Err(os_error(errno, "read"))));
            let supply = Arc::clone(&self.state.supply);
            let chunks = stream::iter(chunks).then(move |chunk| {
                let supply = Arc::clone(&supply);
                async move {
                    if let Ok(permit) = supply.acquire().await {
                        permit.forget();
                    }
                    chunk
                }
            });
            Ok(Response::new(Box::pin(chunks)))
        }

        async fn write_file(
            &self,
            request: Request<Streaming<v1::WriteFileChunk>>,
        ) -> Answer<v1::Empty> {
            let mut chunks = request.into_inner();
            let mut path = String::new();
            while let Some(chunk) = chunks.message().await? {
                match chunk.part.unwrap() {
                    v1::write_file_chunk::Part::Open(open) => {
                        self.record("write_file", &open)?;
                        path.clone_from(&open.path);
                        let written = Written { open, ..Written::default() };
                        self.state.written.lock().insert(path.clone(), written);
                    }
                    v1::write_file_chunk::Part::Data(data) => {
                        assert!(!data.is_empty() && data.len() <= CHUNK_LEN_MAX);
                        self.take(data.len()).await;
                        let mut written = self.state.written.lock();
                        written.get_mut(&path).unwrap().bytes.extend_from_slice(&data);
                    }
                }
            }
            self.state.written.lock().get_mut(&path).unwrap().is_complete = true;
            Ok(Response::new(v1::Empty {}))
        }

        async fn read_dir(&self, request: Request<v1::PathRequest>) -> Answer<Self::ReadDirStream> {
            self.record("read_dir", request.get_ref())?;
            let entries = self.state.entries.lock().clone();
            let entries = entries.into_iter().map(|entry| v1::DirEntry {
                name: entry.name,
                is_file: entry.is_file,
                is_directory: entry.is_directory,
                is_symlink: entry.is_symlink,
            });
            let batch = v1::DirEntryBatch { entries: entries.collect() };
            Ok(Response::new(Box::pin(stream::iter([Ok(batch)]))))
        }

        async fn walk(&self, request: Request<v1::WalkRequest>) -> Answer<Self::WalkStream> {
            self.record("walk", request.get_ref())?;
            Ok(Response::new(self.batches()))
        }

        async fn expand_glob(
            &self,
            request: Request<v1::ExpandGlobRequest>,
        ) -> Answer<Self::ExpandGlobStream> {
            self.record("expand_glob", request.get_ref())?;
            Ok(Response::new(self.batches()))
        }

        async fn open(&self, request: Request<v1::OpenRequest>) -> Answer<v1::OpenReply> {
            self.record("open", request.get_ref())?;
            let handle = self.state.handles_opened.fetch_add(1, Ordering::SeqCst) as u64 + 1;
            self.state.open_handles.lock().insert(handle);
            Ok(Response::new(v1::OpenReply { handle }))
        }

        async fn handle_close(&self, request: Request<v1::HandleRequest>) -> Answer<v1::Empty> {
            self.record("handle_close", request.get_ref())?;
            let was_open = self.state.open_handles.lock().remove(&request.get_ref().handle);
            assert!(was_open, "closed twice");
            Ok(Response::new(v1::Empty {}))
        }

        async fn handle_read(
            &self,
            request: Request<v1::HandleReadRequest>,
        ) -> Answer<v1::HandleReadReply> {
            self.record("handle_read", request.get_ref())?;
            let v1::HandleReadRequest { handle, length } = request.into_inner();
            // Every second file is at its end.
            let is_end = handle % 2 == 0;
            let data = if is_end { Vec::new() } else { vec![b'x'; length as usize] };
            Ok(Response::new(v1::HandleReadReply { data: data.into(), end_of_file: is_end }))
        }

        async fn handle_write(
            &self,
            request: Request<v1::HandleWriteRequest>,
        ) -> Answer<v1::HandleWriteReply> {
            if let Ok(turn) = self.state.handle_writes.acquire().await {
                turn.forget();
            }
            self.record("handle_write", request.get_ref())?;
            let written = request.get_ref().data.len() as u64;
            Ok(Response::new(v1::HandleWriteReply { written }))
        }

        async fn handle_lock(&self, request: Request<v1::HandleLockRequest>) -> Answer<v1::Empty> {
            struct Waiting<'a>(&'a watch::Sender<usize>);
            impl Drop for Waiting<'_> {
                fn drop(&mut self) {
                    self.0.send_modify(|waiters| *waiters -= 1);
                }
            }
            self.record("handle_lock", request.get_ref())?;
            self.state.lock_waiters.send_modify(|waiters| *waiters += 1);
            let _waiting = Waiting(&self.state.lock_waiters);
            std::future::pending().await
        }
    }
    recorded {
        hello(HelloRequest) -> v1::HelloReply::default(), HelloReply;
        personalize(PersonalizeRequest) -> v1::Empty {}, Empty;
        prewarm(PrewarmRequest) -> v1::Empty {}, Empty;
        configure_network(ConfigureNetworkRequest) -> v1::Empty {}, Empty;
        usage(Empty) -> v1::UsageReply::default(), UsageReply;
        close_output(CloseOutputRequest) -> v1::Empty {}, Empty;
        resize_pty(ResizePtyRequest) -> v1::Empty {}, Empty;
        deno_repl_close(DenoRequest) -> v1::Empty {}, Empty;
        list_processes(Empty) -> v1::ListProcessesReply::default(), ListProcessesReply;
        remove(RemoveRequest) -> v1::Empty {}, Empty;
        mkdir(MkdirRequest) -> v1::Empty {}, Empty;
        rename(TwoPathsRequest) -> v1::Empty {}, Empty;
        chmod(ChmodRequest) -> v1::Empty {}, Empty;
        chown(ChownRequest) -> v1::Empty {}, Empty;
        copy_file(TwoPathsRequest) -> v1::Empty {}, Empty;
        link(TwoPathsRequest) -> v1::Empty {}, Empty;
        symlink(TwoPathsRequest) -> v1::Empty {}, Empty;
        read_link(PathRequest) -> v1::PathReply { path: "target".into() }, PathReply;
        real_path(PathRequest) -> v1::PathReply { path: "/real".into() }, PathReply;
        truncate(TruncateRequest) -> v1::Empty {}, Empty;
        umask(UmaskRequest) -> v1::UmaskReply { previous: 0o22 }, UmaskReply;
        utime(UtimeRequest) -> v1::Empty {}, Empty;
        make_temp(MakeTempRequest) -> v1::PathReply { path: "/tmp/x".into() }, PathReply;
        handle_seek(HandleSeekRequest) -> v1::HandleSeekReply { position: 7 }, HandleSeekReply;
        handle_truncate(HandleTruncateRequest) -> v1::Empty {}, Empty;
        handle_stat(HandleRequest) -> file_info(), FileInfo;
        handle_sync(HandleSyncRequest) -> v1::Empty {}, Empty;
        handle_utime(HandleUtimeRequest) -> v1::Empty {}, Empty;
        handle_unlock(HandleRequest) -> v1::Empty {}, Empty;
        get_env(EnvKey) -> v1::EnvValue { value: None }, EnvValue;
        set_env(EnvEntry) -> v1::Empty {}, Empty;
        delete_env(EnvKey) -> v1::Empty {}, Empty;
        all_env(Empty) -> v1::EnvMap { env: [("A".to_owned(), "1".to_owned())].into() }, EnvMap;
    }
}
