//! What the policy says to a URL, without sending anything.

use std::net::IpAddr;

use http::{Uri, uri::InvalidUri};
use serde_json::{Value, json};
use tombolo_node_proto::egress::ExplainRequest;
use tombolo_policy::{Body, HostName, HostNameError, Lookup, RequestHead, Transport};

use crate::{
    identity::{Peer, Place},
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
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Https,
    Http,
    /// A connection, whatever is spoken in it.
    Tcp,
}

/// Explains connection, interception, secrets and rules.
pub(crate) fn explain(sandbox: &Sandbox, asked: &ExplainRequest) -> Result<Value, ExplainError> {
    let uri: Uri = asked.url.parse()?;
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
    let request =
        (kind != Kind::Tcp).then(|| explain_request(sandbox, &rules, &place, asked, &uri));
    Ok(json!({
        "name": name.map(HostName::as_str),
        "address": match &place.peer {
            Peer::Name(_) => None,
            Peer::Address(address) => Some(address),
        },
        "port": port,
        "policy_gen": rules.policy.generation(),
        "dns": dns,
        "connect": network.decide_connect(place.peer.target(), port, Transport::Tcp),
        "terminated": kind == Kind::Https && rules.terminates(&place),
        "raw": rules.may_pass_raw(&place),
        "secrets": secrets,
        "request": request,
    }))
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
    asked: &ExplainRequest,
    uri: &Uri,
) -> Value {
    let headers: Vec<(&str, &[u8])> = asked
        .headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_bytes()))
        .collect();
    let body = asked.body.as_deref().unwrap_or_default();
    let head = RequestHead {
        target: place.peer.target(),
        port: place.port,
        method: &asked.method,
        path: uri.path(),
        query: uri.query(),
        headers: &headers,
        has_body: !body.is_empty(),
        content_length: Some(body.len() as u64),
    };
    let now = sandbox.shared.clock.now();
    let requests = rules.policy.requests();
    json!(sandbox.with_limits(|limits| requests.explain(
        &head,
        Some(Body::Complete(body)),
        limits,
        now
    )))
}
