//! The kinds of value a key can have, each with its bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tombolo_policy::{OperatorRules, OperatorRulesError};
use tombolo_server::{IngressBase, ParseBaseError};

/// What was written for a key, before it is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    /// In a flag or a variable, and the single values of a file. Commas divide
    /// the entries of a list.
    Text(String),
    /// The list or the table of a file, a table's entries as `key=value`.
    Entries(Vec<String>),
}

impl Given {
    fn text(&self) -> Result<&str, ValueError> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Entries(_) => Err(ValueError::List),
        }
    }

    fn entries(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => {
                let entries = text.split(',').map(str::trim);
                entries.filter(|entry| !entry.is_empty()).collect()
            }
            Self::Entries(entries) => entries.iter().map(String::as_str).collect(),
        }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Entries(entries) => formatter.write_str(&entries.join(",")),
        }
    }
}

/// The directories of Let's Encrypt.
const LETS_ENCRYPT_URL: &str = "https://acme-v02.api.letsencrypt.org/directory";
const LETS_ENCRYPT_STAGING_URL: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Integer {
        min: u64,
        max: u64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    Address,
    Isolation,
    RunAs,
    /// Names and the operator's addresses for them.
    Hosts,
    /// Ranges of private addresses.
    Networks,
    /// Absolute paths of files.
    Files,
    /// The absolute path of a file, or nothing.
    File,
    /// The name of a domain.
    Domain,
    /// Who issues certificates, or nobody.
    Acme,
    /// Names and absolute paths of files.
    HostFiles,
}

/// A value that is within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Integer(u64),
    Duration(Duration),
    Address(SocketAddr),
    Isolation(Isolation),
    RunAs(RunAs),
    Hosts(BTreeMap<String, String>),
    Networks(Vec<String>),
    Files(Vec<PathBuf>),
    File(Option<PathBuf>),
    Domain(String),
    /// Where its directory is.
    Acme(Option<String>),
    HostFiles(BTreeMap<String, PathBuf>),
}

/// How strongly sandboxes are kept apart from the machine. All are virtual
/// machines; never anything weaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Isolation {
    /// Hardware virtualisation where it works, otherwise emulation.
    Auto,
    Kvm,
    Emulated,
}

impl Isolation {
    /// As it is written, and as a node calls what it does.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Emulated => "emulated",
        }
    }
}

/// The user and the group that a child runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Display for RunAs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.uid, self.gid)
    }
}

