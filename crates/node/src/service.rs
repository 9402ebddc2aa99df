//! The node's own calls (`tombolo.node.v1`).

use crate::egress::AttachError;
use crate::sandbox::EndReason;
use crate::sandboxes::{CreateError, Ended, NewSandbox, Sandboxes};
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};
use tombolo_diag::{Report, in_one_line};
use tombolo_host::{Engine, LaunchError};
use tombolo_ids::SandboxId;
use tombolo_node_proto::v1::node_server::Node;
use tombolo_node_proto::v1::{
    CreateSandboxReply, CreateSandboxRequest, DescribeReply, DescribeRequest, Empty,
    ListSandboxesReply, SandboxEnded, SandboxRef, SandboxState, SandboxUsageReply,
    SetDeadlineRequest,
};
use tonic::{Request, Response, Status};

pub(crate) struct NodeService<E: Engine> {
    pub(crate) sandboxes: Arc<Sandboxes<E>>,
    pub(crate) default_memory_mib: u32,
    pub(crate) vcpu_count: u32,
    /// Of every sandbox.
    pub(crate) disk_bytes: u64,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<E: Engine> Node for NodeService<E> {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SandboxEnded, Status>> + Send>>;

    async fn describe(&self, _: Request<DescribeRequest>) -> Answer<DescribeReply> {
        let (isolation, reason) = self.sandboxes.engine.isolation();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(DescribeReply {
            isolation: isolation.as_str().to_owned(),
            isolation_reason: reason.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sandbox_count: count(self.sandboxes.all().len()),
            pool_ready: count(self.sandboxes.pool.ready_count()),
            pool_target: count(self.sandboxes.pool.target()),
        }))
    }

    async fn create_sandbox(
        &self,
        request: Request<CreateSandboxRequest>,
    ) -> Answer<CreateSandboxReply> {
        let request = request.into_inner();
        if request.vcpu_count != 0 && request.vcpu_count != self.vcpu_count {
            return Err(Status::invalid_argument(format!(
                "sandboxes of this node have {} processors",
                self.vcpu_count
            )));
        }
        check_disk(request.disk_bytes, self.disk_bytes)?;
        let memory_mib = match request.memory_mib {
            0 => self.default_memory_mib,
            memory_mib => memory_mib,
        };
        let new = NewSandbox {
            id: parse_id(&request.sandbox_id)?,
            memory_mib,
            deadline_unix_millis: request.deadline_unix_millis,
            env: request.env,
            network: request.network,
        };
        // A caller that gives up must not leave half a sandbox, so the work is
        // a task of its own; what it makes for nobody ends at its deadline.
        let sandboxes = Arc::clone(&self.sandboxes);
        let created = tokio::spawn(async move { sandboxes.create(new).await }).await;
        let created = created.map_err(|error| Status::internal(error.to_string()))?;
        let created = created.map_err(|error| create_status(&error))?;
        Ok(Response::new(CreateSandboxReply {
            isolation: self.sandboxes.engine.isolation().0.as_str().to_owned(),
            from_pool: created.from_pool,
            memory_mib: created.handle.memory_mib(),
            warnings: created.warnings,
        }))
    }

    async fn destroy_sandbox(&self, request: Request<SandboxRef>) -> Answer<Empty> {
        let id = parse_id(&request.into_inner().sandbox_id)?;
        self.sandboxes.destroy(&id).await;
        Ok(Response::new(Empty {}))
    }

    async fn list_sandboxes(&self, _: Request<Empty>) -> Answer<ListSandboxesReply> {
        let all = self.sandboxes.all().into_iter();
        let sandboxes = all.map(|(id, handle)| SandboxState {
            sandbox_id: id.to_string(),
            deadline_unix_millis: handle.deadline_unix_millis(),
            memory_mib: handle.memory_mib(),
        });
        Ok(Response::new(ListSandboxesReply {
            sandboxes: sandboxes.collect(),
        }))
    }

    async fn set_deadline(&self, request: Request<SetDeadlineRequest>) -> Answer<Empty> {
        let request = request.into_inner();
        let id = parse_id(&request.sandbox_id)?;
        let handle = self.sandboxes.get(&id).ok_or_else(no_such_sandbox)?;
        let moved = handle.set_deadline(request.deadline_unix_millis).await;
        moved.ok_or_else(no_such_sandbox)??;
        Ok(Response::new(Empty {}))
    }

