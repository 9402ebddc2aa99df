//! Which destinations a value may go to.

use std::{fmt, net::IpAddr, str::FromStr};

/// The port of a host that is written without one.
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;
/// RFC 1035, 2.3.4.
const HOST_LEN_MAX: usize = 253;

/// A host that a value may go to: `api.example.com`, `api.example.com:8443`,
/// `*.example.com`.
///
/// Without a port it means the scheme's own port alone, unlike in a list of
/// allowed hosts, where it means any: whoever can listen on another port of a
/// host is not always who owns the host. `*.example.com` does not mean
/// `example.com` itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretHost {
    /// Lower case, without a dot at the end and without `*.`.
    name: String,
    matches: Matches,
    port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Matches {
    Exactly,
    Below,
}

/// Why a text is no host for a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretHostError {
    /// An address. Who has it can change, and no certificate is checked for it.
    #[error("a secret goes only to hosts with names, not to addresses")]
    Address,
    /// No name, or not one of DNS.
    #[error("not a host name; write it as DNS does, in the ASCII (xn--) form")]
    Name,
    /// A `*` elsewhere than as the whole first label, or with too little behind it.
    #[error("`*` stands only for whole labels at the start, as in *.example.com")]
    Wildcard,
    /// Not a port.
    #[error("not a port: 1 to 65535")]
    Port,
}

/// Where a request goes, after the policy has found its one name.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The name that SNI, authority and resolution agree on: lower case, ASCII,
    /// without a dot at the end.
    pub host: &'a str,
    /// The port at the host.
    pub port: u16,
    /// What the guest speaks.
    pub scheme: Scheme,
    /// What is known of the connection.
    pub flow: Flow,
}

/// What is spoken on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TLS that ends here, and verified TLS to the host.
    Https,
    /// No TLS.
    Http,
}

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It ends here and a new one goes to the host.
    Terminated,
    /// Its bytes are passed on unread. A value can never be in it.
    Passthrough,
}

/// Why a placeholder was left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IneligibleReason {
    /// The host or the port is not one of the secret's.
    Host,
    /// The destination is an address and not a name.
    Address,
    /// The request is not protected by TLS.
    Plaintext,
    /// The flow is passed on unread.
    Passthrough,
    /// The slot is not enabled for the secret.
    Slot,
    /// The header is one that servers echo or log, or that frames the message.
    Header,
    /// The caller's: the secret is revoked.
    Revoked,
    /// The caller's: the secret is expired.
    Expired,
    /// The caller's: the secret's budget is used up.
    Budget,
}

impl IneligibleReason {
    /// Its name in audit records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Address => "address",
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
            Self::Slot => "slot",
            Self::Header => "excluded_header",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Budget => "budget",
        }
    }
}

impl fmt::Display for IneligibleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SecretHost {
    /// Reads a host as it is written in configuration.
    pub fn parse(text: &str) -> Result<Self, ParseSecretHostError> {
        if text.starts_with('[') || text.parse::<IpAddr>().is_ok() {
            return Err(ParseSecretHostError::Address);
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        let (name, matches) = match host.strip_prefix("*.") {
            Some(name) => (name, Matches::Below),
            None => (host, Matches::Exactly),
        };
        if name.contains('*') || (matches == Matches::Below && !name.contains('.')) {
            return Err(ParseSecretHostError::Wildcard);
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if is_address(&name) {
            return Err(ParseSecretHostError::Address);
        }
        if !is_host_name(&name) {
            return Err(ParseSecretHostError::Name);
        }
        Ok(Self {
            name,
            matches,
            port,
        })
    }

    /// Whether a value may go there, all else being well.
    #[must_use]
    pub fn matches(&self, destination: &Destination<'_>) -> bool {
        let own_port = match destination.scheme {
            Scheme::Https => HTTPS_PORT,
            Scheme::Http => HTTP_PORT,
        };
        if self.port.unwrap_or(own_port) != destination.port {
            return false;
        }
        match self.matches {
            Matches::Exactly => destination.host == self.name,
            Matches::Below => destination
                .host
                .strip_suffix(self.name.as_str())
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }
}

impl Destination<'_> {
    pub(crate) fn is_address(&self) -> bool {
        self.host.starts_with('[') || is_address(self.host)
    }
}

fn parse_port(text: &str) -> Result<u16, ParseSecretHostError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or(ParseSecretHostError::Port)
}

/// Whether resolvers would take a name for an address: the forms of `inet_aton`
/// included, whose last label is a number.
fn is_address(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.strip_prefix("0x").map_or_else(
        || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
        |digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
    );
    number || name.parse::<IpAddr>().is_ok()
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let characters = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&label.len())
            && characters
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= HOST_LEN_MAX && name.split('.').all(is_label)
}

impl FromStr for SecretHost {
    type Err = ParseSecretHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for SecretHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = match self.matches {
            Matches::Exactly => "",
            Matches::Below => "*.",
        };
        write!(f, "{star}{}", self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests;
