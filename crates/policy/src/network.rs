//! Which names, addresses and ports a sandbox may reach.
//!
//! The proxy asks three times on the way of one connection: about the name when the
//! guest resolves it ([`NetworkPolicy::decide_name`]), about name or address and port
//! when it connects ([`NetworkPolicy::decide_connect`]), and about each address that
//! the proxy resolved the name to, before it dials ([`NetworkPolicy::decide_resolved`]).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    address::{AddressClass, Classified, classify},
    decision::{Decision, Reason, RuleRef},
    host::HostName,
    operator::{HostOverride, OperatorRules},
    pattern::{AllowEntry, HostPattern, opened_class},
};

/// What a guest wants to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A name: of a virtual address, of a CONNECT request.
    Name(&'a HostName),
    /// An address that stands for no name.
    Address(IpAddr),
}

impl<'a> From<&'a HostName> for Target<'a> {
    fn from(name: &'a HostName) -> Self {
        Self::Name(name)
    }
}

impl From<IpAddr> for Target<'_> {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

/// What carries the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// Any other protocol, by its number (IANA).
    Other(u8),
}

/// The network part of a sandbox's policy.
#[derive(Clone, Debug)]
pub struct NetworkPolicy {
    /// None: no allow list, everything public is reachable.
    entries: Option<Vec<AllowEntry>>,
    operator: OperatorRules,
}

/// Names of metadata services, which no policy opens (NET-08). Most live below names that
/// only the cloud's own resolver answers.
const METADATA_NAMES: [&str; 7] = [
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.azure.internal",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.tencentyun.com",
];

impl NetworkPolicy {
    /// A policy with these entries; none at all means unrestricted, an empty list nothing.
    pub fn new(entries: Option<Vec<AllowEntry>>, operator: OperatorRules) -> Self {
        Self { entries, operator }
    }

    /// Whether there is no allow list.
    pub fn is_unrestricted(&self) -> bool {
        self.entries.is_none()
    }

    /// The allow list in canonical form; none when there is none.
    pub fn entries(&self) -> Option<&[AllowEntry]> {
        self.entries.as_deref()
    }

    /// Whether a guest may learn an address for this name, whatever the port.
    pub fn decide_name(&self, name: &HostName) -> Decision {
        if let Some(refusal) = self.refuse_name(name) {
            return refusal;
        }
        self.decide_listed(
            |entry| entry.host().matches_name(name),
            |_| true,
            Reason::NotListed,
        )
    }

    /// Whether a refused name is given the address where its refusal is explained
    /// ([`crate::VipTable::refusal`]): what the allow list leaves out is. Names that are
    /// refused to everybody, names without a dot and the reverse tree do not exist, as
    /// programs look for these without anybody's asking.
    pub fn explains_name(&self, name: &HostName, decision: &Decision) -> bool {
        let mut labels = name.labels();
        let top = labels.next_back();
        !decision.is_allowed()
            && decision.rule == RuleRef::Default
            && labels.next_back().is_some()
            && top != Some("arpa")
    }

    /// Why nothing of a connection that was refused goes on: always a denial.
    pub fn refuse_connect(&self, target: Target<'_>, port: u16) -> Decision {
        let decision = self.decide_connect(target, port, Transport::Tcp);
        if decision.is_allowed() {
            return Decision::deny(RuleRef::Builtin, Reason::AskAgain);
        }
        decision
    }

    /// Whether a guest may connect to an address that stands for no name.
    pub fn decide_address(&self, address: IpAddr, port: u16) -> Decision {
        let classified = classify(address);
        if classified.class == AddressClass::Public {
            return self.decide_listed(
                |entry| entry.host().matches_address(address),
                |entry| entry.matches_port(port),
                Reason::NotListed,
            );
        }
        self.opening_entry(&classified, port)
            .unwrap_or_else(|| refuse_class(classified.class))
    }

    /// Whether a guest may connect. A connection to a name that is allowed goes where
    /// [`Self::host_override`] says, or to what [`Self::decide_resolved`] allows.
    pub fn decide_connect(&self, target: Target<'_>, port: u16, transport: Transport) -> Decision {
        match transport {
            Transport::Tcp => {}
            Transport::Udp | Transport::Other(_) => {
                return Decision::deny(RuleRef::Builtin, Reason::ProtocolNotAllowed);
            }
        }
        match target {
            Target::Address(address) => self.decide_address(address, port),
            Target::Name(name) => self.decide_name_and_port(name, port),
        }
    }

    fn decide_name_and_port(&self, name: &HostName, port: u16) -> Decision {
        if let Some(refusal) = self.refuse_name(name) {
            return refusal;
        }
        let decision = self.decide_listed(
            |entry| entry.host().matches_name(name),
            |entry| entry.matches_port(port),
            Reason::NotListed,
        );
        match self.host_override(name, port) {
            Some(found) if decision.is_allowed() => {
                Decision::allow(RuleRef::Override { key: found.key }, Reason::Override)
            }
            _ => decision,
        }
    }

