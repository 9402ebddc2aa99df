//! The server's way to the egress process, which carries what sandboxes send
//! out and is the only one that can read the values of secrets again.

use std::path::Path;
use std::time::Duration;

use tombolo_ids::SandboxId;
use tombolo_node_proto::egress::egress_client::EgressClient;
use tombolo_node_proto::egress::{
    ChangeSecretsRequest, ExplainHeader, ExplainRequest, HostStats, PublicKeyRequest, Secret,
    SetPolicyRequest, SetReply, StatsReply, StatsRequest, TailReply, TailRequest,
};
use tombolo_secret::{ParseKeyError, SealError, SealingKey};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use crate::call::{CallError, Caller, never, unix_channel};

type Client = EgressClient<Channel>;

/// How long one attempt at a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Something that needs the egress process failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EgressError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the egress process gave a key that is none")]
    Key(#[from] ParseKeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Secrets that become others, with the policy that holds from then on.
#[derive(Debug, Default)]
pub(crate) struct SecretChange {
    pub(crate) given: Vec<Secret>,
    pub(crate) revoked: Vec<String>,
    pub(crate) policy_json: String,
}

/// Clones share one connection, which is made anew whenever it was lost.
#[derive(Clone, Debug)]
pub(crate) struct EgressLink {
    channel: Channel,
    caller: Caller,
}

impl EgressLink {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(socket: &Path, wait: Duration) -> Self {
        let endpoint = Endpoint::from_static("http://egress.tombolo.internal");
        Self {
            channel: unix_channel(&endpoint, socket),
            caller: Caller {
                peer: "the egress process",
                wait,
            },
        }
    }

    fn client(&self) -> Client {
        EgressClient::new(self.channel.clone())
    }

    /// What values are sealed with. Asked for each time and never kept, so that
    /// it is the key of the process that runs now.
    pub(crate) async fn sealing_key(&self) -> Result<SealingKey, EgressError> {
        let call = || {
            let mut client = self.client();
            async move { client.public_key(PublicKeyRequest {}).await }
        };
        let reply = self
            .caller
            .repeat("give its key", CALL_TIMEOUT, never, call)
            .await?;
        Ok(SealingKey::from_bytes(&reply.key)?)
    }

    pub(crate) async fn set_policy(
        &self,
        id: &SandboxId,
        policy_json: &str,
    ) -> Result<Vec<String>, CallError> {
        let call = || {
            let request = SetPolicyRequest {
                sandbox_id: id.to_string(),
                policy_json: policy_json.to_owned(),
            };
            let mut client = self.client();
            async move { client.set_policy(request).await }
        };
        let SetReply { warnings } = self
            .caller
            .repeat("change a policy", CALL_TIMEOUT, not_attached, call)
            .await?;
        Ok(warnings)
    }

    /// May be repeated: the same values again change nothing.
    pub(crate) async fn change_secrets(
        &self,
        id: &SandboxId,
        change: &SecretChange,
    ) -> Result<Vec<String>, CallError> {
        let call = || {
            let request = ChangeSecretsRequest {
                sandbox_id: id.to_string(),
                given: change.given.clone(),
                revoked: change.revoked.clone(),
                policy_json: change.policy_json.clone(),
            };
            let mut client = self.client();
            async move { client.change_secrets(request).await }
        };
        let SetReply { warnings } = self
            .caller
            .repeat("change secrets", CALL_TIMEOUT, not_attached, call)
            .await?;
        Ok(warnings)
    }

    /// What the policy says to a URL, as a JSON object.
    pub(crate) async fn explain(
        &self,
        id: &SandboxId,
        asked: &tombolo_api::native::ExplainRequest,
    ) -> Result<String, CallError> {
        let call = || {
            let headers = asked.headers.iter().map(|header| ExplainHeader {
                name: header.name.clone(),
                value: header.value.clone(),
            });
            let request = ExplainRequest {
                sandbox_id: id.to_string(),
                method: asked.method.clone(),
                url: asked.url.clone(),
                headers: headers.collect(),
                body: asked.body.clone().map(Into::into),
            };
            let mut client = self.client();
            async move { client.explain(request).await }
        };
        let reply = self
            .caller
            .repeat("explain a policy", CALL_TIMEOUT, not_attached, call)
            .await?;
        Ok(reply.explanation_json)
    }

    /// Records from now on: of one sandbox, or of all. One attempt.
    pub(crate) async fn tail(
        &self,
        id: Option<&SandboxId>,
    ) -> Result<Streaming<TailReply>, CallError> {
        let request = TailRequest {
            sandbox_id: id.map(SandboxId::to_string).unwrap_or_default(),
        };
        let mut client = self.client();
        let call = || async move { client.tail(request).await };
        self.caller
            .attempt("tell what is sent", CALL_TIMEOUT, call)
            .await
    }

    /// Sums of one sandbox by host.
    pub(crate) async fn sums(&self, id: &SandboxId) -> Result<Vec<HostStats>, CallError> {
        Ok(self.stats(Some(id)).await?.hosts)
    }

    /// Sums of all sandboxes, in the text format of Prometheus.
    pub(crate) async fn metrics(&self) -> Result<String, CallError> {
        Ok(self.stats(None).await?.prometheus)
    }

    async fn stats(&self, id: Option<&SandboxId>) -> Result<StatsReply, CallError> {
        let call = || {
            let request = StatsRequest {
                sandbox_id: id.map(SandboxId::to_string).unwrap_or_default(),
            };
            let mut client = self.client();
            async move { client.stats(request).await }
        };
        self.caller
            .repeat("sum up", CALL_TIMEOUT, never, call)
            .await
    }
}

/// A process that was started anew carries a sandbox as soon as its node has
/// handed it over again, so a sandbox that it does not know will be known soon.
fn not_attached(error: &CallError) -> bool {
    error.code() == Some(Code::NotFound)
}
