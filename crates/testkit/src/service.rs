//! The two gRPC services on the fake node's socket.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tokio_util::io::ReaderStream;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1 as guest;
use tombolo_node_proto::SANDBOX_METADATA_KEY;
use tombolo_node_proto::v1::node_server::Node;
use tombolo_node_proto::v1::{
    CreateSandboxReply, CreateSandboxRequest, DescribeReply, DescribeRequest, Empty,
    ListSandboxesReply, SandboxEnded, SandboxRef, SandboxState, SandboxUsageReply,
    SetDeadlineRequest,
};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::FakeAgent;
use crate::node::{CreateBehaviour, Sandbox, Shared};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug)]
pub(crate) struct NodeService {
    shared: Arc<Shared>,
}

impl NodeService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn behave(&self) -> Result<(), Status> {
        let mut behaviour = self.shared.behaviour.subscribe();
        let settled = behaviour
            .wait_for(|behaviour| *behaviour != CreateBehaviour::Hold)
            .await
            .map_err(|_closed| Status::unavailable("the test is over"))?;
        match *settled {
            CreateBehaviour::Refuse(code) => Err(Status::new(code, "refused by the test")),
            CreateBehaviour::Succeed | CreateBehaviour::Hold => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type WatchStream = Answers<SandboxEnded>;

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let count = self.shared.sandboxes().len();
        Ok(Response::new(DescribeReply {
            isolation: "emulated".to_owned(),
            isolation_reason: "a fake".to_owned(),
            version: "0.0.0".to_owned(),
            sandbox_count: u32::try_from(count).unwrap_or(u32::MAX),
            pool_ready: 0,
            pool_target: 0,
        }))
    }

    async fn create_sandbox(
        &self,
        request: Request<CreateSandboxRequest>,
    ) -> Result<Response<CreateSandboxReply>, Status> {
        let mut request = request.into_inner();
        let created = self.shared.created.lock();
        created
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.clone());
        self.behave().await?;
        let mut sandboxes = self.shared.sandboxes();
        if sandboxes.contains_key(&request.sandbox_id) {
            return Err(Status::already_exists(request.sandbox_id));
        }
        let warnings = match (&request.network, self.shared.egress()) {
            (None, _) => Vec::new(),
            (Some(network), Some(egress)) => egress.attach(&request.sandbox_id, network.clone())?,
            (Some(_), None) => return Err(Status::unavailable("no egress process")),
        };
        let step = *self.shared.memory_step_mib.borrow();
        request.memory_mib = request.memory_mib.next_multiple_of(step);
        let memory_mib = request.memory_mib;
        sandboxes.insert(request.sandbox_id.clone(), Sandbox::new(request));
        Ok(Response::new(CreateSandboxReply {
            isolation: "emulated".to_owned(),
            from_pool: false,
            memory_mib,
            warnings,
        }))
    }

    async fn destroy_sandbox(
        &self,
        request: Request<SandboxRef>,
    ) -> Result<Response<Empty>, Status> {
        let id = request.into_inner().sandbox_id;
        self.shared.sandboxes().remove(&id);
        if let Some(egress) = self.shared.egress() {
            egress.detach(&id);
        }
        Ok(Response::new(Empty {}))
    }

    async fn list_sandboxes(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<ListSandboxesReply>, Status> {
        let sandboxes = self.shared.sandboxes();
        let states = sandboxes.iter().map(|(id, sandbox)| SandboxState {
            sandbox_id: id.clone(),
            deadline_unix_millis: sandbox.deadline_unix_millis,
            memory_mib: sandbox.request.memory_mib,
        });
        Ok(Response::new(ListSandboxesReply {
            sandboxes: states.collect(),
        }))
    }

    async fn set_deadline(
        &self,
        request: Request<SetDeadlineRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let mut sandboxes = self.shared.sandboxes();
        let sandbox = sandboxes.get_mut(&request.sandbox_id);
        let sandbox = sandbox.ok_or_else(|| Status::not_found(request.sandbox_id))?;
        sandbox.deadline_unix_millis = request.deadline_unix_millis;
        Ok(Response::new(Empty {}))
    }

    async fn sandbox_usage(
        &self,
        request: Request<SandboxRef>,
    ) -> Result<Response<SandboxUsageReply>, Status> {
        let id = request.into_inner().sandbox_id;
        let sandboxes = self.shared.sandboxes();
        let sandbox = sandboxes.get(&id).ok_or_else(|| Status::not_found(id))?;
        Ok(Response::new(sandbox.usage))
    }

    async fn watch(&self, _: Request<Empty>) -> Result<Response<Self::WatchStream>, Status> {
        let events = BroadcastStream::new(self.shared.events.subscribe());
        let events = events.map(|event| event.map_err(|lag| Status::data_loss(lag.to_string())));
        let subscribed = tokio_stream::once(Ok(SandboxEnded::default()));
        self.shared.watchers.send_modify(|watchers| *watchers += 1);
        Ok(Response::new(Box::pin(subscribed.chain(events))))
    }
}

