//! Entries of an allow list: which hosts and ports a line of it means.
//!
//! The forms are those of the SDKs' `allowNet` and one more, ranges:
//!
//! | entry | means |
//! |---|---|
//! | `example.com` | this name, any port |
//! | `example.com:443` | this name, this port |
//! | `*.example.com`, `*.example.com:443` | every name below it, not the name itself |
//! | `192.0.2.7`, `192.0.2.7:5432` | this address |
//! | `[2001:db8::7]`, `[2001:db8::7]:5432` | this address |
//! | `10.1.0.0/16`, `10.1.0.0/16:5432` | these addresses |
//! | `[fd12::/16]`, `[fd12::/16]:5432` | these addresses |

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    address::{AddressClass, classify},
    host::{HostName, HostNameError},
    network::Target,
};

/// Characters of an entry: a name, a port and what marks them.
pub const ENTRY_LEN_MAX: usize = 1024;
/// The port that a secret's host means when it names none: the one of HTTPS.
pub(crate) const SECRET_PORT: u16 = 443;

/// A name, the names below one, or a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This name.
    Exact(HostName),
    /// Every name below this one, at any depth; not this one.
    Below(HostName),
    /// These addresses; one address is a range of length 1.
    Range(IpNet),
}

/// One entry of an allow list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowEntry {
    host: HostPattern,
    port: Option<u16>,
}

/// Why a text is not an entry, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllowEntryError {
    #[error("an entry must not be empty; leave it out, or write a host such as `example.com`")]
    Empty,
    #[error("an entry has at most {ENTRY_LEN_MAX} characters")]
    TooLong,
    #[error(
        "an entry is a host, not a URL; write the host and, if it matters, the port: `example.com:443`"
    )]
    Url,
    #[error("an entry is a host without a path; rules on paths belong in `net.rules`")]
    Path,
    #[error("`*` alone is not an entry; leave `allowNet` out to allow every host")]
    Everything,
    #[error("`*` may only be the whole first label, as in `*.example.com`")]
    WildcardPlace,
    #[error(
        "`{port}` is not a port; write a number from 1 to 65535, or leave `:port` out for any port"
    )]
    Port { port: String },
    #[error("an IPv6 address stands in brackets: write `[{0}]`")]
    Bracketless(IpNetText),
    #[error(
        "there is text between `]` and the port; write `[address]`, `[address/length]` or either with `:port`"
    )]
    AfterBracket,
    #[error("`[` has no `]`; write `[address]:port`")]
    OpenBracket,
    #[error("what stands in brackets is not an IPv6 address or range")]
    Ipv6,
    #[error(
        "what stands before `/` is not an IPv4 range; write `10.1.0.0/16`, or `[fd12::/16]` for IPv6"
    )]
    Range,
    #[error("the range has bits beyond its length; write `{0}`")]
    HostBits(IpNetText),
    #[error("IPv4 addresses are not written as IPv6 ranges; write the IPv4 range")]
    MappedRange,
    #[error(
        "this looks like an IPv4 address in a form that programs read differently; write four decimal numbers"
    )]
    OddAddress,
    #[error("the host of an entry is not valid")]
    Host(#[source] HostNameError),
}

/// A range as it is shown in a message: one address without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNetText(IpNet);

impl HostPattern {
    /// Whether the pattern means this name. Ranges mean no name.
    pub fn matches_name(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(ancestor) => name.is_below(ancestor),
            Self::Range(_) => false,
        }
    }

    /// Whether the pattern means this address, or the IPv4 address inside. Names mean no address.
    pub fn matches_address(&self, address: IpAddr) -> bool {
        match self {
            Self::Range(range) => range.contains(&classify(address).compared),
            Self::Exact(_) | Self::Below(_) => false,
        }
    }

    /// Whether the pattern means this name or address.
    pub fn matches(&self, target: Target<'_>) -> bool {
        match target {
            Target::Name(name) => self.matches_name(name),
            Target::Address(address) => self.matches_address(address),
        }
    }

    /// Whether some name or address is meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => {
                pattern.matches_name(name)
            }
            (Self::Below(one), Self::Below(two)) => {
                one == two || one.is_below(two) || two.is_below(one)
            }
            (Self::Range(one), Self::Range(two)) => one.contains(two) || two.contains(one),
            (Self::Below(_), Self::Range(_)) | (Self::Range(_), Self::Below(_)) => false,
        }
    }

    /// Whether everything that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches_name(name),
            (Self::Below(one), Self::Below(two)) => one == two || two.is_below(one),
            (Self::Range(one), Self::Range(two)) => one.contains(two),
            (Self::Exact(_) | Self::Below(_), Self::Range(_))
            | (Self::Exact(_) | Self::Range(_), Self::Below(_)) => false,
        }
    }
}

