//! Where a flow goes: the one name, or the address, that everything in it must agree with.

use std::{fmt, net::IpAddr};

use tombolo_policy::{HostName, Target};

/// Who is at the other end, as the guest's own address for it says. It never comes from
/// anything that is said inside the flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// The name that a virtual address stands for.
    Name(HostName),
    /// An address of its own.
    Address(IpAddr),
}

/// What is spoken inside a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// One destination: peer and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) peer: Peer,
    pub(crate) port: u16,
}

impl Peer {
    pub(crate) fn target(&self) -> Target<'_> {
        match self {
            Self::Name(name) => Target::Name(name),
            Self::Address(address) => Target::Address(*address),
        }
    }

    /// Whether the host of an authority, or a TLS server name, means this peer. It is
    /// brought into the same canonical form first.
    pub(crate) fn is_named(&self, text: &str) -> bool {
        match self {
            Self::Name(name) => HostName::parse(text).is_ok_and(|other| other == *name),
            Self::Address(address) => {
                let text = text
                    .strip_prefix('[')
                    .and_then(|inner| inner.strip_suffix(']'))
                    .unwrap_or(text);
                text.parse::<IpAddr>()
                    .is_ok_and(|other| other.to_canonical() == address.to_canonical())
            }
        }
    }
}

impl Place {
    /// The authority as a client writes it (RFC 9110, section 7.2): without the port that
    /// the scheme has by itself.
    pub(crate) fn authority(&self, scheme: Scheme) -> String {
        let host = match &self.peer {
            Peer::Name(name) => name.to_string(),
            Peer::Address(IpAddr::V4(address)) => address.to_string(),
            Peer::Address(IpAddr::V6(address)) => format!("[{address}]"),
        };
        if self.port == scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl Scheme {
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(formatter),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}
