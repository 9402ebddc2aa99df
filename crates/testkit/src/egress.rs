//! An egress process without a network: it opens what is sealed to it, keeps
//! what it is told of sandboxes, and tells the records that a test gives it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt as _};
use tombolo_node_proto::egress::egress_server::{Egress, EgressServer};
use tombolo_node_proto::egress::{
    AttachReply, AttachRequest, CaCertificateReply, ChangeSecretsRequest, DetachReply,
    ExplainReply, ExplainRequest, HostStats, PublicKeyReply, PublicKeyRequest, RetainReply,
    RetainRequest, SandboxRef, Secret, SetPolicyRequest, SetReply, StatsReply, StatsRequest,
    TailReply, TailRequest,
};
use tombolo_node_proto::v1::SandboxNetwork;
use tombolo_secret::{OpeningKey, SealedSecret, SecretContext, SecretName};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use crate::socket::listen;

/// Records a slow reader may be behind.
const RECORDS_MAX: usize = 1024;

/// A secret that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedSecret {
    pub placeholder: String,
    pub value: String,
    pub is_revoked: bool,
}

/// What it was told of a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CarriedSandbox {
    pub organisation: String,
    pub labels: BTreeMap<String, String>,
    pub policy: Value,
    pub secrets: BTreeMap<String, OpenedSecret>,
}

#[derive(Debug)]
struct State {
    key: OpeningKey,
    carried: BTreeMap<String, CarriedSandbox>,
    refusal: Option<(Code, String)>,
    warnings: Vec<String>,
    /// How many times each kind of change was asked for.
    changes: usize,
}

/// What outlives a restart of the process.
#[derive(Debug)]
pub(crate) struct EgressShared {
    state: Mutex<State>,
    records: broadcast::Sender<(String, TailReply)>,
}

/// An egress process on a unix socket of its own.
#[derive(Debug)]
pub struct FakeEgress {
    shared: Arc<EgressShared>,
    directory: TempDir,
    runtime: Option<Runtime>,
}

impl FakeEgress {
    pub fn start() -> anyhow::Result<Self> {
        let state = State {
            key: OpeningKey::generate()?,
            carried: BTreeMap::new(),
            refusal: None,
            warnings: Vec::new(),
            changes: 0,
        };
        let mut fake = Self {
            shared: Arc::new(EgressShared {
                state: Mutex::new(state),
                records: broadcast::Sender::new(RECORDS_MAX),
            }),
            directory: tempfile::tempdir().context("no directory for the fake egress process")?,
            runtime: None,
        };
        fake.restart()?;
        Ok(fake)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("egress.sock")
    }

    pub(crate) fn shared(&self) -> Arc<EgressShared> {
        Arc::clone(&self.shared)
    }

    /// Ends the process, so to speak: connections break, what it keeps stays.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts it again on the same socket.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let (runtime, connections) = listen(&self.socket())?;
        let service = EgressServer::new(EgressService(Arc::clone(&self.shared)));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(connections);
        runtime.spawn(serving);
        self.runtime = Some(runtime);
        Ok(())
    }

    /// As if its state had been lost: what was sealed before cannot be opened.
    pub fn renew_key(&self) -> anyhow::Result<()> {
        self.shared.lock().key = OpeningKey::generate()?;
        Ok(())
    }

    /// What it was told of a sandbox, if it carries it.
    #[must_use]
    pub fn sandbox(&self, id: &str) -> Option<CarriedSandbox> {
        self.shared.lock().carried.get(id).cloned()
    }

    /// How many changes were asked for, refused ones too.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.shared.lock().changes
    }

    /// Takes a sandbox away, as a restart does until the node is back.
    #[must_use]
    pub fn take(&self, id: &str) -> Option<CarriedSandbox> {
        self.shared.lock().carried.remove(id)
    }

    pub fn put_back(&self, id: &str, sandbox: CarriedSandbox) {
        self.shared.lock().carried.insert(id.to_owned(), sandbox);
    }

    /// From now on it refuses whatever it is told, or no more.
    pub fn refuse(&self, refusal: Option<(Code, &str)>) {
        let refusal = refusal.map(|(code, words)| (code, words.to_owned()));
        self.shared.lock().refusal = refusal;
    }

    /// From now on it has this to say about each policy.
    pub fn warn(&self, warnings: &[&str]) {
        self.shared.lock().warnings = warnings.iter().map(ToString::to_string).collect();
    }

    /// Tells a record to everybody who listens.
    pub fn record(&self, organisation: &str, sandbox: &str, skipped: u64) {
        let record = json!({ "v": 1, "org": organisation, "sandbox": sandbox });
        let reply = TailReply {
            record_json: record.to_string(),
            skipped,
        };
        // Nobody may be listening.
        drop(self.shared.records.send((sandbox.to_owned(), reply)));
    }

    /// How many listen to records now.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.shared.records.receiver_count()
    }
}

impl Drop for FakeEgress {
    fn drop(&mut self) {
        self.kill();
    }
}

impl EgressShared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a node does with the network of a new sandbox.
    pub(crate) fn attach(&self, id: &str, network: SandboxNetwork) -> Result<Vec<String>, Status> {
        let mut state = self.lock();
        state.refuse()?;
        let mut sandbox = CarriedSandbox {
            organisation: network.organisation,
            labels: network.labels.into_iter().collect(),
            policy: policy(&network.policy_json)?,
            secrets: BTreeMap::new(),
        };
        for secret in network.secrets {
            let secret = Secret {
                name: secret.name,
                placeholder: secret.placeholder,
                sealed: secret.sealed,
            };
            state.open(id, &mut sandbox, secret)?;
        }
        state.carried.insert(id.to_owned(), sandbox);
        Ok(state.warnings.clone())
    }

    pub(crate) fn detach(&self, id: &str) {
        self.lock().carried.remove(id);
    }
}