impl AllowEntry {
    /// Reads one entry; the forms are in the module's table.
    ///
    /// # Errors
    /// Says what to write instead.
    pub fn parse(text: &str) -> Result<Self, AllowEntryError> {
        if text.is_empty() {
            return Err(AllowEntryError::Empty);
        }
        if text.len() > ENTRY_LEN_MAX {
            return Err(AllowEntryError::TooLong);
        }
        if text.contains("://") {
            return Err(AllowEntryError::Url);
        }
        if let Some(rest) = text.strip_prefix('[') {
            return parse_bracketed(rest);
        }
        if let Some(range) = bare_ipv6(text) {
            return Err(AllowEntryError::Bracketless(IpNetText(range)));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        let host = parse_host(host)?;
        Ok(Self { host, port })
    }

    /// An entry made of its parts, for what is not written as text.
    pub fn new(host: HostPattern, port: Option<u16>) -> Self {
        Self { host, port }
    }

    pub fn host(&self) -> &HostPattern {
        &self.host
    }

    /// The only port, or none for any.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether the entry speaks of this port.
    pub fn matches_port(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }

    /// The same as a secret's host, which means one port even if it names none.
    #[must_use]
    pub fn of_secret(&self) -> Self {
        Self::new(self.host.clone(), self.port.or(Some(SECRET_PORT)))
    }

    /// Whether some host and port is meant by the entry and by one of the others.
    pub fn meets(&self, others: &[Self]) -> bool {
        let ports = |other: &Self| match (self.port, other.port) {
            (Some(one), Some(two)) => one == two,
            (None, _) | (_, None) => true,
        };
        others
            .iter()
            .any(|other| ports(other) && self.host.overlaps(&other.host))
    }
}

fn parse_bracketed(rest: &str) -> Result<AllowEntry, AllowEntryError> {
    let (inside, after) = rest.split_once(']').ok_or(AllowEntryError::OpenBracket)?;
    let port = match after.strip_prefix(':') {
        Some(port) => Some(parse_port(port)?),
        None if after.is_empty() => None,
        None => return Err(AllowEntryError::AfterBracket),
    };
    let range = if inside.contains('/') {
        Ipv6Net::from_str(inside)
            .ok()
            .ok_or(AllowEntryError::Ipv6)?
    } else {
        let address = Ipv6Addr::from_str(inside)
            .ok()
            .ok_or(AllowEntryError::Ipv6)?;
        Ipv6Net::from(address)
    };
    let host = HostPattern::Range(unmapped(range)?);
    Ok(AllowEntry { host, port })
}

/// `::ffff:10.0.0.1` is compared as the IPv4 address it is, so that is what is kept.
fn unmapped(range: Ipv6Net) -> Result<IpNet, AllowEntryError> {
    let address = IpAddr::V6(range.addr());
    let compared = classify(address).compared;
    if compared == address {
        return checked(IpNet::V6(range));
    }
    match range.prefix_len() {
        128 => Ok(IpNet::from(compared)),
        _ => Err(AllowEntryError::MappedRange),
    }
}

fn checked(range: IpNet) -> Result<IpNet, AllowEntryError> {
    if range.trunc() == range {
        Ok(range)
    } else {
        Err(AllowEntryError::HostBits(IpNetText(range.trunc())))
    }
}

fn bare_ipv6(text: &str) -> Option<IpNet> {
    let address = Ipv6Addr::from_str(text).ok().map(Ipv6Net::from);
    let range = address.or_else(|| Ipv6Net::from_str(text).ok());
    range.map(IpNet::V6)
}

fn parse_port(text: &str) -> Result<u16, AllowEntryError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(AllowEntryError::Port {
            port: text.chars().take(16).collect(),
        }),
    }
}

fn parse_host(text: &str) -> Result<HostPattern, AllowEntryError> {
    if text == "*" {
        return Err(AllowEntryError::Everything);
    }
    if let Some(ancestor) = text.strip_prefix("*.") {
        return parse_name(ancestor).map(HostPattern::Below);
    }
    if let Some((address, _)) = text.split_once('/') {
        if Ipv4Addr::from_str(address).is_err() {
            let is_number = address
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.');
            return Err(if is_number {
                AllowEntryError::Range
            } else {
                AllowEntryError::Path
            });
        }
        let range = Ipv4Net::from_str(text).ok().ok_or(AllowEntryError::Range)?;
        return checked(IpNet::V4(range)).map(HostPattern::Range);
    }
    if let Ok(address) = Ipv4Addr::from_str(text) {
        return Ok(HostPattern::Range(IpNet::from(IpAddr::V4(address))));
    }
    parse_name(text).map(HostPattern::Exact)
}

fn parse_name(text: &str) -> Result<HostName, AllowEntryError> {
    HostName::parse(text).map_err(|error| match error {
        HostNameError::Wildcard => AllowEntryError::WildcardPlace,
        HostNameError::LooksLikeAddress => AllowEntryError::OddAddress,
        error => AllowEntryError::Host(error),
    })
}

/// The class that an entry opens beyond public addresses, if it names a range that lies
/// in such a class as a whole.
pub(crate) fn opened_class(pattern: &HostPattern) -> Option<AddressClass> {
    match pattern {
        HostPattern::Range(range) => crate::address::openable_class(range),
        HostPattern::Exact(_) | HostPattern::Below(_) => None,
    }
}

impl fmt::Display for IpNetText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(range) = self;
        if range.prefix_len() == range.max_prefix_len() {
            range.addr().fmt(formatter)
        } else {
            range.fmt(formatter)
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(formatter),
            Self::Below(ancestor) => write!(formatter, "*.{ancestor}"),
            Self::Range(range @ IpNet::V4(_)) => IpNetText(*range).fmt(formatter),
            Self::Range(range @ IpNet::V6(_)) => write!(formatter, "[{}]", IpNetText(*range)),
        }
    }
}

impl fmt::Display for AllowEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(formatter)?;
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

impl FromStr for AllowEntry {
    type Err = AllowEntryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for AllowEntry {
    type Error = AllowEntryError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<AllowEntry> for String {
    fn from(entry: AllowEntry) -> Self {
        entry.to_string()
    }
}

#[cfg(test)]
mod tests;
