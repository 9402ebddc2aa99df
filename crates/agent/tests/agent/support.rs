//! One agent per test, in a directory of its own, and the calls most tests make.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tombolo_guest_proto::MESSAGE_LEN_MAX;
use tombolo_guest_proto::v1::agent_client::AgentClient;
use tombolo_guest_proto::v1::write_file_chunk::Part;
use tombolo_guest_proto::v1::{
    HelloRequest, OsError, OutputRequest, OutputStream, PathRequest, SpawnRequest, Stdio,
    WaitReply, WaitRequest, WriteFileChunk, WriteFileOpen,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = AgentClient<Channel>;

/// Nothing here takes long; what does, hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(5);

/// An agent of a test's own, and the directory that is its user's home.
pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) home: PathBuf,
    socket: PathBuf,
    process: tokio::process::Child,
    _directory: TempDir,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Not killed outright: it ends what it started first.
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).unwrap_or_default();
        }
    }
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) reply: WaitReply,
}

/// Bounds a wait that must come to an end.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// Looks until there is something to see.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await
}

impl Guest {
    pub(crate) async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let home = directory.path().canonicalize().unwrap().join("home");
        fs_err::create_dir(&home).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(directory.path(), open).unwrap();
        let user = give_away(&home);
        let socket = directory.path().join("agent.sock");
        let process = tombolo_proc::Command::new(env!("CARGO_BIN_EXE_tombolo-agent"))
            .arg("--listen")
            .arg(&socket)
            .args(["--user", &user, "--home"])
            .arg(&home)
            .kill_on_drop(false)
            .spawn(
                ProcessStdio::null(),
                ProcessStdio::null(),
                ProcessStdio::inherit(),
            )
            .unwrap();
        let client = until(async || {
            let mut client = connect(&socket).await?;
            client.hello(HelloRequest {}).await.ok()?;
            Some(client)
        })
        .await;
        Self {
            client,
            home,
            socket,
            process,
            _directory: directory,
        }
    }

    /// Another client, with a connection of its own.
    pub(crate) async fn another_client(&self) -> Client {
        connect(&self.socket).await.unwrap()
    }

    /// A client whose connection breaks when the task is aborted.
    pub(crate) async fn fragile_client(&self) -> (Client, JoinHandle<()>) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let link = tokio::spawn(async move {
            let copied = tokio::io::copy_bidirectional(&mut stream, &mut theirs).await;
            copied.map(drop).unwrap_or_default();
        });
        (over(ours).await.unwrap(), link)
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    pub(crate) async fn spawn(&self, request: SpawnRequest) -> Result<i32, Status> {
        let reply = within(self.client.clone().spawn(request)).await;
        reply.map(|reply| reply.into_inner().pid)
    }

    pub(crate) async fn wait(&self, pid: i32) -> WaitReply {
        let reply = within(self.client.clone().wait(WaitRequest { pid })).await;
        reply.unwrap().into_inner()
    }

    pub(crate) async fn read_all(&self, pid: i32, stream: OutputStream) -> Bytes {
        let request = OutputRequest {
            pid,
            stream: stream.into(),
            offset: 0,
            ..OutputRequest::default()
        };
        within(async {
            let mut chunks = self.client.clone().output(request).await.unwrap();
            let mut all = Vec::new();
            while let Some(chunk) = chunks.get_mut().message().await.unwrap() {
                all.extend_from_slice(&chunk.data);
            }
            Bytes::from(all)
        })
        .await
    }

    /// Runs a program to its end.
    pub(crate) async fn run(&self, request: SpawnRequest) -> Finished {
        let request = SpawnRequest {
            stdout: Stdio::Piped.into(),
            stderr: Stdio::Piped.into(),
            ..request
        };
        let pid = self.spawn(request).await.unwrap();
        let (stdout, stderr) = tokio::join!(
            self.read_all(pid, OutputStream::OutputStdout),
            self.read_all(pid, OutputStream::OutputStderr),
        );
        Finished {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            reply: self.wait(pid).await,
        }
    }

    pub(crate) async fn sh(&self, script: &str) -> Finished {
        self.run(shell(script)).await
    }

    pub(crate) async fn write(&self, open: WriteFileOpen, data: &[u8]) -> Result<(), Status> {
        let open = std::iter::once(Part::Open(open));
        let data: Vec<Part> = data
            .chunks(tombolo_guest_proto::CHUNK_LEN_MAX)
            .map(|chunk| Part::Data(Bytes::copy_from_slice(chunk)))
            .collect();
        let chunks = open
            .chain(data)
            .map(|part| WriteFileChunk { part: Some(part) });
        let chunks = tokio_stream::iter(chunks.collect::<Vec<_>>());
        let written = within(self.client.clone().write_file(chunks)).await;
        written.map(drop)
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Vec<u8>, Status> {
        let request = PathRequest { path: path.into() };
        within(async {
            let mut chunks = self.client.clone().read_file(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(chunk) = chunks.next().await {
                all.extend_from_slice(&chunk?.data);
            }
            Ok(all)
        })
        .await
    }

    pub(crate) async fn read_text(&self, path: &str) -> String {
        String::from_utf8(self.read(path).await.unwrap()).unwrap()
    }
}

/// What creates a file if it is not there, or empties it.
pub(crate) fn create(path: &str) -> WriteFileOpen {
    WriteFileOpen {
        path: path.into(),
        create: true,
        ..WriteFileOpen::default()
    }
}

pub(crate) fn shell(script: &str) -> SpawnRequest {
    command("sh", &["-c", script])
}

pub(crate) fn command(command: &str, args: &[&str]) -> SpawnRequest {
    SpawnRequest {
        command: command.into(),
        args: args.iter().map(ToString::to_string).collect(),
        ..SpawnRequest::default()
    }
}

pub(crate) fn path(path: &str) -> PathRequest {
    PathRequest { path: path.into() }
}

/// The failure that a call answered with.
pub(crate) fn failure<T: std::fmt::Debug>(result: Result<T, Status>) -> OsError {
    let status = result.unwrap_err();
    OsError::from_status(&status).unwrap_or_else(|| panic!("no details: {status:?}"))
}

/// The errno of a call that failed, 0 when it did not.
pub(crate) fn errno<T>(result: &Result<T, Status>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(status) => match OsError::from_status(status) {
            Some(error) => error.errno,
            None => panic!("no details: {status:?}"),
        },
    }
}

