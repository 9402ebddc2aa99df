//! What the policy says to a URL, without sending anything.

use std::net::IpAddr;

use http::{Request, Uri, request::Parts, uri::InvalidUri};
use serde::Serialize;
use serde_json::{Value, json};
use tombolo_node_proto::egress::ExplainRequest;
use tombolo_policy::{
    Body, Decision, Explanation, HostName, HostNameError, Lookup, RequestHead, Transport, Verdict,
};

use crate::{
    http::{Stop, credentials},
    identity::{Peer, Place, Scheme},
    rules::Rules,
    sandbox::Sandbox,
};

/// A URL that cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("not a URL")]
    Url(#[from] InvalidUri),
    #[error("write the URL whole: https://host/path, http://host/path or tcp://host:port")]
    Relative,
    #[error("neither a host name nor an address")]
    Host(#[from] HostNameError),
    #[error("the address is one of those that stand for names, and stands for none now")]
    Vacant,
    #[error("tcp:// takes a port: tcp://host:port")]
    Port,
    #[error("the method or a header cannot be sent")]
    Head(#[from] http::Error),
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Https,
    Http,
    /// A connection, whatever is spoken in it.
    Tcp,
}

/// Which part of the answer refuses, by its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Dns,
    Connect,
    Raw,
    Request,
    Credentials,
}

/// What the secrets of the sandbox make of the head of a request.
#[derive(Debug, Serialize)]
struct Credentials {
    verdict: Verdict,
    /// Why it is refused.
    reason: Option<&'static str>,
    /// What the guest is told.
    message: Option<String>,
}

/// All that is said. A step after one that refuses is never shown as allowed.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    /// Of all steps together.
    verdict: Verdict,
    /// The step that refuses.
    refused_by: Option<Step>,
    name: Option<&'a str>,
    address: Option<IpAddr>,
    port: u16,
    policy_gen: u64,
    /// None for an address.
    dns: Option<Decision>,
    connect: Option<Decision>,
    terminated: bool,
    raw: bool,
    secrets: Vec<&'a str>,
    /// None for what is no HTTP, and after a step that refuses.
    request: Option<Explanation>,
    /// None where requests are not read, and after a step that refuses.
    credentials: Option<Credentials>,
}

/// Explains connection, interception, rules and secrets.
pub(crate) fn explain(sandbox: &Sandbox, asked: &ExplainRequest) -> Result<Value, ExplainError> {
    let uri: Uri = asked.url.parse()?;
    let (kind, host, port) = read(&uri)?;
    let peer = peer(sandbox, host)?;
    let place = Place { peer, port };
    let rules = sandbox.rules();
    let network = rules.policy.network();
    let (name, dns) = match &place.peer {
        Peer::Name(name) => (Some(name), Some(network.decide_name(name))),
        Peer::Address(_) => (None, None),
    };
    let secrets: Vec<&str> = name
        .filter(|_| kind == Kind::Https)
        .map(|name| rules.policy.secrets_for(name, port))
        .into_iter()
        .flatten()
        .map(|binding| binding.name.as_str())
        .filter(|name| !rules.is_revoked(name))
        .collect();
    let connect = network.decide_connect(place.peer.target(), port, Transport::Tcp);
    let terminated = kind == Kind::Https && rules.terminates(&place);
    let raw = rules.may_pass_raw(&place);
    let is_named = dns.as_ref().is_none_or(Decision::is_allowed);
    let mut refused_by = match () {
        () if !is_named => Some(Step::Dns),
        () if !connect.is_allowed() => Some(Step::Connect),
        () if kind == Kind::Tcp && !raw => Some(Step::Raw),
        () => None,
    };
    let parts = (kind != Kind::Tcp)
        .then(|| parts(asked, &uri))
        .transpose()?;
    let (mut request, mut credentials) = (None, None);
    if let Some(parts) = parts.filter(|_| refused_by.is_none()) {
        let explained = explain_request(sandbox, &rules, &place, &parts, asked);
        if !explained.outcome.proceeds() {
            refused_by = Some(Step::Request);
        } else if kind == Kind::Http || terminated {
            let path = explained.outcome.path.as_deref();
            let said = explain_credentials(&rules, &place, kind, (parts, path));
            refused_by = (said.verdict == Verdict::Deny).then_some(Step::Credentials);
            credentials = Some(said);
        }
        request = Some(explained);
    }
    Ok(json!(Answer {
        verdict: if refused_by.is_none() {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        refused_by,
        name: name.map(HostName::as_str),
        address: match &place.peer {
            Peer::Name(_) => None,
            Peer::Address(address) => Some(*address),
        },
        port,
        policy_gen: rules.policy.generation(),
        connect: Some(connect).filter(|connect| is_named || !connect.is_allowed()),
        dns,
        terminated,
        raw,
        secrets,
        request,
        credentials,
    }))
}

/// What is asked about, of which host, on which port.
fn read(uri: &Uri) -> Result<(Kind, &str, u16), ExplainError> {
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(ExplainError::Relative);
    };
    let (kind, default_port) = match scheme {
        "https" => (Kind::Https, Some(443)),
        "http" => (Kind::Http, Some(80)),
        "tcp" => (Kind::Tcp, None),
        _ => return Err(ExplainError::Relative),
    };
    let port = uri.port_u16().or(default_port).ok_or(ExplainError::Port)?;
    Ok((kind, host, port))
}

