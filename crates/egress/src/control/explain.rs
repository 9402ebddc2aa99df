//! What the policy says to a URL, without sending anything.

use http::{Uri, uri::InvalidUri};
use serde_json::{Value, json};
use tombolo_policy::{HostName, HostNameError, Interception, RequestHead, Target, Transport};

use crate::sandbox::Sandbox;

/// A URL that cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    #[error("not a URL")]
    Url(#[from] InvalidUri),
    #[error("write the URL whole: https://host/path")]
    Relative,
    #[error("the URL has no host name; addresses are not explained yet")]
    Host(#[from] HostNameError),
}

/// Explains connection, interception, secrets and rules.
pub(super) fn explain(sandbox: &Sandbox, method: &str, url: &str) -> Result<Value, ExplainError> {
    let uri: Uri = url.parse()?;
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(ExplainError::Relative);
    };
    let name = HostName::parse(host)?;
    let is_tls = scheme == "https";
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let rules = sandbox.rules();
    let policy = &rules.policy;
    let target = Target::Name(&name);
    let head = RequestHead {
        target,
        port,
        method,
        path: uri.path(),
        query: uri.query(),
        headers: &[],
        has_body: false,
        content_length: Some(0),
    };
    let secrets: Vec<&str> = policy
        .secrets_for(&name, port)
        .map(|binding| binding.name.as_str())
        .collect();
    let is_terminated = matches!(
        policy.intercept().decide(&name, port),
        Interception::Terminate(_)
    );
    let now = sandbox.shared.clock.now();
    let requests = policy.requests();
    let request = sandbox.with_limits(|limits| requests.explain(&head, None, limits, now));
    Ok(json!({
        "name": name.as_str(),
        "port": port,
        "policy_gen": policy.generation(),
        "dns": policy.network().decide_name(&name),
        "connect": policy.network().decide_connect(target, port, Transport::Tcp),
        "terminated": is_tls && is_terminated,
        "secrets": if is_tls { secrets } else { Vec::new() },
        "request": request,
    }))
}
