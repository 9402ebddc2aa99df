//! The contract's calls, each handed to the part that answers it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, stream};
use prost::Message;
use tombolo_guest_proto::v1;
use tombolo_guest_proto::v1::agent_server::Agent as Contract;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::Agent;
use crate::connect::{self, Target};
use crate::deno;
use crate::fault::CallError;
use crate::files;
use crate::glob::expand_glob;
use crate::log::log;
use crate::network;
use crate::process::{OutputReader, feed};
use crate::system;
use crate::walk::walk;
use crate::watch::watch;

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const EMPTY: v1::Empty = v1::Empty {};

/// Serves the contract from the agent's state.
#[derive(Clone, Debug)]
pub(crate) struct AgentService {
    agent: Arc<Agent>,
}

impl AgentService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// Takes an identity that came with the opening of a conversation. Answers
    /// whether it could.
    pub(crate) fn introduce(&self, introduction: &[u8]) -> bool {
        let taken = match v1::PersonalizeRequest::decode(introduction) {
            Ok(request) => self
                .personalize_now(request)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        taken
            .inspect_err(|error| log!("cannot take an identity: {error}"))
            .is_ok()
    }

    fn personalize_now(&self, request: v1::PersonalizeRequest) -> Result<(), CallError> {
        system::personalize(&self.agent, request)?;
        self.agent.personalized.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what every call answers with")]
fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

#[tonic::async_trait]
impl Contract for AgentService {
    type DenoRestartsStream = Answers<v1::Empty>;
    type DenoReplRunStream = Answers<v1::DenoFrame>;
    type FetchStream = Answers<v1::DenoFrame>;
    type OutputStream = Answers<v1::OutputChunk>;
    type ReadFileStream = Answers<v1::DataChunk>;
    type ReadDirStream = Answers<v1::DirEntryBatch>;
    type WalkStream = Answers<v1::WalkEntryBatch>;
    type ExpandGlobStream = Answers<v1::WalkEntryBatch>;
    type DialStream = Answers<v1::DataChunk>;
    type WatchStream = Answers<v1::WatchEventBatch>;
    type ListenStream = Answers<v1::ListenEvent>;

    async fn hello(&self, _: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        answer(v1::HelloReply {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: system::kernel_release(),
            personalized: self.agent.personalized.load(Ordering::Relaxed),
        })
    }

    async fn personalize(&self, request: Request<v1::PersonalizeRequest>) -> Answer<v1::Empty> {
        self.personalize_now(request.into_inner())?;
        answer(EMPTY)
    }

    async fn prewarm(&self, request: Request<v1::PrewarmRequest>) -> Answer<v1::Empty> {
        system::prewarm(&self.agent, request.into_inner()).await?;
        answer(EMPTY)
    }

    async fn configure_network(
        &self,
        request: Request<v1::ConfigureNetworkRequest>,
    ) -> Answer<v1::Empty> {
        network::configure(request.into_inner()).await?;
        answer(EMPTY)
    }

    async fn usage(&self, _: Request<v1::Empty>) -> Answer<v1::UsageReply> {
        answer(system::usage(&self.agent)?)
    }

    async fn spawn(&self, request: Request<v1::SpawnRequest>) -> Answer<v1::SpawnReply> {
        let process = self.agent.spawn(request.into_inner()).await?;
        answer(v1::SpawnReply { pid: process.pid })
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Answer<v1::WaitReply> {
        let pid = request.into_inner().pid;
        let process = self.agent.processes.find("wait", pid)?;
        answer(process.wait().await?.into())
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> Answer<v1::Empty> {
        let v1::KillRequest { pid, signal } = request.into_inner();
        self.agent.processes.kill(pid, signal)?;
        answer(EMPTY)
    }

    async fn output(&self, request: Request<v1::OutputRequest>) -> Answer<Self::OutputStream> {
        let request = request.into_inner();
        let process = self.agent.processes.find("output", request.pid)?;
        let which = request.stream().into();
        let Some(reader) = OutputReader::attach(process, which, (&request).into()) else {
            return answer(Box::pin(stream::empty()));
        };
        let chunks = stream::try_unfold(reader, |mut reader| async move {
            let chunk = reader.next().await?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        });
        answer(Box::pin(chunks))
    }

    async fn close_output(&self, request: Request<v1::CloseOutputRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        let process = self.agent.processes.find("close", request.pid)?;
        process.close_output(request.stream().into());
        answer(EMPTY)
    }

    async fn input(&self, request: Request<Streaming<v1::InputChunk>>) -> Answer<v1::Empty> {
        feed(&self.agent.processes, request.into_inner()).await?;
        answer(EMPTY)
    }

    async fn resize_pty(&self, request: Request<v1::ResizePtyRequest>) -> Answer<v1::Empty> {
        let v1::ResizePtyRequest { pid, size } = request.into_inner();
        self.agent.processes.resize(pid, size.unwrap_or_default())?;
        answer(EMPTY)
    }

    async fn list_processes(&self, _: Request<v1::Empty>) -> Answer<v1::ListProcessesReply> {
        let processes = self.agent.processes.list();
        answer(v1::ListProcessesReply { processes })
    }

    async fn spawn_deno(&self, request: Request<v1::SpawnDenoRequest>) -> Answer<v1::SpawnReply> {
        let process = deno::spawn(&self.agent, request.into_inner()).await?;
        answer(v1::SpawnReply { pid: process.pid })
    }

    async fn deno_restarts(
        &self,
        request: Request<v1::DenoRestartsRequest>,
    ) -> Answer<Self::DenoRestartsStream> {
        let v1::DenoRestartsRequest { pid, seen } = request.into_inner();
        let process = self.agent.processes.find("watch", pid)?;
        answer(Box::pin(deno::restarts(process, seen)?))
    }

    async fn deno_http_wait(
        &self,
        request: Request<v1::DenoRequest>,
    ) -> Answer<v1::DenoHttpWaitReply> {
        let pid = request.into_inner().pid;
        let process = self.agent.processes.find("listen", pid)?;
        answer(deno::http_wait(&process).await?)
    }

    async fn deno_repl_run(
        &self,
        request: Request<v1::DenoReplRunRequest>,
    ) -> Answer<Self::DenoReplRunStream> {
        let v1::DenoReplRunRequest { pid, request } = request.into_inner();
        let process = self.agent.processes.find("repl", pid)?;
        answer(Box::pin(deno::run(process, request).await?))
    }

    async fn deno_repl_close(&self, request: Request<v1::DenoRequest>) -> Answer<v1::Empty> {
        // One that is not there is closed.
        if let Ok(process) = self.agent.processes.find("repl", request.into_inner().pid) {
            deno::close(process)?;
        }
        answer(EMPTY)
    }

    async fn fetch(&self, request: Request<Streaming<v1::DenoFrame>>) -> Answer<Self::FetchStream> {
        let agent = Arc::clone(&self.agent);
        let frames = deno::fetch(agent, request.into_inner()).await?;
        answer(Box::pin(frames))
    }

    async fn get_env(&self, request: Request<v1::EnvKey>) -> Answer<v1::EnvValue> {
        let value = self.agent.environment.get(&request.into_inner().key);
        answer(v1::EnvValue { value })
    }

    async fn set_env(&self, request: Request<v1::EnvEntry>) -> Answer<v1::Empty> {
        let v1::EnvEntry { key, value } = request.into_inner();
        self.agent.environment.set(key, value)?;
        answer(EMPTY)
    }

    async fn delete_env(&self, request: Request<v1::EnvKey>) -> Answer<v1::Empty> {
        self.agent.environment.remove(&request.into_inner().key);
        answer(EMPTY)
    }

    async fn all_env(&self, _: Request<v1::Empty>) -> Answer<v1::EnvMap> {
        let env = self.agent.environment.all();
        answer(v1::EnvMap { env })
    }

    async fn write_file(
        &self,
        request: Request<Streaming<v1::WriteFileChunk>>,
    ) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::write_file(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn remove(&self, request: Request<v1::RemoveRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::remove(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn mkdir(&self, request: Request<v1::MkdirRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::mkdir(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn rename(&self, request: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::rename(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn chmod(&self, request: Request<v1::ChmodRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::set_mode(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn chown(&self, request: Request<v1::ChownRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::set_owner(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn copy_file(&self, request: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::copy_file(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn link(&self, request: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::link(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn symlink(&self, request: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::symlink(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn truncate(&self, request: Request<v1::TruncateRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::truncate(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn utime(&self, request: Request<v1::UtimeRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        files::set_times(&self.agent.files, request).await?;
        answer(EMPTY)
    }

    async fn stat(&self, request: Request<v1::StatRequest>) -> Answer<v1::FileInfo> {
        let request = request.into_inner();
        answer(files::stat(&self.agent.files, request).await?)
    }

    async fn read_link(&self, request: Request<v1::PathRequest>) -> Answer<v1::PathReply> {
        let request = request.into_inner();
        let path = files::read_link(&self.agent.files, request.path).await?;
        answer(v1::PathReply { path })
    }

    async fn real_path(&self, request: Request<v1::PathRequest>) -> Answer<v1::PathReply> {
        let request = request.into_inner();
        let path = files::real_path(&self.agent.files, request.path).await?;
        answer(v1::PathReply { path })
    }

    async fn make_temp(&self, request: Request<v1::MakeTempRequest>) -> Answer<v1::PathReply> {
        let request = request.into_inner();
        let path = files::make_temp(&self.agent.files, request).await?;
        answer(v1::PathReply { path })
    }

    async fn umask(&self, request: Request<v1::UmaskRequest>) -> Answer<v1::UmaskReply> {
        let request = request.into_inner();
        let previous = self.agent.files.umask(request.mask);
        answer(v1::UmaskReply { previous })
    }

    async fn read_file(&self, request: Request<v1::PathRequest>) -> Answer<Self::ReadFileStream> {
        let request = request.into_inner();
        let chunks = files::read_file(&self.agent.files, request.path).await?;
        answer(Box::pin(chunks))
    }

    async fn read_dir(&self, request: Request<v1::PathRequest>) -> Answer<Self::ReadDirStream> {
        let request = request.into_inner();
        let batches = files::read_dir(&self.agent.files, request.path).await?;
        answer(Box::pin(batches))
    }

    async fn walk(&self, request: Request<v1::WalkRequest>) -> Answer<Self::WalkStream> {
        let request = request.into_inner();
        let batches = walk(&self.agent.files, &self.agent.turns, request).await?;
        answer(Box::pin(batches))
    }

    async fn expand_glob(
        &self,
        request: Request<v1::ExpandGlobRequest>,
    ) -> Answer<Self::ExpandGlobStream> {
        let request = request.into_inner();
        let batches = expand_glob(&self.agent.files, &self.agent.turns, request).await?;
        answer(Box::pin(batches))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let batches = watch(&self.agent.files, &self.agent.watches, request).await?;
        answer(Box::pin(batches))
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Answer<v1::OpenReply> {
        let request = request.into_inner();
        let handle = self.agent.handles.open(&self.agent.files, request).await?;
        answer(v1::OpenReply { handle })
    }

    async fn handle_read(
        &self,
        request: Request<v1::HandleReadRequest>,
    ) -> Answer<v1::HandleReadReply> {
        let request = request.into_inner();
        answer(self.agent.handles.read(request).await?)
    }

    async fn handle_write(
        &self,
        request: Request<v1::HandleWriteRequest>,
    ) -> Answer<v1::HandleWriteReply> {
        let request = request.into_inner();
        let written = self.agent.handles.write(request).await?;
        answer(v1::HandleWriteReply { written })
    }

    async fn handle_seek(
        &self,
        request: Request<v1::HandleSeekRequest>,
    ) -> Answer<v1::HandleSeekReply> {
        let request = request.into_inner();
        let position = self.agent.handles.seek(&request)?;
        answer(v1::HandleSeekReply { position })
    }

    async fn handle_truncate(
        &self,
        request: Request<v1::HandleTruncateRequest>,
    ) -> Answer<v1::Empty> {
        let request = request.into_inner();
        self.agent.handles.truncate(request).await?;
        answer(EMPTY)
    }

    async fn handle_stat(&self, request: Request<v1::HandleRequest>) -> Answer<v1::FileInfo> {
        let request = request.into_inner();
        answer(self.agent.handles.stat(request.handle).await?)
    }

    async fn handle_sync(&self, request: Request<v1::HandleSyncRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        self.agent.handles.sync(request).await?;
        answer(EMPTY)
    }

    async fn handle_utime(&self, request: Request<v1::HandleUtimeRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        self.agent.handles.set_times(request).await?;
        answer(EMPTY)
    }

    async fn handle_lock(&self, request: Request<v1::HandleLockRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        self.agent.handles.lock(request).await?;
        answer(EMPTY)
    }

    async fn handle_unlock(&self, request: Request<v1::HandleRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        self.agent.handles.unlock(request.handle)?;
        answer(EMPTY)
    }

    async fn handle_close(&self, request: Request<v1::HandleRequest>) -> Answer<v1::Empty> {
        let request = request.into_inner();
        self.agent.handles.close(request.handle)?;
        answer(EMPTY)
    }

    async fn dial(&self, request: Request<Streaming<v1::DialChunk>>) -> Answer<Self::DialStream> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.and_then(|chunk| chunk.part);
        let target = Target::named(first.as_ref(), &self.agent.files)?;
        let connection = self.agent.connections.open(target).await?;
        answer(Box::pin(connect::join(connection, chunks)))
    }

    async fn listen(&self, request: Request<v1::ListenRequest>) -> Answer<Self::ListenStream> {
        let port = request.into_inner().port;
        answer(Box::pin(self.agent.connections.listen(port).await?))
    }
}