/// Whether the agent here can act as another user, as it does in a guest.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Hands the home to the user that programs will run as, and names them.
fn give_away(home: &Path) -> String {
    let passwd = fs_err::read_to_string("/etc/passwd").unwrap();
    let me = geteuid().as_raw();
    let wanted = |fields: &Vec<&str>| {
        if is_root() {
            fields.first() == Some(&"nobody")
        } else {
            fields.get(2) == Some(&me.to_string().as_str())
        }
    };
    let users = passwd.lines().map(|line| line.split(':').collect());
    let user: Vec<&str> = users.into_iter().find(wanted).unwrap();
    let [uid, gid] = [2, 3].map(|field| user[field].parse().unwrap());
    std::os::unix::fs::chown(home, Some(uid), Some(gid)).unwrap();
    user[0].to_owned()
}

async fn connect(socket: &Path) -> Option<Client> {
    over(UnixStream::connect(socket).await.ok()?).await
}

async fn over<IO>(stream: IO) -> Option<Client>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    let endpoint = Endpoint::from_static("http://guest")
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(64 * 1024 * 1024)
        // What is still under way when a call is given up is no attack.
        .http2_max_local_error_reset_streams(None);
    let channel = endpoint.connect_with_connector(connector).await.ok()?;
    let client = AgentClient::new(channel);
    Some(
        client
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(2 * MESSAGE_LEN_MAX),
    )
}
