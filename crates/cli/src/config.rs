//! What a person may set, and where: a flag goes before an environment
//! variable, that before the configuration file, that before the default.
//! Every value is checked against its bounds whatever it came from, and an
//! error names the place.

mod file;
pub(crate) mod keys;
pub(crate) mod reference;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use keys::{KEYS, Key};
pub(crate) use value::{Given, Isolation, RunAs, Value, ValueError};

/// The settings of a server and its node, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) isolation: Isolation,
    pub(crate) pool_size: usize,
    pub(crate) default_memory_mib: u32,
    pub(crate) memory_mib_min: u32,
    pub(crate) memory_mib_max: u32,
    pub(crate) vcpu_count: u32,
    pub(crate) disk_gib: u32,
    pub(crate) sandbox_limit: usize,
    pub(crate) memory_limit_mib: u64,
    pub(crate) lifetime_max: Duration,
    pub(crate) session_grace: Duration,
    pub(crate) run_as: RunAs,
    pub(crate) egress: EgressSettings,
    pub(crate) ingress: IngressSettings,
    pub(crate) ssh: SshSettings,
}

/// The settings of the SSH gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SshSettings {
    pub(crate) listen: SocketAddr,
    /// As clients are told.
    pub(crate) host: String,
}

/// The settings of the ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IngressSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) base: String,
    /// Both or neither: the operator's own.
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    /// The directory of who issues certificates.
    pub(crate) acme: Option<String>,
    pub(crate) acme_dns_listen: SocketAddr,
    pub(crate) acme_root_file: Option<PathBuf>,
}

/// The settings of the egress proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EgressSettings {
    pub(crate) run_as: RunAs,
    /// From `name` or `name:port` to `address` or `address:port`.
    pub(crate) hosts: BTreeMap<String, String>,
    pub(crate) private_networks: Vec<String>,
    pub(crate) root_files: Vec<PathBuf>,
    /// By `name` or `name:port`.
    pub(crate) client_certificates: BTreeMap<String, PathBuf>,
    pub(crate) audit_file_bytes_max: NonZeroU64,
    pub(crate) audit_files_kept: NonZeroU32,
}

/// Values given as flags, by the name of their key.
pub(crate) type Flags = BTreeMap<&'static str, String>;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag(String),
    Variable(&'static str),
    File(PathBuf),
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(formatter, "the flag {flag}"),
            Self::Variable(name) => write!(formatter, "the variable {name}"),
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Default => formatter.write_str("the default"),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the configuration file cannot be read")]
    Read(#[source] std::io::Error),
    #[error("{} is not valid TOML", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{} has the key \"{key}\", which does not exist", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("{key} = {given} (from {origin}) is not possible")]
    Value {
        key: &'static str,
        given: Given,
        origin: Origin,
        #[source]
        source: Box<ValueError>,
    },
    #[error("{one} and {other} are both the user {uid}", one = keys::RUN_AS.name, other = keys::EGRESS_RUN_AS.name)]
    SameUser { uid: u32 },
    #[error("one of {certificate} and {key} is set without the other", certificate = keys::INGRESS_CERTIFICATE_FILE.name, key = keys::INGRESS_KEY_FILE.name)]
    HalfIdentity,
    #[error("{certificate} and {acme} are both set", certificate = keys::INGRESS_CERTIFICATE_FILE.name, acme = keys::INGRESS_ACME.name)]
    TwoIdentities,
    #[error("nobody issues certificates for {base}; {acme} needs another {key}", acme = keys::INGRESS_ACME.name, key = keys::INGRESS_BASE.name)]
    LocalBase { base: String },
    #[error("{low} = {low_value} is more than {high} = {high_value}")]
    Order {
        low: &'static str,
        low_value: u64,
        high: &'static str,
        high_value: u64,
    },
}

/// Why it is not known what a server that runs was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFollowedError {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error("the settings cannot be written")]
    Encode(#[from] serde_json::Error),
}

impl ConfigError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Read(_) => "check the path given by --config or TOMBOLO_CONFIG".to_owned(),
            Self::Syntax { .. } => {
                "write one `key = value` a line; text in double quotes".to_owned()
            }
            Self::UnknownKey { key, .. } => match keys::nearest(key) {
                Some(near) => format!("did you mean \"{}\"?", near.name),
                None => format!("the keys are: {}", keys::names()),
            },
            Self::Value { key, .. } => match keys::find(key) {
                Some(key) => format!("{} takes {}", key.name, key.kind),
                None => "see docs/reference/configuration.md".to_owned(),
            },
            Self::HalfIdentity => "set both, or neither for Tombolo's own authority".to_owned(),
            Self::TwoIdentities => "leave one of them out".to_owned(),
            Self::LocalBase { .. } => {
                "choose a name of a domain of yours, or leave the authority out".to_owned()
            }
            Self::Order { low, high, .. } => format!("raise {high} or lower {low}"),
            Self::SameUser { .. } => {
                "choose two users: the egress proxy holds secrets that the server must not read"
                    .to_owned()
            }
        }
    }
}

