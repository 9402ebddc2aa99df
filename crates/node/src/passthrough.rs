//! Passes calls of the guest protocol to the agent of the sandbox they name.
//! The messages are not decoded: the node holds host rights, so the less it
//! parses of what a guest says, the better.

use crate::sandboxes::Sandboxes;
use http::{Request, Response};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tombolo_host::Engine;
use tombolo_node_proto::SANDBOX_METADATA_KEY;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceExt};

/// Serves the guest protocol by asking the sandbox's own agent.
pub(crate) struct Passthrough<E: Engine> {
    sandboxes: Arc<Sandboxes<E>>,
}

impl<E: Engine> Passthrough<E> {
    pub(crate) fn new(sandboxes: Arc<Sandboxes<E>>) -> Self {
        Self { sandboxes }
    }
}

impl<E: Engine> Clone for Passthrough<E> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.sandboxes))
    }
}

impl<E: Engine> NamedService for Passthrough<E> {
    const NAME: &'static str = "tombolo.guest.v1.Agent";
}

impl<E: Engine> Service<Request<Body>> for Passthrough<E> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let sandboxes = Arc::clone(&self.sandboxes);
        Box::pin(async move {
            let answer = pass(&sandboxes, request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

async fn pass<E: Engine>(
    sandboxes: &Sandboxes<E>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let named = request.headers().get(SANDBOX_METADATA_KEY);
    let sandbox = named
        .and_then(|name| name.to_str().ok())
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| Status::invalid_argument("the call names no sandbox"))?;
    let handle = sandboxes
        .get(&sandbox)
        .ok_or_else(|| Status::not_found("this node has no such sandbox"))?;
    let unavailable = |what: &str| Status::unavailable(format!("the sandbox {what}"));
    let agent = handle.agent();
    let call = async {
        let answer = agent.oneshot(request).await;
        answer.map_err(|_lost| unavailable("does not answer"))
    };
    // A guest that died says nothing; its callers are told.
    tokio::select! {
        answer = call => answer,
        () = handle.ended() => Err(unavailable("has ended")),
    }
}
