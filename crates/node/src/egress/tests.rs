//! The link beside a proxy that lives in this process and fails when told to.

use std::collections::VecDeque;
use std::pin::Pin;

use parking_lot::Mutex;
use rustix::net::{bind, listen};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tombolo_ids::Region;
use tombolo_node_proto::egress::egress_server::{Egress, EgressServer};
use tombolo_node_proto::egress::{
    CaCertificateReply, ChangeSecretsRequest, DetachReply, ExplainReply, ExplainRequest,
    PublicKeyReply, PublicKeyRequest, RetainReply, SetPolicyRequest, SetReply, StatsReply,
    StatsRequest, TailReply, TailRequest,
};
use tonic::Request;
use tonic::transport::Server;

use super::*;

type Answer<T> = Result<Response<T>, Status>;

/// How long a test waits for what it expects.
const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// What the proxy is to answer, call by call, and then nothing but yes.
#[derive(Default)]
struct Proxy {
    refusals: Mutex<VecDeque<Code>>,
    /// Calls and whom they were about.
    heard: watch::Sender<Vec<(&'static str, String)>>,
}

impl Proxy {
    fn hear(&self, call: &'static str, sandbox: String) -> Result<(), Status> {
        self.heard.send_modify(|heard| heard.push((call, sandbox)));
        match self.refusals.lock().pop_front() {
            Some(code) => Err(Status::new(code, "not now")),
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Egress for Proxy {
    type TailStream = Pin<Box<dyn Stream<Item = Result<TailReply, Status>> + Send>>;

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachReply> {
        self.hear("attach", request.into_inner().sandbox_id)?;
        Ok(Response::new(AttachReply::default()))
    }

    async fn detach(&self, request: Request<SandboxRef>) -> Answer<DetachReply> {
        self.hear("detach", request.into_inner().sandbox_id)?;
        Ok(Response::new(DetachReply::default()))
    }

    async fn retain(&self, _: Request<RetainRequest>) -> Answer<RetainReply> {
        Ok(Response::new(RetainReply::default()))
    }

    async fn public_key(&self, _: Request<PublicKeyRequest>) -> Answer<PublicKeyReply> {
        Err(not_the_nodes())
    }

    async fn set_policy(&self, _: Request<SetPolicyRequest>) -> Answer<SetReply> {
        Err(not_the_nodes())
    }

    async fn change_secrets(&self, _: Request<ChangeSecretsRequest>) -> Answer<SetReply> {
        Err(not_the_nodes())
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Answer<ExplainReply> {
        Err(not_the_nodes())
    }

    async fn tail(&self, _: Request<TailRequest>) -> Answer<Self::TailStream> {
        Err(not_the_nodes())
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Answer<StatsReply> {
        Err(not_the_nodes())
    }

    async fn ca_certificate(&self, _: Request<SandboxRef>) -> Answer<CaCertificateReply> {
        Err(not_the_nodes())
    }
}

fn not_the_nodes() -> Status {
    Status::unimplemented("the node does not ask for this")
}

/// Those who live, for as long as a test does.
#[derive(Default)]
struct Living(Vec<SandboxId>);

impl Residents for Living {
    fn ids(&self) -> Vec<SandboxId> {
        self.0.clone()
    }

    fn networks(&self) -> Vec<(SandboxId, Arc<dyn Network>)> {
        let living = self.0.iter().cloned();
        living
            .map(|id| (id, Arc::new(FourSockets) as Arc<dyn Network>))
            .collect()
    }
}

struct FourSockets;

impl Network for FourSockets {
    fn sockets(&self) -> Result<Arc<SlotSockets>, ListenError> {
        let make = |family, kind| socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        Ok(Arc::new(SlotSockets {
            tcp4: make(AddressFamily::INET, SocketType::STREAM),
            tcp6: make(AddressFamily::INET6, SocketType::STREAM),
            udp4: make(AddressFamily::INET, SocketType::DGRAM),
            udp6: make(AddressFamily::INET6, SocketType::DGRAM),
        }))
    }
}

/// Where a proxy is to be, whether there is one or not.
struct Rig {
    link: EgressLink,
    sockets: EgressSockets,
    _directory: TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sockets = EgressSockets {
            control: directory.path().join("control"),
            descriptors: directory.path().join("descriptors"),
        };
        Self {
            link: EgressLink::new(sockets.clone()).unwrap(),
            sockets,
            _directory: directory,
        }
    }

    /// A proxy, for as long as this is polled.
    async fn serve(&self, proxy: Proxy) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        bind(
            &socket,
            &SocketAddrUnix::new(&self.sockets.descriptors).unwrap(),
        )
        .unwrap();
        listen(&socket, 1).unwrap();
        let control = UnixListener::bind(&self.sockets.control).unwrap();
        Server::builder()
            .add_service(EgressServer::new(proxy))
            .serve_with_incoming(UnixListenerStream::new(control))
            .await
            .unwrap();
    }

    /// Runs the link beside a proxy until the proxy has heard all this.
    async fn until_heard(&self, living: &Living, proxy: Proxy, expected: &[(&str, &SandboxId)]) {
        let mut heard = proxy.heard.subscribe();
        let expected: Vec<_> = expected
            .iter()
            .map(|(call, sandbox)| (*call, sandbox.to_string()))
            .collect();
        let is_all = |heard: &Vec<(&str, String)>| *heard == expected;
        tokio::select! {
            () = self.link.keep_linked(living) => unreachable!(),
            () = self.serve(proxy) => unreachable!(),
            all = timeout(TEST_TIMEOUT, heard.wait_for(is_all)) => assert!(all.is_ok()),
        }
    }
}

fn refusing(codes: &[Code]) -> Proxy {
    Proxy {
        refusals: Mutex::new(codes.iter().copied().collect()),
        ..Proxy::default()
    }
}

fn sandbox() -> SandboxId {
    SandboxId::random(Region::DEFAULT).unwrap()
}

#[tokio::test]
async fn an_end_that_no_proxy_heard_of_is_told_to_the_next() {
    let (rig, ended) = (Rig::new(), sandbox());
    rig.link.detach(&ended).await;
    let sockets = FourSockets.sockets().unwrap();
    let network = SandboxNetwork::default();
    let again = rig.link.attach(&ended, &sockets, network).await;
    assert!(matches!(again, Err(AttachError::Away)));
    rig.until_heard(&Living::default(), refusing(&[]), &[("detach", &ended)])
        .await;
}

#[tokio::test]
async fn an_end_is_told_until_it_is_heard() {
    let (rig, ended) = (Rig::new(), sandbox());
    rig.link.detach(&ended).await;
    let proxy = refusing(&[Code::Internal, Code::Unavailable]);
    let thrice = [("detach", &ended), ("detach", &ended), ("detach", &ended)];
    rig.until_heard(&Living::default(), proxy, &thrice).await;
}

#[tokio::test]
async fn who_lives_is_told_until_the_proxy_takes_it() {
    let (rig, one, other) = (Rig::new(), sandbox(), sandbox());
    let living = Living(vec![one.clone(), other.clone()]);
    // Both are refused at first, one of them for good.
    let proxy = refusing(&[Code::NotFound, Code::Internal, Code::FailedPrecondition]);
    let expected = [
        ("attach", &one),
        ("attach", &other),
        ("attach", &other),
        ("attach", &other),
    ];
    rig.until_heard(&living, proxy, &expected).await;
}