/// Why a value is not possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("it is not a whole number")]
    NotInteger(#[source] std::num::ParseIntError),
    #[error("it must be from {min} to {max}")]
    IntegerBounds { min: u64, max: u64 },
    #[error("it is not a duration")]
    NotDuration(#[source] humantime::DurationError),
    #[error("it must be from {} to {}", humantime::format_duration(*min), humantime::format_duration(*max))]
    DurationBounds { min: Duration, max: Duration },
    #[error("it is not an address and a port")]
    NotAddress(#[source] std::net::AddrParseError),
    #[error("there is no such isolation")]
    NotIsolation,
    #[error("it is not a user id and a group id with a colon between them")]
    NotIds,
    #[error("it must not run as root")]
    Root,
    #[error("it takes one value")]
    List,
    #[error("\"{entry}\" is not a name and an address with = between them")]
    NotHost { entry: String },
    #[error("\"{entry}\" is not a name and a file with = between them")]
    NotHostFile { entry: String },
    #[error("\"{name}\" is there twice")]
    Twice { name: String },
    #[error(transparent)]
    Operator(Box<OperatorRulesError>),
    #[error("\"{}\" is not an absolute path", path.display())]
    NotAbsolute { path: PathBuf },
    #[error(transparent)]
    NotDomain(ParseBaseError),
    #[error("it is neither an address that begins with https:// nor one of the names")]
    NotAcme,
}

impl Kind {
    /// Reads a value and checks it.
    pub(crate) fn parse(&self, given: &Given) -> Result<Value, ValueError> {
        match *self {
            Self::Integer { min, max } => {
                let value = given.text()?.parse().map_err(ValueError::NotInteger)?;
                if !(min..=max).contains(&value) {
                    return Err(ValueError::IntegerBounds { min, max });
                }
                Ok(Value::Integer(value))
            }
            Self::Duration { min, max } => {
                let value =
                    humantime::parse_duration(given.text()?).map_err(ValueError::NotDuration)?;
                if !(min..=max).contains(&value) {
                    return Err(ValueError::DurationBounds { min, max });
                }
                Ok(Value::Duration(value))
            }
            Self::Address => given
                .text()?
                .parse()
                .map(Value::Address)
                .map_err(ValueError::NotAddress),
            Self::Isolation => Ok(Value::Isolation(match given.text()? {
                "auto" => Isolation::Auto,
                "kvm" => Isolation::Kvm,
                "emulated" => Isolation::Emulated,
                _ => return Err(ValueError::NotIsolation),
            })),
            Self::RunAs => parse_run_as(given.text()?).map(Value::RunAs),
            Self::Hosts => parse_hosts(&given.entries()).map(Value::Hosts),
            Self::Networks => {
                let networks = given.entries();
                OperatorRules::parse([], networks.iter().copied())
                    .map_err(|error| ValueError::Operator(Box::new(error)))?;
                let networks = networks.into_iter().map(str::to_owned);
                Ok(Value::Networks(networks.collect()))
            }
            Self::Files => parse_files(&given.entries()).map(Value::Files),
            Self::File => match given.text()? {
                "" => Ok(Value::File(None)),
                path => Ok(Value::File(parse_files(&[path])?.pop())),
            },
            Self::Domain => {
                let base: IngressBase = given.text()?.parse().map_err(ValueError::NotDomain)?;
                Ok(Value::Domain(base.to_string()))
            }
            Self::Acme => parse_acme(given.text()?).map(Value::Acme),
            Self::HostFiles => parse_host_files(&given.entries()).map(Value::HostFiles),
        }
    }

    /// Whether it takes any number of entries, each of which can be a flag.
    pub(crate) fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Hosts | Self::Networks | Self::Files | Self::HostFiles
        )
    }
}

/// The table as the proxy will read it, checked by the proxy's own rules.
fn parse_hosts(entries: &[&str]) -> Result<BTreeMap<String, String>, ValueError> {
    let hosts = pairs(entries, |entry| ValueError::NotHost { entry })?;
    let pairs = hosts.iter().map(|(name, to)| (name.as_str(), to.as_str()));
    OperatorRules::parse(pairs, []).map_err(|error| ValueError::Operator(Box::new(error)))?;
    Ok(hosts)
}

/// The same with files.
fn parse_host_files(entries: &[&str]) -> Result<BTreeMap<String, PathBuf>, ValueError> {
    let files = pairs(entries, |entry| ValueError::NotHostFile { entry })?;
    let names = files.keys().map(String::as_str);
    OperatorRules::closed()
        .with_client_certificates(names)
        .map_err(|error| ValueError::Operator(Box::new(error)))?;
    let files = files
        .into_iter()
        .map(|(name, path)| Ok((name, parse_file(&path)?)));
    files.collect()
}

/// Names, each once, and what is said of them.
fn pairs(
    entries: &[&str],
    refuse: impl Fn(String) -> ValueError,
) -> Result<BTreeMap<String, String>, ValueError> {
    let mut pairs = BTreeMap::new();
    for entry in entries {
        let pair = entry.split_once('=');
        let (name, value) = pair.ok_or_else(|| refuse((*entry).to_owned()))?;
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        if pairs.insert(name.clone(), value).is_some() {
            return Err(ValueError::Twice { name });
        }
    }
    Ok(pairs)
}

fn parse_files(entries: &[&str]) -> Result<Vec<PathBuf>, ValueError> {
    entries.iter().map(|path| parse_file(path)).collect()
}

fn parse_file(path: &str) -> Result<PathBuf, ValueError> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(ValueError::NotAbsolute { path })
    }
}

