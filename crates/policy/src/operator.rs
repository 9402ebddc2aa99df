//! What the operator of this host decides for all sandboxes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use thiserror::Error;

use crate::{
    address::{AddressClass, classify, openable_class, openable_ranges},
    host::HostName,
    pattern::{AllowEntry, AllowEntryError, HostPattern, SECRET_PORT},
};

/// Entries of the operator's tables.
pub const OPERATOR_ENTRIES_MAX: usize = 1024;

/// The operator's own addresses for names, and the private networks that policies may open.
///
/// A sandbox's owner may not be the host's owner. So a policy that lists a private address
/// is valid only inside the ranges given here, and there are none unless the operator says so.
#[derive(Clone, Debug)]
pub struct OperatorRules {
    hosts: BTreeMap<(HostName, Option<u16>), OverrideTarget>,
    private_networks: Vec<IpNet>,
    certified: Vec<AllowEntry>,
}

/// Where an overridden name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OverrideTarget {
    address: IpAddr,
    /// None keeps the port that was asked for.
    port: Option<u16>,
}

/// A name that the operator gave an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOverride {
    /// The key of the table that matched: `name` or `name:port`.
    pub key: String,
    /// What to dial. It is not filtered again.
    pub target: SocketAddr,
}

/// Why the operator's tables cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OperatorRulesError {
    #[error("there are more than {OPERATOR_ENTRIES_MAX} entries")]
    TooMany,
    #[error("`{key}` is not a host name with or without a port")]
    Key {
        key: String,
        #[source]
        source: Option<AllowEntryError>,
    },
    #[error("`{key}` is there twice")]
    Twice { key: String },
    #[error(
        "`{target}` is not an address; write `10.0.0.5`, `10.0.0.5:8443`, `fd12::5` or `[fd12::5]:8443`"
    )]
    Target { target: String },
    #[error(
        "`{key}` leads to a cloud's metadata service, which stays closed; choose another address"
    )]
    Metadata { key: String },
    #[error("`{network}` is not a range")]
    Network {
        network: String,
        #[source]
        source: Option<AllowEntryError>,
    },
    #[error(
        "`{network}` is not a private range, so there is nothing to open; write one inside 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 or [fc00::/7]"
    )]
    NotPrivate { network: String },
}

impl OperatorRules {
    /// No overrides, and every private network closed.
    pub fn closed() -> Self {
        Self {
            hosts: BTreeMap::new(),
            private_networks: Vec::new(),
            certified: Vec::new(),
        }
    }

    /// No overrides, and every private network open: for whoever checks a policy
    /// without knowing which of them the operator opens.
    pub fn all_private() -> Self {
        Self {
            private_networks: openable_ranges().map(|(range, _)| range).collect(),
            ..Self::closed()
        }
    }

    /// Reads the operator's tables: `hosts` from `name` or `name:port` to `address` or
    /// `address:port`, and private networks as ranges.
    ///
    /// # Errors
    /// The first entry that is not usable.
    pub fn parse<'a>(
        hosts: impl IntoIterator<Item = (&'a str, &'a str)>,
        private_networks: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, OperatorRulesError> {
        let mut rules = Self::closed();
        for (key, target) in hosts {
            rules.add_host(key, target)?;
        }
        for network in private_networks {
            rules.add_network(network)?;
        }
        Ok(rules)
    }

    /// Adds the hosts, `name` or `name:port`, that are shown a certificate of the operator.
    ///
    /// # Errors
    /// The first entry that is not a host.
    pub fn with_client_certificates<'a>(
        mut self,
        hosts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, OperatorRulesError> {
        for key in hosts {
            let (name, port) = parse_certified_host(key)?;
            if self.certified.len() >= OPERATOR_ENTRIES_MAX {
                return Err(OperatorRulesError::TooMany);
            }
            let entry = AllowEntry::new(HostPattern::Exact(name), Some(port));
            if self.certified.contains(&entry) {
                return Err(OperatorRulesError::Twice {
                    key: key.to_owned(),
                });
            }
            self.certified.push(entry);
        }
        Ok(self)
    }