impl State {
    fn refuse(&self) -> Result<(), Status> {
        match &self.refusal {
            Some((code, words)) => Err(Status::new(*code, words)),
            None => Ok(()),
        }
    }

    fn open(&self, id: &str, sandbox: &mut CarriedSandbox, secret: Secret) -> Result<(), Status> {
        let invalid = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
        let name = SecretName::parse(&secret.name).map_err(|error| invalid(&error))?;
        let sealed = SealedSecret::try_from(secret.sealed).map_err(|error| invalid(&error))?;
        let context = SecretContext {
            organisation: &sandbox.organisation,
            sandbox: id,
            name: &name,
        };
        let value = self.key.open(&sealed, &context);
        let value = value.map_err(|error| invalid(&error))?;
        let opened = OpenedSecret {
            placeholder: secret.placeholder,
            value: value.expose().to_owned(),
            is_revoked: false,
        };
        sandbox.secrets.insert(secret.name, opened);
        Ok(())
    }

    fn carried(&self, id: &str) -> Result<CarriedSandbox, Status> {
        let carried = self.carried.get(id).cloned();
        carried.ok_or_else(|| Status::not_found("the sandbox is not attached"))
    }
}

fn policy(text: &str) -> Result<Value, Status> {
    serde_json::from_str(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The gRPC service on its socket.
#[derive(Debug)]
struct EgressService(Arc<EgressShared>);

#[tonic::async_trait]
impl Egress for EgressService {
    type TailStream = Pin<Box<dyn Stream<Item = Result<TailReply, Status>> + Send>>;

    async fn public_key(
        &self,
        _: Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyReply>, Status> {
        let state = self.0.lock();
        state.refuse()?;
        let key = state.key.sealing_key().to_bytes().to_vec().into();
        Ok(Response::new(PublicKeyReply { key }))
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Result<Response<AttachReply>, Status> {
        Err(Status::failed_precondition("attaching is the node's"))
    }

    async fn detach(&self, _: Request<SandboxRef>) -> Result<Response<DetachReply>, Status> {
        Err(Status::failed_precondition("detaching is the node's"))
    }

    async fn retain(&self, _: Request<RetainRequest>) -> Result<Response<RetainReply>, Status> {
        Err(Status::failed_precondition("retaining is the node's"))
    }

    async fn set_policy(
        &self,
        request: Request<SetPolicyRequest>,
    ) -> Result<Response<SetReply>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        state.changes += 1;
        state.refuse()?;
        let mut sandbox = state.carried(&request.sandbox_id)?;
        sandbox.policy = policy(&request.policy_json)?;
        state.carried.insert(request.sandbox_id, sandbox);
        let warnings = state.warnings.clone();
        Ok(Response::new(SetReply { warnings }))
    }

    async fn change_secrets(
        &self,
        request: Request<ChangeSecretsRequest>,
    ) -> Result<Response<SetReply>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        state.changes += 1;
        state.refuse()?;
        let mut sandbox = state.carried(&request.sandbox_id)?;
        for name in request.revoked {
            if let Some(secret) = sandbox.secrets.get_mut(&name) {
                secret.is_revoked = true;
            }
        }
        for secret in request.given {
            state.open(&request.sandbox_id, &mut sandbox, secret)?;
        }
        if !request.policy_json.is_empty() {
            sandbox.policy = policy(&request.policy_json)?;
        }
        state.carried.insert(request.sandbox_id, sandbox);
        let warnings = state.warnings.clone();
        Ok(Response::new(SetReply { warnings }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        let request = request.into_inner();
        let state = self.0.lock();
        state.refuse()?;
        state.carried(&request.sandbox_id)?;
        let explanation = json!({ "method": request.method, "url": request.url });
        Ok(Response::new(ExplainReply {
            explanation_json: explanation.to_string(),
        }))
    }

    async fn tail(
        &self,
        request: Request<TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let wanted = request.into_inner().sandbox_id;
        self.0.lock().refuse()?;
        let records = BroadcastStream::new(self.0.records.subscribe());
        let wanted = records.filter_map(move |record| {
            let (sandbox, reply) = record.ok()?;
            (wanted.is_empty() || wanted == sandbox).then_some(Ok(reply))
        });
        Ok(Response::new(Box::pin(wanted)))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        let id = request.into_inner().sandbox_id;
        self.0.lock().refuse()?;
        if id.is_empty() {
            return Ok(Response::new(StatsReply {
                hosts: Vec::new(),
                prometheus: "tombolo_egress_dropped_records_total 0\n".to_owned(),
            }));
        }
        let host = HostStats {
            host: "api.example.com".to_owned(),
            attempts: 3,
            denied: 1,
            ..HostStats::default()
        };
        Ok(Response::new(StatsReply {
            hosts: vec![host],
            prometheus: String::new(),
        }))
    }

    async fn ca_certificate(
        &self,
        _: Request<SandboxRef>,
    ) -> Result<Response<CaCertificateReply>, Status> {
        Err(Status::failed_precondition("certificates are the node's"))
    }
}