    async fn sandbox_usage(&self, request: Request<SandboxRef>) -> Answer<SandboxUsageReply> {
        let id = parse_id(&request.into_inner().sandbox_id)?;
        let handle = self.sandboxes.get(&id).ok_or_else(no_such_sandbox)?;
        let usage = handle.usage().await.ok_or_else(no_such_sandbox)?;
        Ok(Response::new(SandboxUsageReply {
            cpu_nanos: usage.cpu_nanos,
            memory_private_bytes: usage.memory_private_bytes,
            disk_allocated_bytes: usage.disk_allocated_bytes,
        }))
    }

    async fn watch(&self, _: Request<Empty>) -> Answer<Self::WatchStream> {
        let ends = BroadcastStream::new(self.sandboxes.subscribe()).map(|end| match end {
            Ok(end) => Ok(ended_message(&end)),
            // The watcher compares lists when it subscribes anew.
            Err(BroadcastStreamRecvError::Lagged(_)) => {
                Err(Status::data_loss("too far behind; subscribe again"))
            }
        });
        let subscribed = tokio_stream::once(Ok(SandboxEnded::default()));
        Ok(Response::new(Box::pin(subscribed.chain(ends))))
    }
}

/// Every disk is as large as this node's templates have it. Zero asks for that.
fn check_disk(asked_bytes: u64, given_bytes: u64) -> Result<(), Status> {
    if asked_bytes == 0 || asked_bytes == given_bytes {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "the disk of a sandbox has {given_bytes} bytes here, not {asked_bytes}; \
         give the server and the node the same `disk_gib`"
    )))
}

fn parse_id(id: &str) -> Result<SandboxId, Status> {
    id.parse()
        .map_err(|_malformed| Status::invalid_argument("that is no sandbox id"))
}

fn no_such_sandbox() -> Status {
    Status::not_found("this node has no such sandbox")
}

fn create_status(error: &CreateError) -> Status {
    tracing::warn!(error = %Report::new(error), "a sandbox could not be created");
    let words = error.to_string();
    if is_disk_full(error) {
        return Status::resource_exhausted("the disk of this node is full");
    }
    match error {
        CreateError::Exists => Status::already_exists(words),
        CreateError::Full => Status::resource_exhausted(words),
        CreateError::Unwanted => Status::aborted(words),
        // A busy host is the usual reason, and another attempt the mend.
        CreateError::Slow(_) | CreateError::Launch(LaunchError::NoAnswer(_)) => {
            Status::deadline_exceeded(words)
        }
        CreateError::Attach(AttachError::Refused(status)) => {
            Status::new(status.code(), status.message())
        }
        CreateError::Attach(AttachError::NotConfigured | AttachError::Away) => {
            Status::unavailable(in_one_line(error))
        }
        CreateError::Launch(_)
        | CreateError::Network(_)
        | CreateError::Attach(AttachError::Lost | AttachError::Sockets(_))
        | CreateError::Record(_)
        | CreateError::Random(_)
        | CreateError::Identity(_) => Status::internal(words),
    }
}

/// Whether somewhere below, a file found no room.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

fn ended_message(end: &Ended) -> SandboxEnded {
    let reason = match end.reason {
        EndReason::Deadline => "deadline",
        EndReason::Exited => "vm_exited",
        EndReason::Destroyed => "destroyed",
    };
    SandboxEnded {
        sandbox_id: end.id.to_string(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tonic::Code;

    #[test]
    fn only_the_nodes_disk_size_is_given() {
        let given = 10 << 30;
        for (asked, is_given) in [
            (0, true),
            (given, true),
            (given - 1, false),
            (20 << 30, false),
        ] {
            assert_eq!(check_disk(asked, given).is_ok(), is_given, "{asked}");
        }
    }

    #[tokio::test]
    async fn callers_are_told_what_may_be_tried_again() {
        let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await;
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let cases = [
            (
                CreateError::Slow(elapsed.unwrap_err()),
                Code::DeadlineExceeded,
            ),
            (CreateError::Full, Code::ResourceExhausted),
            (CreateError::Record(full), Code::ResourceExhausted),
            (CreateError::Exists, Code::AlreadyExists),
            (
                CreateError::Record(std::io::Error::other("odd")),
                Code::Internal,
            ),
        ];
        for (error, code) in cases {
            assert_eq!(create_status(&error).code(), code, "{error}");
        }
    }
}