    /// Whether the proxy may dial `address`, to which it resolved the allowed `name` (DNS-06,
    /// DNS-07). Not to be asked about the target of an override, which the operator chose.
    pub fn decide_resolved(&self, name: &HostName, address: IpAddr, port: u16) -> Decision {
        let classified = classify(address);
        match classified.class {
            AddressClass::Public => self.decide_name_and_port(name, port),
            AddressClass::Metadata => Decision::deny(RuleRef::Builtin, Reason::Metadata),
            // The guest could reach such an address without the name, so the name adds nothing.
            _ => self
                .opening_entry(&classified, port)
                .filter(Decision::is_allowed)
                .unwrap_or_else(|| Decision::deny(RuleRef::Builtin, Reason::ResolvedPrivate)),
        }
    }

    /// Where the operator sends this name. It permits nothing: ask [`Self::decide_connect`] first.
    pub fn host_override(&self, name: &HostName, port: u16) -> Option<HostOverride> {
        self.operator.host_override(name, port)
    }

    /// The name below which a wildcard allowed what `decision` allowed; new names below it
    /// are counted ([`crate::VipTable`]).
    pub fn wildcard(&self, decision: &Decision) -> Option<&HostName> {
        let RuleRef::AllowNet { index, .. } = &decision.rule else {
            return None;
        };
        match self.entries.as_ref()?.get(*index)?.host() {
            HostPattern::Below(ancestor) => Some(ancestor),
            HostPattern::Exact(_) | HostPattern::Range(_) => None,
        }
    }

    fn refuse_name(&self, name: &HostName) -> Option<Decision> {
        if METADATA_NAMES.contains(&name.as_str()) {
            return Some(Decision::deny(RuleRef::Builtin, Reason::Metadata));
        }
        // RFC 6761, section 6.3. The operator may still give such a name an address.
        let loopback = name.labels().next_back() == Some("localhost");
        (loopback && !self.operator.overrides_name(name))
            .then(|| Decision::deny(RuleRef::Builtin, Reason::Loopback))
    }

    /// Looks for an entry that means the host and the port; entries that name the host
    /// exactly go first, so that what they allow is not counted as a wildcard's.
    fn decide_listed(
        &self,
        is_host: impl Fn(&AllowEntry) -> bool,
        is_port: impl Fn(&AllowEntry) -> bool,
        otherwise: Reason,
    ) -> Decision {
        let Some(entries) = &self.entries else {
            return Decision::allow(RuleRef::Unrestricted, Reason::Unrestricted);
        };
        if entries.is_empty() {
            return Decision::deny(RuleRef::Default, Reason::NetworkOff);
        }
        let hosts = || {
            entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| is_host(entry))
        };
        let exact = |entry: &AllowEntry| matches!(entry.host(), HostPattern::Exact(_));
        let found = hosts()
            .filter(|(_, entry)| is_port(entry))
            .min_by_key(|(index, entry)| (!exact(entry), *index));
        match found {
            Some((index, entry)) => Decision::allow(listed(index, entry), Reason::Listed),
            None => match hosts().next() {
                Some((index, entry)) => Decision::deny(listed(index, entry), Reason::PortNotListed),
                None => Decision::deny(RuleRef::Default, otherwise),
            },
        }
    }

    /// What the entries say that open the range of an address that is closed by itself.
    fn opening_entry(&self, classified: &Classified, port: u16) -> Option<Decision> {
        if !classified.class.is_openable() {
            return None;
        }
        let address = classified.compared;
        if !self.operator.may_open(&IpNet::from(address)) {
            return None;
        }
        let opens = |entry: &AllowEntry| {
            opened_class(entry.host()).is_some() && entry.host().matches_address(address)
        };
        let decision = self.decide_listed(
            opens,
            |entry| entry.matches_port(port),
            Reason::PrivateAddress,
        );
        // Without an allow list there is no entry that could name the range.
        (decision.rule != RuleRef::Unrestricted).then_some(decision)
    }
}

fn listed(index: usize, entry: &AllowEntry) -> RuleRef {
    RuleRef::AllowNet {
        index,
        entry: entry.to_string(),
    }
}

fn refuse_class(class: AddressClass) -> Decision {
    let reason = match class {
        AddressClass::Metadata => Reason::Metadata,
        AddressClass::Private | AddressClass::CarrierNat => Reason::PrivateAddress,
        AddressClass::Loopback => Reason::Loopback,
        AddressClass::LinkLocal => Reason::LinkLocal,
        AddressClass::Multicast => Reason::Multicast,
        // Public addresses are decided by the entries and do not come here.
        AddressClass::Public
        | AddressClass::Documentation
        | AddressClass::Benchmarking
        | AddressClass::Transition
        | AddressClass::Reserved => Reason::ReservedAddress,
    };
    Decision::deny(RuleRef::Builtin, reason)
}

#[cfg(test)]
mod tests;