/// Passes guest calls to the agent of the sandbox they name.
#[derive(Debug)]
pub(crate) struct GuestService {
    shared: Arc<Shared>,
}

impl GuestService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn agent(&self, metadata: &MetadataMap) -> Result<FakeAgent, Status> {
        let id = metadata
            .get(SANDBOX_METADATA_KEY)
            .and_then(|id| id.to_str().ok())
            .ok_or_else(|| Status::invalid_argument("no sandbox is named"))?;
        let sandboxes = self.shared.sandboxes();
        let sandbox = sandboxes.get(id).ok_or_else(|| Status::not_found(id))?;
        Ok(sandbox.agent.clone())
    }
}

fn chunks<T: Send + 'static>(bytes: &[u8], chunk: impl Fn(Vec<u8>) -> T) -> Answers<T> {
    let chunks: Vec<_> = bytes
        .chunks(CHUNK_LEN_MAX)
        .map(|piece| Ok(chunk(piece.to_vec())))
        .collect();
    Box::pin(tokio_stream::iter(chunks))
}

/// The two directions of a connection to a program.
fn join(program: TcpStream, mut chunks: Streaming<guest::DialChunk>) -> Answers<guest::DataChunk> {
    let (reader, mut writer) = program.into_split();
    tokio::spawn(async move {
        while let Ok(Some(chunk)) = chunks.message().await {
            if let Some(guest::dial_chunk::Part::Data(data)) = chunk.part
                && writer.write_all(&data).await.is_err()
            {
                return;
            }
        }
        drop(writer);
    });
    let pieces = ReaderStream::new(reader);
    Box::pin(pieces.map(|piece| Ok(guest::DataChunk { data: piece? })))
}

/// The methods of the service that are written out, and a refusal for each of
/// the others. One macro makes the whole block because the attribute that
/// rewrites it must see every method.
macro_rules! agent_service {
    ({ $($written:tt)* } refused { $($name:ident($request:ident) -> $reply:ty;)* }) => {
        #[tonic::async_trait]
        impl guest::agent_server::Agent for GuestService {
            $($written)*
            $(
                async fn $name(
                    &self,
                    _: Request<guest::$request>,
                ) -> Result<Response<$reply>, Status> {
                    Err(Status::unimplemented(concat!("the fake agent has no ", stringify!($name))))
                }
            )*
        }
    };
}