    /// Where the operator shows a certificate.
    pub(crate) fn certified(&self) -> &[AllowEntry] {
        &self.certified
    }

    fn add_host(&mut self, key: &str, target: &str) -> Result<(), OperatorRulesError> {
        let (name, port) = parse_key(key)?;
        let target = parse_target(target)?;
        if classify(target.address).class == AddressClass::Metadata {
            return Err(OperatorRulesError::Metadata {
                key: key.to_owned(),
            });
        }
        if self.hosts.len() >= OPERATOR_ENTRIES_MAX {
            return Err(OperatorRulesError::TooMany);
        }
        self.hosts.insert((name, port), target);
        Ok(())
    }

    fn add_network(&mut self, network: &str) -> Result<(), OperatorRulesError> {
        let refuse = |source| OperatorRulesError::Network {
            network: network.to_owned(),
            source,
        };
        let entry = AllowEntry::parse(network).map_err(|error| refuse(Some(error)))?;
        let (HostPattern::Range(range), None) = (entry.host(), entry.port()) else {
            return Err(refuse(None));
        };
        if openable_class(range).is_none() {
            return Err(OperatorRulesError::NotPrivate {
                network: network.to_owned(),
            });
        }
        if self.private_networks.len() >= OPERATOR_ENTRIES_MAX {
            return Err(OperatorRulesError::TooMany);
        }
        self.private_networks.push(*range);
        Ok(())
    }

    /// Whether a policy may open these addresses, all of them.
    pub fn may_open(&self, range: &IpNet) -> bool {
        self.private_networks
            .iter()
            .any(|network| network.contains(range))
    }

    /// Where the operator sends this name; an entry with the port goes before one without.
    pub fn host_override(&self, name: &HostName, port: u16) -> Option<HostOverride> {
        let find = |key: Option<u16>| {
            let target = self.hosts.get(&(name.clone(), key))?;
            let entry = AllowEntry::new(HostPattern::Exact(name.clone()), key);
            Some(HostOverride {
                key: entry.to_string(),
                target: SocketAddr::new(target.address, target.port.unwrap_or(port)),
            })
        };
        find(Some(port)).or_else(|| find(None))
    }

    /// Whether the table names this host with any port.
    pub(crate) fn overrides_name(&self, name: &HostName) -> bool {
        let from = (name.clone(), None);
        let to = (name.clone(), Some(u16::MAX));
        self.hosts.range(from..=to).next().is_some()
    }
}

/// A host that is shown a client certificate, and the port: 443 unless it names another, as
/// for secrets, so that other protocols of the host go on unread.
pub fn parse_certified_host(key: &str) -> Result<(HostName, u16), OperatorRulesError> {
    let (name, port) = parse_key(key)?;
    Ok((name, port.unwrap_or(SECRET_PORT)))
}

/// A host, on one port or on any.
fn parse_key(key: &str) -> Result<(HostName, Option<u16>), OperatorRulesError> {
    let refuse = |source| OperatorRulesError::Key {
        key: key.to_owned(),
        source,
    };
    let entry = AllowEntry::parse(key).map_err(|error| refuse(Some(error)))?;
    match entry.host() {
        HostPattern::Exact(name) => Ok((name.clone(), entry.port())),
        _ => Err(refuse(None)),
    }
}

fn parse_target(text: &str) -> Result<OverrideTarget, OperatorRulesError> {
    if let Ok(address) = IpAddr::from_str(text) {
        return Ok(OverrideTarget {
            address,
            port: None,
        });
    }
    match SocketAddr::from_str(text) {
        Ok(target) if target.port() != 0 => Ok(OverrideTarget {
            address: target.ip(),
            port: Some(target.port()),
        }),
        _ => Err(OperatorRulesError::Target {
            target: text.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