/// What the machine has, as far as defaults depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) memory_mib: u64,
}

impl Settings {
    /// Puts together what was given.
    pub(crate) fn resolve(
        flags: &Flags,
        environment: &Environment,
        file: ConfigFile<'_>,
        machine: Machine,
    ) -> Result<Self, ConfigError> {
        let in_file = file::read(file)?;
        let value = |key: &'static Key| -> Result<Value, ConfigError> {
            let (given, origin) = given(key, flags, environment, &in_file, machine);
            key.kind.parse(&given).map_err(|source| ConfigError::Value {
                key: key.name,
                given,
                origin,
                source: Box::new(source),
            })
        };
        let settings = Self {
            listen: value(&keys::LISTEN)?.address(),
            isolation: value(&keys::ISOLATION)?.isolation(),
            pool_size: value(&keys::POOL_SIZE)?.size(),
            default_memory_mib: value(&keys::DEFAULT_MEMORY_MIB)?.small(),
            memory_mib_min: value(&keys::MEMORY_MIB_MIN)?.small(),
            memory_mib_max: value(&keys::MEMORY_MIB_MAX)?.small(),
            vcpu_count: value(&keys::VCPU_COUNT)?.small(),
            disk_gib: value(&keys::DISK_GIB)?.small(),
            sandbox_limit: value(&keys::SANDBOX_LIMIT)?.size(),
            memory_limit_mib: value(&keys::MEMORY_LIMIT_MIB)?.integer(),
            lifetime_max: value(&keys::LIFETIME_MAX)?.duration(),
            session_grace: value(&keys::SESSION_GRACE)?.duration(),
            run_as: value(&keys::RUN_AS)?.run_as(),
            egress: EgressSettings::resolve(value)?,
            ingress: IngressSettings {
                listen: value(&keys::INGRESS_LISTEN)?.address(),
                base: value(&keys::INGRESS_BASE)?.domain(),
                certificate_file: value(&keys::INGRESS_CERTIFICATE_FILE)?.file(),
                key_file: value(&keys::INGRESS_KEY_FILE)?.file(),
                acme: value(&keys::INGRESS_ACME)?.acme(),
                acme_dns_listen: value(&keys::INGRESS_ACME_DNS_LISTEN)?.address(),
                acme_root_file: value(&keys::INGRESS_ACME_ROOT_FILE)?.file(),
            },
            ssh: SshSettings {
                listen: value(&keys::SSH_LISTEN)?.address(),
                host: value(&keys::SSH_HOST)?.domain(),
            },
        };
        settings.check_order()?;
        settings.check_users()?;
        settings.ingress.check()?;
        Ok(settings)
    }

    /// Which keys of a configuration file a server that runs was not given as they
    /// are there: by another file, by a flag, or because it changed since.
    pub(crate) fn not_followed(
        &self,
        running: &Self,
        file: &Path,
    ) -> Result<Vec<String>, NotFollowedError> {
        let ours = flat(serde_json::to_value(self)?);
        let theirs = flat(serde_json::to_value(running)?);
        let named = file::read(ConfigFile::Named(file))?.values;
        let named = named.into_keys().filter(|key| {
            let field = field_of(key);
            ours.get(field) != theirs.get(field)
        });
        Ok(named.collect())
    }

    /// One user must not read what the other keeps.
    fn check_users(&self) -> Result<(), ConfigError> {
        let uid = self.run_as.uid;
        if uid == self.egress.run_as.uid {
            return Err(ConfigError::SameUser { uid });
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), ConfigError> {
        let at_most = |low: (&'static str, u64), high: (&'static str, u64)| {
            if low.1 <= high.1 {
                return Ok(());
            }
            Err(ConfigError::Order {
                low: low.0,
                low_value: low.1,
                high: high.0,
                high_value: high.1,
            })
        };
        let default = (
            keys::DEFAULT_MEMORY_MIB.name,
            u64::from(self.default_memory_mib),
        );
        let min = (keys::MEMORY_MIB_MIN.name, u64::from(self.memory_mib_min));
        let max = (keys::MEMORY_MIB_MAX.name, u64::from(self.memory_mib_max));
        at_most(min, default)?;
        at_most(default, max)
    }
}