/// Names of authorities stand for where their directories are.
fn parse_acme(given: &str) -> Result<Option<String>, ValueError> {
    let url = match given {
        "" => return Ok(None),
        "letsencrypt" => LETS_ENCRYPT_URL,
        "letsencrypt-staging" => LETS_ENCRYPT_STAGING_URL,
        url => url,
    };
    let parsed: Result<http::Uri, _> = url.parse();
    let is_https = parsed.is_ok_and(|url| url.scheme_str() == Some("https"));
    let url = is_https.then(|| url.to_owned());
    url.map(Some).ok_or(ValueError::NotAcme)
}

fn parse_run_as(given: &str) -> Result<RunAs, ValueError> {
    let (uid, gid) = given.split_once(':').ok_or(ValueError::NotIds)?;
    let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
        return Err(ValueError::NotIds);
    };
    if uid == 0 || gid == 0 {
        return Err(ValueError::Root);
    }
    Ok(RunAs { uid, gid })
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max } => write!(formatter, "a whole number from {min} to {max}"),
            Self::Duration { min, max } => write!(
                formatter,
                "a duration such as \"10m\", from {} to {}",
                humantime::format_duration(*min),
                humantime::format_duration(*max)
            ),
            Self::Address => formatter.write_str(
                "an address and a port, such as \"127.0.0.1:8590\"; port 0 takes a free one",
            ),
            Self::Isolation => formatter.write_str("\"auto\", \"kvm\" or \"emulated\""),
            Self::RunAs => formatter.write_str("\"UID:GID\", neither of them 0"),
            Self::Hosts => formatter.write_str(
                "names and addresses: in the file a table such as \
                 { \"api.example.com:443\" = \"127.0.0.1:8443\" } with the names in quotes, elsewhere \
                 NAME[:PORT]=ADDRESS[:PORT] with commas between them",
            ),
            Self::Networks => formatter.write_str(
                "ranges of private addresses: in the file a list such as [\"10.1.0.0/16\"], elsewhere \
                 with commas between them",
            ),
            Self::Files => formatter.write_str(
                "absolute paths: in the file a list, elsewhere with commas between them",
            ),
            Self::File => formatter.write_str("an absolute path"),
            Self::Domain => formatter.write_str("the name of a domain, in lower case"),
            Self::Acme => formatter.write_str(
                "\"letsencrypt\", \"letsencrypt-staging\", or the address of an ACME directory, \
                 https://…",
            ),
            Self::HostFiles => formatter.write_str(
                "names and absolute paths: in the file a table such as \
                 { \"api.example.com\" = \"/etc/tombolo/client.pem\" } with the names in quotes, \
                 elsewhere NAME[:PORT]=FILE with commas between them",
            ),
        }
    }
}

/// The accessors answer what [`Kind::parse`] of the matching kind makes. A
/// mismatch would be a slip in the table of keys, which a test resolves whole.
impl Value {
    pub(super) fn integer(self) -> u64 {
        match self {
            Self::Integer(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn small(self) -> u32 {
        u32::try_from(self.integer()).unwrap_or(u32::MAX)
    }

    pub(super) fn size(self) -> usize {
        usize::try_from(self.integer()).unwrap_or(usize::MAX)
    }

    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Duration(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Address(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn isolation(self) -> Isolation {
        match self {
            Self::Isolation(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn hosts(self) -> BTreeMap<String, String> {
        match self {
            Self::Hosts(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn networks(self) -> Vec<String> {
        match self {
            Self::Networks(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn files(self) -> Vec<PathBuf> {
        match self {
            Self::Files(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn file(self) -> Option<PathBuf> {
        match self {
            Self::File(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn domain(self) -> String {
        match self {
            Self::Domain(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn acme(self) -> Option<String> {
        match self {
            Self::Acme(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn host_files(self) -> BTreeMap<String, PathBuf> {
        match self {
            Self::HostFiles(value) => value,
            other => mismatch(&other),
        }
    }

    pub(super) fn run_as(self) -> RunAs {
        match self {
            Self::RunAs(value) => value,
            other => mismatch(&other),
        }
    }
}

fn mismatch<T>(value: &Value) -> T {
    unreachable!("a key of another kind than its field: {value:?}")
}
