//! One TCP connection of a guest: where it goes, what it speaks, and who carries it on.
//!
//! ```text
//! destination ──> decide ──> sniff ─┬─ TLS ──> name checked ─┬─ ended here ──> HTTP
//!                                   │                        └─ passed on unread
//!                                   ├─ HTTP/1.1
//!                                   └─ anything else: refused, or passed on where the
//!                                      policy names host and port and nothing more
//! ```

mod relay;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};
use tombolo_policy::{Decision, HostName, Target, Transport};

use crate::{
    audit::Draft,
    dns,
    http::{self, HttpFlow},
    identity::{Peer, Place, Scheme},
    rules::Rules,
    sandbox::{AddressLease, Destination, Sandbox},
    sniff::Protocol,
    stream::{Rewound, Sniffed},
};

/// How long a client may take to say what it speaks.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client is waited for where the server may be the one to speak first.
const SERVER_FIRST_AFTER: Duration = Duration::from_millis(300);
/// How long a refused connection is looked at, to answer HTTP in HTTP...
const DENIED_SNIFF_TIMEOUT: Duration = Duration::from_millis(200);
/// ... and how long on the ports where that is most likely, for guests that are slow.
const DENIED_WEB_SNIFF_TIMEOUT: Duration = Duration::from_millis(500);
const WEB_PORTS: [u16; 2] = [80, 443];
/// Where names are asked for.
const DNS_PORT: u16 = 53;

/// What a flow is known by in records.
#[derive(Clone, Debug)]
pub(crate) struct FlowFacts {
    pub(crate) id: u64,
    pub(crate) organisation: Arc<str>,
    pub(crate) sandbox: Arc<str>,
    pub(crate) source: SocketAddr,
    /// Where the guest connected to.
    pub(crate) original: SocketAddr,
    pub(crate) name: Option<HostName>,
}

/// A flow whose destination is known.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) facts: FlowFacts,
    pub(crate) place: Place,
    pub(crate) admission: Admission,
    _lease: Option<AddressLease>,
    _permit: OwnedSemaphorePermit,
}

/// What was decided when the guest connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes on for as long as the policy allows it.
    Allowed,
    /// It is refused, whatever the policy says later.
    Denied,
    /// The same, to the address that stands for every refused name: which of them is meant
    /// is known by what the guest says, and used for nothing but to say why.
    RefusedName,
}

/// Carries one connection to its end.
pub(crate) async fn serve(
    sandbox: Arc<Sandbox>,
    stream: TcpStream,
    source: SocketAddr,
    original: SocketAddr,
) {
    let stream = Rewound::new(stream);
    let Some(permit) = sandbox.admit() else {
        let facts = sandbox.flow_facts(source, original, None);
        return refuse(
            sandbox.begin_record(&facts, "tcp"),
            stream,
            "too_many_connections",
        )
        .await;
    };
    if original.port() == DNS_PORT {
        return dns::serve_stream(&sandbox, stream, source, original).await;
    }
    let (peer, lease, is_refusal) = match sandbox.destination(original.ip()) {
        Destination::Peer(peer, lease) => (peer, lease, false),
        Destination::Refusal(address) => (Peer::Address(address), None, true),
        Destination::Vacant => {
            let facts = sandbox.flow_facts(source, original, None);
            return refuse(
                sandbox.begin_record(&facts, "tcp"),
                stream,
                "vacant_address",
            )
            .await;
        }
    };
    let name = match &peer {
        Peer::Name(name) => Some(name.clone()),
        Peer::Address(_) => None,
    };
    let facts = sandbox.flow_facts(source, original, name);
    let port = original.port();
    let place = Place { peer, port };
    let decision = decide(&place, &sandbox.rules());
    let admission = match decision.is_allowed() {
        _ if is_refusal => Admission::RefusedName,
        true => Admission::Allowed,
        false => Admission::Denied,
    };
    let flow = Arc::new(Flow {
        place,
        admission,
        sandbox: Arc::clone(&sandbox),
        facts,
        _lease: lease,
        _permit: permit,
    });
    if admission != Admission::Allowed {
        tokio::select! {
            () = serve_denied(flow, stream, &decision) => {}
            () = sandbox.closed.cancelled() => {}
        }
        return;
    }
    tokio::select! {
        () = serve_allowed(Arc::clone(&flow), stream) => {}
        () = sandbox.until_revoked(&flow.place) => {}
        () = sandbox.closed.cancelled() => {}
    }
}