impl IngressSettings {
    /// A certificate is of use with its key only, and there is one at a time.
    fn check(&self) -> Result<(), ConfigError> {
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return Err(ConfigError::HalfIdentity);
        }
        if self.acme.is_none() {
            return Ok(());
        }
        if self.certificate_file.is_some() {
            return Err(ConfigError::TwoIdentities);
        }
        // RFC 6761, 6.3: such names are this machine's, everywhere.
        if self.base == "localhost" || self.base.ends_with(".localhost") {
            let base = self.base.clone();
            return Err(ConfigError::LocalBase { base });
        }
        Ok(())
    }
}

impl EgressSettings {
    fn resolve(
        value: impl Fn(&'static Key) -> Result<Value, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let audit_file_mib = value(&keys::EGRESS_AUDIT_FILE_MIB)?.integer();
        let audit_files = value(&keys::EGRESS_AUDIT_FILES)?.small();
        Ok(Self {
            run_as: value(&keys::EGRESS_RUN_AS)?.run_as(),
            hosts: value(&keys::EGRESS_HOSTS)?.hosts(),
            private_networks: value(&keys::EGRESS_PRIVATE_NETWORKS)?.networks(),
            root_files: value(&keys::EGRESS_ROOT_FILES)?.files(),
            client_certificates: value(&keys::EGRESS_CLIENT_CERTIFICATES)?.host_files(),
            // The bounds of both keys begin at 1.
            audit_file_bytes_max: NonZeroU64::MIN.saturating_add((audit_file_mib << 20) - 1),
            audit_files_kept: NonZeroU32::MIN.saturating_add(audit_files - 1),
        })
    }
}

/// The field that a key is written to, where it has not the key's name.
fn field_of(key: &str) -> &str {
    match key {
        _ if key == keys::EGRESS_AUDIT_FILE_MIB.name => "egress.audit_file_bytes_max",
        _ if key == keys::EGRESS_AUDIT_FILES.name => "egress.audit_files_kept",
        same => same,
    }
}

/// The settings by name, those of the egress proxy and the gateways as the file has them.
fn flat(settings: serde_json::Value) -> BTreeMap<String, serde_json::Value> {
    let serde_json::Value::Object(settings) = settings else {
        return BTreeMap::new();
    };
    let mut flat = BTreeMap::new();
    for (name, value) in settings {
        match value {
            serde_json::Value::Object(parts)
                if matches!(name.as_str(), "egress" | "ingress" | "ssh") =>
            {
                flat.extend(
                    parts
                        .into_iter()
                        .map(|(part, value)| (format!("{name}.{part}"), value)),
                );
            }
            value => {
                flat.insert(name, value);
            }
        }
    }
    flat
}

/// The configuration file: one that was named must be there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ConfigFile<'a> {
    Named(&'a Path),
    Usual(&'a Path),
}

fn given(
    key: &'static Key,
    flags: &Flags,
    environment: &Environment,
    in_file: &file::FileValues,
    machine: Machine,
) -> (Given, Origin) {
    if let Some(value) = flags.get(key.name) {
        return (Given::Text(value.clone()), Origin::Flag(key.flag()));
    }
    if let Some(value) = environment.get(key.variable) {
        return (
            Given::Text(value.to_owned()),
            Origin::Variable(key.variable),
        );
    }
    if let Some(value) = in_file.values.get(key.name) {
        return (value.clone(), Origin::File(in_file.path.clone()));
    }
    (Given::Text(key.default.of(machine)), Origin::Default)
}

/// Variables that look like ours and are not; most likely misspelt.
pub(crate) fn unknown_variables(environment: &Environment) -> Vec<String> {
    environment
        .names(keys::PREFIX)
        .filter(|name| {
            let is_key = KEYS.iter().any(|key| key.variable == *name);
            let is_other = keys::OTHER_VARIABLES.iter().any(|(other, _)| other == name);
            !is_key && !is_other && !name.starts_with(keys::TEST_PREFIX)
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