agent_service! {
    {
        type OutputStream = Answers<guest::OutputChunk>;
        type DenoRestartsStream = Answers<guest::Empty>;
        type DenoReplRunStream = Answers<guest::DenoFrame>;
        type FetchStream = Answers<guest::DenoFrame>;
        type ReadFileStream = Answers<guest::DataChunk>;
        type ReadDirStream = Answers<guest::DirEntryBatch>;
        type WalkStream = Answers<guest::WalkEntryBatch>;
        type ExpandGlobStream = Answers<guest::WalkEntryBatch>;
        type DialStream = Answers<guest::DataChunk>;
        type WatchStream = Answers<guest::WatchEventBatch>;
        type ListenStream = Answers<guest::ListenEvent>;

        async fn hello(
            &self,
            request: Request<guest::HelloRequest>,
        ) -> Result<Response<guest::HelloReply>, Status> {
            self.agent(request.metadata())?;
            Ok(Response::new(guest::HelloReply {
                agent_version: "0.0.0".to_owned(),
                kernel_release: "fake".to_owned(),
                personalized: true,
            }))
        }

        async fn spawn(
            &self,
            request: Request<guest::SpawnRequest>,
        ) -> Result<Response<guest::SpawnReply>, Status> {
            let agent = self.agent(request.metadata())?;
            let pid = agent.spawn(request.into_inner())?;
            Ok(Response::new(guest::SpawnReply { pid }))
        }

        async fn wait(
            &self,
            request: Request<guest::WaitRequest>,
        ) -> Result<Response<guest::WaitReply>, Status> {
            let agent = self.agent(request.metadata())?;
            let process = agent.process(request.into_inner().pid)?;
            let mut exit = process.exit.subscribe();
            let ended = exit.wait_for(Option::is_some).await;
            let reply = ended.map_err(|_closed| Status::unavailable("the test is over"))?;
            Ok(Response::new(reply.unwrap_or_default()))
        }

        async fn kill(
            &self,
            request: Request<guest::KillRequest>,
        ) -> Result<Response<guest::Empty>, Status> {
            let agent = self.agent(request.metadata())?;
            agent.kill(request.into_inner())?;
            Ok(Response::new(guest::Empty {}))
        }

        async fn output(
            &self,
            request: Request<guest::OutputRequest>,
        ) -> Result<Response<Self::OutputStream>, Status> {
            let agent = self.agent(request.metadata())?;
            let request = request.into_inner();
            let script = agent.process(request.pid)?.script;
            let bytes = match request.stream() {
                guest::OutputStream::OutputStdout => script.stdout,
                guest::OutputStream::OutputStderr => script.stderr,
            };
            let start = usize::try_from(request.offset).unwrap_or(usize::MAX);
            let rest = bytes.get(start..).unwrap_or_default();
            Ok(Response::new(chunks(rest, |data| guest::OutputChunk {
                data: data.into(),
                ..guest::OutputChunk::default()
            })))
        }

        async fn input(
            &self,
            request: Request<Streaming<guest::InputChunk>>,
        ) -> Result<Response<guest::Empty>, Status> {
            let agent = self.agent(request.metadata())?;
            let mut pieces = request.into_inner();
            let mut pid = None;
            while let Some(piece) = pieces.message().await? {
                let pid = *pid.get_or_insert(piece.pid);
                agent.take_input(pid, &piece.data);
            }
            Ok(Response::new(guest::Empty {}))
        }

        async fn dial(
            &self,
            request: Request<Streaming<guest::DialChunk>>,
        ) -> Result<Response<Self::DialStream>, Status> {
            let agent = self.agent(request.metadata())?;
            let mut chunks = request.into_inner();
            let first = chunks.message().await?.and_then(|chunk| chunk.part);
            let program = agent.connect(first).await?;
            Ok(Response::new(join(program, chunks)))
        }

        async fn listen(
            &self,
            request: Request<guest::ListenRequest>,
        ) -> Result<Response<Self::ListenStream>, Status> {
            let agent = self.agent(request.metadata())?;
            let events = agent.listen_for_host(request.into_inner().port).await?;
            Ok(Response::new(Box::pin(events)))
        }

        async fn watch(
            &self,
            request: Request<guest::WatchRequest>,
        ) -> Result<Response<Self::WatchStream>, Status> {
            let agent = self.agent(request.metadata())?;
            let changes = agent.watch(request.into_inner())?;
            let batches = changes.map(|events| Ok(guest::WatchEventBatch { events }));
            Ok(Response::new(Box::pin(batches)))
        }

        async fn read_file(
            &self,
            request: Request<guest::PathRequest>,
        ) -> Result<Response<Self::ReadFileStream>, Status> {
            let agent = self.agent(request.metadata())?;
            let bytes = agent.read_file(&request.into_inner().path)?;
            Ok(Response::new(chunks(&bytes, |data| guest::DataChunk { data: data.into() })))
        }

        async fn write_file(
            &self,
            request: Request<Streaming<guest::WriteFileChunk>>,
        ) -> Result<Response<guest::Empty>, Status> {
            let agent = self.agent(request.metadata())?;
            let mut pieces = request.into_inner();
            let (mut path, mut bytes) = (String::new(), Vec::new());
            while let Some(piece) = pieces.message().await? {
                match piece.part {
                    Some(guest::write_file_chunk::Part::Open(open)) => path = open.path,
                    Some(guest::write_file_chunk::Part::Data(data)) => bytes.extend_from_slice(&data),
                    None => {}
                }
            }
            agent.put_file(&path, bytes);
            Ok(Response::new(guest::Empty {}))
        }

        async fn remove(
            &self,
            request: Request<guest::RemoveRequest>,
        ) -> Result<Response<guest::Empty>, Status> {
            let agent = self.agent(request.metadata())?;
            agent.remove_file(&request.into_inner().path)?;
            Ok(Response::new(guest::Empty {}))
        }

        async fn get_env(
            &self,
            request: Request<guest::EnvKey>,
        ) -> Result<Response<guest::EnvValue>, Status> {
            let agent = self.agent(request.metadata())?;
            let value = agent.env().remove(&request.into_inner().key);
            Ok(Response::new(guest::EnvValue { value }))
        }

        async fn set_env(
            &self,
            request: Request<guest::EnvEntry>,
        ) -> Result<Response<guest::Empty>, Status> {
            let agent = self.agent(request.metadata())?;
            let entry = request.into_inner();
            agent.set_env(entry.key, Some(entry.value));
            Ok(Response::new(guest::Empty {}))
        }

        async fn delete_env(
            &self,
            request: Request<guest::EnvKey>,
        ) -> Result<Response<guest::Empty>, Status> {
            let agent = self.agent(request.metadata())?;
            agent.set_env(request.into_inner().key, None);
            Ok(Response::new(guest::Empty {}))
        }

        async fn all_env(
            &self,
            request: Request<guest::Empty>,
        ) -> Result<Response<guest::EnvMap>, Status> {
            let agent = self.agent(request.metadata())?;
            let env = agent.env().into_iter().collect();
            Ok(Response::new(guest::EnvMap { env }))
        }

        async fn fetch(
            &self,
            _: Request<Streaming<guest::DenoFrame>>,
        ) -> Result<Response<Self::FetchStream>, Status> {
            Err(Status::unimplemented("the fake agent has no fetch"))
        }
    }
    refused {
        personalize(PersonalizeRequest) -> guest::Empty;
        prewarm(PrewarmRequest) -> guest::Empty;
        configure_network(ConfigureNetworkRequest) -> guest::Empty;
        usage(Empty) -> guest::UsageReply;
        close_output(CloseOutputRequest) -> guest::Empty;
        resize_pty(ResizePtyRequest) -> guest::Empty;
        list_processes(Empty) -> guest::ListProcessesReply;
        spawn_deno(SpawnDenoRequest) -> guest::SpawnReply;
        deno_restarts(DenoRestartsRequest) -> Self::DenoRestartsStream;
        deno_http_wait(DenoRequest) -> guest::DenoHttpWaitReply;
        deno_repl_run(DenoReplRunRequest) -> Self::DenoReplRunStream;
        deno_repl_close(DenoRequest) -> guest::Empty;
        read_dir(PathRequest) -> Self::ReadDirStream;
        mkdir(MkdirRequest) -> guest::Empty;
        rename(TwoPathsRequest) -> guest::Empty;
        stat(StatRequest) -> guest::FileInfo;
        chmod(ChmodRequest) -> guest::Empty;
        chown(ChownRequest) -> guest::Empty;
        copy_file(TwoPathsRequest) -> guest::Empty;
        link(TwoPathsRequest) -> guest::Empty;
        symlink(TwoPathsRequest) -> guest::Empty;
        read_link(PathRequest) -> guest::PathReply;
        real_path(PathRequest) -> guest::PathReply;
        truncate(TruncateRequest) -> guest::Empty;
        umask(UmaskRequest) -> guest::UmaskReply;
        utime(UtimeRequest) -> guest::Empty;
        make_temp(MakeTempRequest) -> guest::PathReply;
        walk(WalkRequest) -> Self::WalkStream;
        expand_glob(ExpandGlobRequest) -> Self::ExpandGlobStream;
        open(OpenRequest) -> guest::OpenReply;
        handle_read(HandleReadRequest) -> guest::HandleReadReply;
        handle_write(HandleWriteRequest) -> guest::HandleWriteReply;
        handle_seek(HandleSeekRequest) -> guest::HandleSeekReply;
        handle_truncate(HandleTruncateRequest) -> guest::Empty;
        handle_stat(HandleRequest) -> guest::FileInfo;
        handle_sync(HandleSyncRequest) -> guest::Empty;
        handle_utime(HandleUtimeRequest) -> guest::Empty;
        handle_lock(HandleLockRequest) -> guest::Empty;
        handle_unlock(HandleRequest) -> guest::Empty;
        handle_close(HandleRequest) -> guest::Empty;
    }
}