fn decide(place: &Place, rules: &Rules) -> Decision {
    let network = rules.policy.network();
    network.decide_connect(place.peer.target(), place.port, Transport::Tcp)
}

impl Flow {
    /// What the policy says now. Only a flow that was allowed can still be.
    pub(crate) fn decide(&self, rules: &Rules) -> Decision {
        match self.admission {
            Admission::Allowed => decide(&self.place, rules),
            Admission::Denied | Admission::RefusedName => {
                self.refuse(rules, self.place.peer.target())
            }
        }
    }

    /// Why nothing of this flow goes on to the target.
    pub(crate) fn refuse(&self, rules: &Rules, target: Target<'_>) -> Decision {
        rules
            .policy
            .network()
            .refuse_connect(target, self.place.port)
    }

    pub(crate) fn begin_record(&self, proto: &'static str) -> Draft {
        self.sandbox.begin_record(&self.facts, proto)
    }
}

async fn serve_allowed(flow: Arc<Flow>, mut stream: Rewound<TcpStream>) {
    let rules = flow.sandbox.rules();
    // It is there from the beginning, so that also what is broken off is recorded.
    let mut draft = flow.begin_record("tcp");
    draft.record.decided(&flow.decide(&rules));
    draft.record.failed("closed_early");
    let raw = rules.may_pass_raw(&flow.place);
    let patience = if raw {
        SERVER_FIRST_AFTER
    } else {
        SNIFF_TIMEOUT
    };
    let protocol = match timeout(patience, stream.sniff()).await {
        Ok(Ok(Sniffed::Protocol(protocol))) => protocol,
        Ok(Ok(Sniffed::Closed) | Err(_)) => return,
        Err(_elapsed) if raw => Protocol::Other,
        Err(_elapsed) => return refuse(draft, stream, "silent").await,
    };
    match protocol {
        Protocol::Tls => tls::serve(flow, stream, &rules, draft).await,
        Protocol::Http1 => {
            let flow = HttpFlow::new(flow, Scheme::Http, "http/1.1", draft);
            http::serve_http1(flow, stream).await;
        }
        Protocol::Other if raw => relay::relay(&flow, stream, &rules, draft).await,
        // HTTP/2 without TLS: no client needs it that could not use HTTP/1.1.
        Protocol::Http2 | Protocol::Other => refuse(draft, stream, "unknown_protocol").await,
    }
}

/// Says no: in HTTP to a client that speaks HTTP, also inside TLS, and with a reset to
/// others.
async fn serve_denied(flow: Arc<Flow>, mut stream: Rewound<TcpStream>, decision: &Decision) {
    let mut draft = flow.begin_record("tcp");
    if flow.admission == Admission::RefusedName {
        draft.record.refused("refused_name");
    } else {
        draft.record.decided(decision);
    }
    let patience = if WEB_PORTS.contains(&flow.place.port) {
        DENIED_WEB_SNIFF_TIMEOUT
    } else {
        DENIED_SNIFF_TIMEOUT
    };
    match timeout(patience, stream.sniff()).await {
        Ok(Ok(Sniffed::Protocol(Protocol::Http1))) => {
            let flow = HttpFlow::new(flow, Scheme::Http, "http/1.1", draft);
            http::serve_http1_once(flow, stream).await;
        }
        Ok(Ok(Sniffed::Protocol(Protocol::Tls))) => tls::serve_denied(flow, stream, draft).await,
        _ => {
            draft.keep().await;
            stream.reset();
        }
    }
}

/// Resets a connection and records why.
async fn refuse(mut draft: Draft, stream: Rewound<TcpStream>, code: &'static str) {
    draft.record.refused(code);
    draft.keep().await;
    stream.reset();
}
