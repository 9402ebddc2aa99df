//! How the proxy is controlled: by gRPC over a unix socket, as
//! `crates/node-proto/proto/egress.proto` says.

mod descriptors;
pub(crate) mod explain;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_diag::in_one_line;
use tombolo_node_proto::egress::{
    AttachReply, AttachRequest, CaCertificateReply, ChangeSecretsRequest, DetachReply,
    ExplainReply, ExplainRequest, HostStats, PublicKeyReply, PublicKeyRequest, RetainReply,
    RetainRequest, SandboxRef, Secret, SetPolicyRequest, SetReply, StatsReply, StatsRequest,
    TailReply, TailRequest, egress_server::Egress,
};
use tonic::{Code, Request, Response, Status};

pub(crate) use descriptors::{Descriptors, open as open_descriptors};

use crate::{
    counters::HostCounts,
    registry::{ChangeError, Given, GivenSecret, Registry, SecretChange},
    sandbox::SandboxIdentity,
};

/// Records on their way to one subscriber.
const TAIL_QUEUE_LEN: usize = 64;

/// The service.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) registry: Arc<Registry>,
    pub(crate) descriptors: Arc<Descriptors>,
}

#[tonic::async_trait]
impl Egress for Control {
    type TailStream = Pin<Box<dyn Stream<Item = Result<TailReply, Status>> + Send>>;

    async fn public_key(
        &self,
        _request: Request<PublicKeyRequest>,
    ) -> Result<Response<PublicKeyReply>, Status> {
        let key = self
            .registry
            .opening_key()
            .sealing_key()
            .to_bytes()
            .to_vec();
        Ok(Response::new(PublicKeyReply { key: key.into() }))
    }

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachReply>, Status> {
        let request = request.into_inner();
        let sockets = self
            .descriptors
            .take(&request.sandbox_id)
            .await
            .ok_or_else(|| {
                Status::failed_precondition("no sockets of this sandbox came; hand them over first")
            })?;
        let id: Arc<str> = request.sandbox_id.into();
        let given = Given {
            identity: SandboxIdentity {
                id: Arc::clone(&id),
                organisation: request.organisation.into(),
                labels: request.labels.into_iter().collect(),
            },
            policy_json: Some(request.policy_json).filter(|json| !json.is_empty()),
            secrets: request.secrets.into_iter().map(given).collect(),
            sockets,
        };
        let warnings = self.registry.attach(given).await.map_err(refuse)?;
        let sandbox = self.registry.find(&id).map_err(refuse)?;
        Ok(Response::new(AttachReply {
            ca_certificate_pem: sandbox.authority.certificate_pem().to_owned(),
            warnings,
        }))
    }

    async fn detach(&self, request: Request<SandboxRef>) -> Result<Response<DetachReply>, Status> {
        let id = request.into_inner().sandbox_id;
        let counts = self.registry.detach(&id).await.map_err(refuse)?;
        let stats = counts.into_iter().map(stats).collect();
        Ok(Response::new(DetachReply { stats }))
    }

    async fn retain(
        &self,
        request: Request<RetainRequest>,
    ) -> Result<Response<RetainReply>, Status> {
        let living = request.into_inner().sandbox_ids.into_iter().collect();
        let detached = self.registry.retain(&living).await.map_err(refuse)?;
        Ok(Response::new(RetainReply { detached }))
    }

    async fn set_policy(
        &self,
        request: Request<SetPolicyRequest>,
    ) -> Result<Response<SetReply>, Status> {
        let request = request.into_inner();
        let changed = self
            .registry
            .set_policy(&request.sandbox_id, request.policy_json)
            .await;
        let warnings = changed.map_err(refuse)?;
        Ok(Response::new(SetReply { warnings }))
    }

    async fn change_secrets(
        &self,
        request: Request<ChangeSecretsRequest>,
    ) -> Result<Response<SetReply>, Status> {
        let request = request.into_inner();
        let change = SecretChange {
            given: request.given.into_iter().map(given).collect(),
            revoked: request.revoked,
            policy_json: Some(request.policy_json).filter(|json| !json.is_empty()),
        };
        let changed = self
            .registry
            .change_secrets(&request.sandbox_id, change)
            .await;
        let warnings = changed.map_err(refuse)?;
        Ok(Response::new(SetReply { warnings }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        let request = request.into_inner();
        let sandbox = self.registry.find(&request.sandbox_id).map_err(refuse)?;
        let explanation = explain::explain(&sandbox, &request)
            .map_err(|error| Status::invalid_argument(in_one_line(&error)))?;
        let explanation_json = explanation.to_string();
        Ok(Response::new(ExplainReply { explanation_json }))
    }

    async fn tail(
        &self,
        request: Request<TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let wanted = request.into_inner().sandbox_id;
        let mut lines = self.registry.shared.audit.subscribe();
        let (sender, receiver) = mpsc::channel(TAIL_QUEUE_LEN);
        // Ends with its subscriber, or with the process.
        tokio::spawn(async move {
            let mut skipped = 0;
            loop {
                let line = tokio::select! {
                    line = lines.recv() => line,
                    () = sender.closed() => return,
                };
                match line {
                    Ok(line) if wanted.is_empty() || *line.sandbox == *wanted => {
                        let record_json = line.json.clone();
                        let reply = TailReply {
                            record_json,
                            skipped: std::mem::take(&mut skipped),
                        };
                        if sender.send(Ok(reply)).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(count)) => skipped += count,
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        let id = request.into_inner().sandbox_id;
        let counters = &self.registry.shared.counters;
        let reply = if id.is_empty() {
            StatsReply {
                hosts: Vec::new(),
                prometheus: counters.prometheus(),
            }
        } else {
            StatsReply {
                hosts: counters.of(&id).into_iter().map(stats).collect(),
                prometheus: String::new(),
            }
        };
        Ok(Response::new(reply))
    }

    async fn ca_certificate(
        &self,
        request: Request<SandboxRef>,
    ) -> Result<Response<CaCertificateReply>, Status> {
        let id = request.into_inner().sandbox_id;
        let sandbox = self.registry.find(&id).map_err(refuse)?;
        let pem = sandbox.authority.certificate_pem().to_owned();
        Ok(Response::new(CaCertificateReply { pem }))
    }
}

fn given(secret: Secret) -> GivenSecret {
    GivenSecret {
        name: secret.name,
        placeholder: secret.placeholder,
        sealed: secret.sealed,
    }
}

fn stats((host, counts): (String, HostCounts)) -> HostStats {
    HostStats {
        host,
        attempts: counts.attempts,
        denied: counts.denied,
        failed: counts.failed,
        request_bytes: counts.request_bytes,
        response_bytes: counts.response_bytes,
        secret_uses: counts.secret_uses,
        scrubbed: counts.scrubbed,
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the last that is done with an error, in `map_err`"
)]
fn refuse(error: ChangeError) -> Status {
    let code = match &error {
        ChangeError::Exists => Code::AlreadyExists,
        ChangeError::NotFound | ChangeError::NotKept => Code::NotFound,
        ChangeError::Document(_)
        | ChangeError::Rules(_)
        | ChangeError::Name(_)
        | ChangeError::Placeholder(_)
        | ChangeError::Sealed(_)
        | ChangeError::Open(_) => Code::InvalidArgument,
        ChangeError::Store(_)
        | ChangeError::Authority(_)
        | ChangeError::Sandbox(_)
        | ChangeError::Sockets(_) => Code::Internal,
    };
    Status::new(code, in_one_line(&error))
}