/// The head of the request, as the proxy would have it.
fn parts(asked: &ExplainRequest, uri: &Uri) -> Result<Parts, ExplainError> {
    let mut request = Request::builder()
        .method(asked.method.as_str())
        .uri(uri.clone());
    for header in &asked.headers {
        request = request.header(&header.name, &header.value);
    }
    Ok(request.body(())?.into_parts().0)
}

/// Who a host is to the guest: an address of ours is the name that it stands for.
fn peer(sandbox: &Sandbox, host: &str) -> Result<Peer, ExplainError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    let Ok(address) = bare.parse::<IpAddr>() else {
        return Ok(Peer::Name(HostName::parse(host)?));
    };
    sandbox.with_vips(|vips| match vips.lookup(address) {
        Lookup::Foreign => Ok(Peer::Address(address.to_canonical())),
        Lookup::Vacant | Lookup::Refusal => Err(ExplainError::Vacant),
        Lookup::Name(name) => Ok(Peer::Name(name.clone())),
    })
}

fn explain_request(
    sandbox: &Sandbox,
    rules: &Rules,
    place: &Place,
    parts: &Parts,
    asked: &ExplainRequest,
) -> Explanation {
    let headers: Vec<(&str, &[u8])> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let body = asked.body.as_deref().unwrap_or_default();
    let head = RequestHead {
        target: place.peer.target(),
        port: place.port,
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &headers,
        has_body: !body.is_empty(),
        content_length: Some(body.len() as u64),
    };
    let now = sandbox.shared.clock.now();
    let requests = rules.policy.requests();
    sandbox.with_limits(|limits| requests.explain(&head, Some(Body::Complete(body)), limits, now))
}

/// What the secrets make of a request that the rules let pass, at the path that they send.
fn explain_credentials(
    rules: &Rules,
    place: &Place,
    kind: Kind,
    (mut parts, path): (Parts, Option<&str>),
) -> Credentials {
    let scheme = if kind == Kind::Http {
        Scheme::Http
    } else {
        Scheme::Https
    };
    let uri = parts.uri.clone();
    let target = (path.unwrap_or(uri.path()), uri.query());
    let refused = credentials::substitution(rules, place, scheme).and_then(|mut substitution| {
        credentials::write_head(rules, &mut parts, target, &mut substitution).err()
    });
    Credentials {
        verdict: if refused.is_none() {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        reason: refused.as_ref().map(Stop::code),
        message: refused.map(|stop| stop.message().to_owned()),
    }
}
