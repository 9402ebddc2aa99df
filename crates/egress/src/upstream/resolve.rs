//! From names to addresses, by the resolver that the host itself is configured with.
//!
//! `hickory-resolver` and not `getaddrinfo`: the latter occupies a thread for each question,
//! as long as a name server that a guest chose by choosing a name likes to take.

use std::net::IpAddr;
#[cfg(test)]
use std::{collections::HashMap, sync::Arc};

use hickory_resolver::{TokioResolver, net::NetError};
use tombolo_policy::HostName;

/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// Answers what addresses a name has.
#[derive(Clone)]
pub(crate) enum Resolver {
    System(Box<TokioResolver>),
    #[cfg(test)]
    Table(Arc<parking_lot::Mutex<HashMap<String, Vec<IpAddr>>>>),
}

/// The host's configuration of name resolution cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use this host's configuration of name resolution")]
pub struct ResolverError(#[from] NetError);

/// A name has no address, or none could be learnt.
#[derive(Debug, thiserror::Error)]
#[error("the name does not resolve")]
pub(crate) struct ResolveError(#[source] Option<NetError>);

impl Resolver {
    /// With `/etc/resolv.conf` and `/etc/hosts`.
    pub(crate) fn system() -> Result<Self, ResolverError> {
        let resolver = TokioResolver::builder_tokio()?.build()?;
        Ok(Self::System(Box::new(resolver)))
    }

    /// The addresses of a name, at least one, not yet filtered.
    pub(crate) async fn resolve(&self, name: &HostName) -> Result<Vec<IpAddr>, ResolveError> {
        match self {
            Self::System(resolver) => {
                // With its dot at the end the name is whole: no search domain is tried.
                let found = resolver
                    .lookup_ip(format!("{name}."))
                    .await
                    .map_err(|error| ResolveError(Some(error)))?;
                let addresses: Vec<IpAddr> = found.iter().take(ADDRESSES_MAX).collect();
                if addresses.is_empty() {
                    return Err(ResolveError(None));
                }
                Ok(addresses)
            }
            #[cfg(test)]
            Self::Table(table) => {
                let table = table.lock();
                table.get(name.as_str()).cloned().ok_or(ResolveError(None))
            }
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Resolver")
    }
}
