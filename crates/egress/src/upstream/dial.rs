//! Dialling: resolve, filter every address by the policy, and connect to exactly what was
//! filtered (DNS-06, DNS-07). There is no other place that opens a connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::RootCertStore;
use tokio::{net::TcpStream, time::timeout};
use tombolo_policy::{Decision, Policy, Transport, classify};

use super::{
    identity::Identities,
    resolve::{ResolveError, Resolver},
    tls::{Alpn, TlsError, UpstreamTls},
};
use crate::identity::{Peer, Place};

/// How long name resolution may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many addresses are tried.
const ATTEMPTS_MAX: usize = 4;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens connections for one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    resolver: Resolver,
    tls: UpstreamTls,
}

/// An open connection and where it leads.
#[derive(Debug)]
pub(crate) struct Dialled<S> {
    pub(crate) stream: S,
    pub(crate) address: SocketAddr,
    /// Whether the operator chose the address.
    pub(crate) overridden: bool,
}

/// A connection did not come about. `code` is stable; guests are told it and nothing else.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the policy does not allow it")]
    Denied(Decision),
    #[error("cannot resolve the name")]
    Resolve(#[from] ResolveError),
    #[error("resolving the name took too long")]
    ResolveTimeout,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("cannot speak TLS")]
    Tls(#[from] TlsError),
    #[error("the TLS handshake took too long")]
    TlsTimeout,
}

impl DialError {
    /// What it is called in answers and records.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Denied(decision) => decision.reason.as_str(),
            Self::Resolve(_) | Self::ResolveTimeout => "upstream_dns",
            Self::Connect(_) => "upstream_connect",
            Self::ConnectTimeout => "upstream_timeout",
            Self::Tls(_) | Self::TlsTimeout => "upstream_tls",
        }
    }
}

impl Dialler {
    pub(crate) fn new(
        resolver: Resolver,
        roots: &Arc<RootCertStore>,
        identities: &Identities,
    ) -> Result<Self, rustls::Error> {
        let tls = UpstreamTls::new(roots, identities)?;
        Ok(Self { resolver, tls })
    }

    /// A TCP connection to a place that the policy allows.
    pub(crate) async fn tcp(
        &self,
        policy: &Policy,
        place: &Place,
    ) -> Result<Dialled<TcpStream>, DialError> {
        let (addresses, overridden) = self.addresses(policy, place).await?;
        let mut last = DialError::ConnectTimeout;
        for address in addresses.into_iter().take(ATTEMPTS_MAX) {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(DialError::Connect)?;
                    return Ok(Dialled {
                        stream,
                        address,
                        overridden,
                    });
                }
                Ok(Err(error)) => last = DialError::Connect(error),
                Err(_elapsed) => last = DialError::ConnectTimeout,
            }
        }
        Err(last)
    }

    /// The same with verified TLS in it.
    pub(crate) async fn tls(
        &self,
        policy: &Policy,
        place: &Place,
        alpn: Alpn,
    ) -> Result<Dialled<tokio_rustls::client::TlsStream<TcpStream>>, DialError> {
        let dialled = self.tcp(policy, place).await?;
        let handshake = self.tls.connect(dialled.stream, place, alpn);
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_elapsed| DialError::TlsTimeout)??;
        Ok(Dialled {
            stream,
            address: dialled.address,
            overridden: dialled.overridden,
        })
    }

    /// What may be dialled for a place, in order; at least one address.
    async fn addresses(
        &self,
        policy: &Policy,
        place: &Place,
    ) -> Result<(Vec<SocketAddr>, bool), DialError> {
        let network = policy.network();
        // Asked again here, so that no way leads past it.
        let decision = network.decide_connect(place.peer.target(), place.port, Transport::Tcp);
        if !decision.is_allowed() {
            return Err(DialError::Denied(decision));
        }
        let name = match &place.peer {
            Peer::Address(address) => {
                let address = SocketAddr::new(classify(*address).dial, place.port);
                return Ok((vec![address], false));
            }
            Peer::Name(name) => name,
        };
        if let Some(found) = network.host_override(name, place.port) {
            return Ok((vec![found.target], true));
        }
        let resolved = timeout(RESOLVE_TIMEOUT, self.resolver.resolve(name))
            .await
            .map_err(|_elapsed| DialError::ResolveTimeout)??;
        let mut addresses = Vec::new();
        let mut denied = None;
        for address in resolved {
            let decision = network.decide_resolved(name, address, place.port);
            if decision.is_allowed() {
                addresses.push(SocketAddr::new(classify(address).dial, place.port));
            } else {
                denied.get_or_insert(decision);
            }
        }
        match denied {
            Some(decision) if addresses.is_empty() => Err(DialError::Denied(decision)),
            _ => Ok((addresses, false)),
        }
    }
}
