//! The contract's calls, each handed to the part that answers it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, stream};
use tombolo_guest_proto::v1;
use tombolo_guest_proto::v1::agent_server::Agent as Contract;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::Agent;
use crate::process::{OutputReader, OutputStream, feed};
use crate::system;

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
}

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

#[tonic::async_trait]
impl Contract for AgentService {
    type OutputStream = Answers<v1::OutputChunk>;
    type ReadFileStream = Answers<v1::DataChunk>;
    type ReadDirStream = Answers<v1::DirEntryBatch>;
    type WalkStream = Answers<v1::WalkEntryBatch>;
    type ExpandGlobStream = Answers<v1::WalkEntryBatch>;

    async fn hello(&self, _: Request<v1::HelloRequest>) -> Answer<v1::HelloReply> {
        answer(v1::HelloReply {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: system::kernel_release(),
            personalized: self.agent.personalized.load(Ordering::Relaxed),
        })
    }

    async fn personalize(&self, request: Request<v1::PersonalizeRequest>) -> Answer<v1::Empty> {
        system::personalize(&self.agent, request.into_inner())?;
        self.agent.personalized.store(true, Ordering::Relaxed);
        answer(EMPTY)
    }

    async fn prewarm(&self, request: Request<v1::PrewarmRequest>) -> Answer<v1::Empty> {
        system::prewarm(&self.agent, request.into_inner()).await?;
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
        let which = match request.stream() {
            v1::OutputStream::OutputStdout => OutputStream::Stdout,
            v1::OutputStream::OutputStderr => OutputStream::Stderr,
        };
        let Some(reader) = OutputReader::attach(process, which, request.offset) else {
            return answer(Box::pin(stream::empty()));
        };
        let chunks = stream::try_unfold(reader, |mut reader| async move {
            let chunk = reader.next().await?;
            Ok(chunk.map(|data| (v1::OutputChunk { data }, reader)))
        });
        answer(Box::pin(chunks))
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

    // STUBS
    async fn read_file(&self, _: Request<v1::PathRequest>) -> Answer<Self::ReadFileStream> {
        Err(Status::unimplemented("read_file"))
    }

    async fn read_dir(&self, _: Request<v1::PathRequest>) -> Answer<Self::ReadDirStream> {
        Err(Status::unimplemented("read_dir"))
    }

    async fn walk(&self, _: Request<v1::WalkRequest>) -> Answer<Self::WalkStream> {
        Err(Status::unimplemented("walk"))
    }

    async fn expand_glob(
        &self,
        _: Request<v1::ExpandGlobRequest>,
    ) -> Answer<Self::ExpandGlobStream> {
        Err(Status::unimplemented("expand_glob"))
    }

    async fn write_file(&self, _: Request<Streaming<v1::WriteFileChunk>>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("write_file"))
    }

    async fn remove(&self, _: Request<v1::RemoveRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("remove"))
    }

    async fn mkdir(&self, _: Request<v1::MkdirRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("mkdir"))
    }

    async fn rename(&self, _: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("rename"))
    }

    async fn stat(&self, _: Request<v1::StatRequest>) -> Answer<v1::FileInfo> {
        Err(Status::unimplemented("stat"))
    }

    async fn chmod(&self, _: Request<v1::ChmodRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("chmod"))
    }

    async fn chown(&self, _: Request<v1::ChownRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("chown"))
    }

    async fn copy_file(&self, _: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("copy_file"))
    }

    async fn link(&self, _: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("link"))
    }

    async fn symlink(&self, _: Request<v1::TwoPathsRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("symlink"))
    }

    async fn read_link(&self, _: Request<v1::PathRequest>) -> Answer<v1::PathReply> {
        Err(Status::unimplemented("read_link"))
    }

    async fn real_path(&self, _: Request<v1::PathRequest>) -> Answer<v1::PathReply> {
        Err(Status::unimplemented("real_path"))
    }

    async fn truncate(&self, _: Request<v1::TruncateRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("truncate"))
    }

    async fn umask(&self, _: Request<v1::UmaskRequest>) -> Answer<v1::UmaskReply> {
        Err(Status::unimplemented("umask"))
    }

    async fn utime(&self, _: Request<v1::UtimeRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("utime"))
    }

    async fn make_temp(&self, _: Request<v1::MakeTempRequest>) -> Answer<v1::PathReply> {
        Err(Status::unimplemented("make_temp"))
    }

    async fn open(&self, _: Request<v1::OpenRequest>) -> Answer<v1::OpenReply> {
        Err(Status::unimplemented("open"))
    }

    async fn handle_read(&self, _: Request<v1::HandleReadRequest>) -> Answer<v1::HandleReadReply> {
        Err(Status::unimplemented("handle_read"))
    }

    async fn handle_write(
        &self,
        _: Request<v1::HandleWriteRequest>,
    ) -> Answer<v1::HandleWriteReply> {
        Err(Status::unimplemented("handle_write"))
    }

    async fn handle_seek(&self, _: Request<v1::HandleSeekRequest>) -> Answer<v1::HandleSeekReply> {
        Err(Status::unimplemented("handle_seek"))
    }

    async fn handle_truncate(&self, _: Request<v1::HandleTruncateRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("handle_truncate"))
    }

    async fn handle_stat(&self, _: Request<v1::HandleRequest>) -> Answer<v1::FileInfo> {
        Err(Status::unimplemented("handle_stat"))
    }

    async fn handle_sync(&self, _: Request<v1::HandleSyncRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("handle_sync"))
    }

    async fn handle_utime(&self, _: Request<v1::HandleUtimeRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("handle_utime"))
    }

    async fn handle_lock(&self, _: Request<v1::HandleLockRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("handle_lock"))
    }

    async fn handle_unlock(&self, _: Request<v1::HandleRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("handle_unlock"))
    }

    async fn handle_close(&self, _: Request<v1::HandleRequest>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("handle_close"))
    }
}
