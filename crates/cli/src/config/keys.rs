//! Every key there is: its names, its bounds, its default, what it means. The
//! reference page and the help of the flags are made from this table.

use std::time::Duration;

use super::Machine;
use super::value::Kind;

/// One thing that can be set.
#[derive(Debug)]
pub(crate) struct Key {
    /// In the configuration file.
    pub(crate) name: &'static str,
    /// In the environment.
    pub(crate) variable: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Default,
    pub(crate) meaning: &'static str,
}

/// What holds when nothing is set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    Fixed(&'static str),
    /// No entry.
    Empty,
    /// So many times the memory of the machine, in MiB.
    TimesMemory(u64),
}

impl Default {
    pub(crate) fn of(self, machine: Machine) -> String {
        match self {
            Self::Fixed(value) => value.to_owned(),
            Self::Empty => String::new(),
            Self::TimesMemory(times) => machine
                .memory_mib
                .saturating_mul(times)
                .clamp(MEMORY_LIMIT_MIN_MIB, MEMORY_LIMIT_MAX_MIB)
                .to_string(),
        }
    }
}

impl std::fmt::Display for Default {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(value) => formatter.write_str(value),
            Self::Empty => formatter.write_str("none"),
            Self::TimesMemory(times) => write!(formatter, "{times} times the machine's memory"),
        }
    }
}

impl Key {
    /// On the command line, where each entry of a list is a flag of its own.
    pub(crate) fn flag(&self) -> String {
        let name = self.name.replace(['_', '.'], "-");
        let name = match name.strip_suffix('s') {
            Some(one) if self.kind.is_list() => one,
            _ => &name,
        };
        format!("--{name}")
    }
}

const MEMORY_LIMIT_MIN_MIB: u64 = 256;
const MEMORY_LIMIT_MAX_MIB: u64 = 1 << 30;
const MINUTE: Duration = Duration::from_mins(1);

pub(crate) const LISTEN: Key = Key {
    name: "listen",
    variable: "TOMBOLO_LISTEN",
    kind: Kind::Address,
    default: Default::Fixed("127.0.0.1:8590"),
    meaning: "Where the server listens. There is no TLS: use another address than a loopback \
              one only behind something that adds it.",
};

pub(crate) const ISOLATION: Key = Key {
    name: "isolation",
    variable: "TOMBOLO_ISOLATION",
    kind: Kind::Isolation,
    default: Default::Fixed("auto"),
    meaning: "What runs the virtual machines: hardware virtualisation (kvm), software (emulated), \
              or hardware where it works and software elsewhere (auto).",
};

pub(crate) const POOL_SIZE: Key = Key {
    name: "pool_size",
    variable: "TOMBOLO_POOL_SIZE",
    kind: Kind::Integer { min: 0, max: 64 },
    default: Default::Fixed("4"),
    meaning: "How many restored virtual machines wait for the next sandbox. 0 keeps none.",
};

pub(crate) const DEFAULT_MEMORY_MIB: Key = Key {
    name: "default_memory_mib",
    variable: "TOMBOLO_DEFAULT_MEMORY_MIB",
    kind: Kind::Integer {
        min: 256,
        max: 65_536,
    },
    default: Default::Fixed("1280"),
    meaning: "The memory of a sandbox that asks for none, in MiB.",
};

pub(crate) const MEMORY_MIB_MIN: Key = Key {
    name: "memory_mib_min",
    variable: "TOMBOLO_MEMORY_MIB_MIN",
    kind: Kind::Integer {
        min: 256,
        max: 65_536,
    },
    default: Default::Fixed("768"),
    meaning: "The least memory a sandbox may ask for, in MiB.",
};

pub(crate) const MEMORY_MIB_MAX: Key = Key {
    name: "memory_mib_max",
    variable: "TOMBOLO_MEMORY_MIB_MAX",
    kind: Kind::Integer {
        min: 256,
        max: 65_536,
    },
    default: Default::Fixed("4096"),
    meaning: "The most memory a sandbox may ask for, in MiB.",
};

pub(crate) const VCPU_COUNT: Key = Key {
    name: "vcpu_count",
    variable: "TOMBOLO_VCPU_COUNT",
    kind: Kind::Integer { min: 1, max: 64 },
    default: Default::Fixed("2"),
    meaning: "The processors of a sandbox.",
};

pub(crate) const DISK_GIB: Key = Key {
    name: "disk_gib",
    variable: "TOMBOLO_DISK_GIB",
    // At least as large as the image that set-up makes.
    kind: Kind::Integer { min: 10, max: 1024 },
    default: Default::Fixed("10"),
    meaning: "The disk of a sandbox, in GiB. It takes room on the machine only for what is written. The \
              first start after a change makes a new template.",
};

pub(crate) const SANDBOX_LIMIT: Key = Key {
    name: "sandbox_limit",
    variable: "TOMBOLO_SANDBOX_LIMIT",
    kind: Kind::Integer {
        min: 1,
        max: 10_000,
    },
    default: Default::Fixed("100"),
    meaning: "How many sandboxes may run at once on the machine, and of one organisation.",
};

pub(crate) const MEMORY_LIMIT_MIB: Key = Key {
    name: "memory_limit_mib",
    variable: "TOMBOLO_MEMORY_LIMIT_MIB",
    kind: Kind::Integer {
        min: MEMORY_LIMIT_MIN_MIB,
        max: MEMORY_LIMIT_MAX_MIB,
    },
    default: Default::TimesMemory(8),
    meaning: "How much memory may be promised to the running sandboxes of one organisation together, \
              in MiB. Sandboxes \
              share the pages of the template they start from and own only what they change, so \
              promising more than the machine has is normal.",
};

pub(crate) const LIFETIME_MAX: Key = Key {
    name: "lifetime_max",
    variable: "TOMBOLO_LIFETIME_MAX",
    kind: Kind::Duration {
        min: MINUTE,
        max: Duration::from_hours(30 * 24),
    },
    default: Default::Fixed("24h"),
    meaning: "The longest a sandbox may live, extensions included.",
};

pub(crate) const SESSION_GRACE: Key = Key {
    name: "session_grace",
    variable: "TOMBOLO_SESSION_GRACE",
    kind: Kind::Duration {
        min: Duration::ZERO,
        max: Duration::from_mins(10),
    },
    default: Default::Fixed("30s"),
    meaning: "How long a sandbox that lives as long as its session waits for a connection that broke.",
};

pub(crate) const RUN_AS: Key = Key {
    name: "run_as",
    variable: "TOMBOLO_RUN_AS",
    kind: Kind::RunAs,
    // Between the ranges that Debian and systemd give out on demand.
    default: Default::Fixed("60790:60790"),
    meaning: "The user and the group, as numbers, that the public server runs as. They need no \
              entry in any user database.",
};

pub(crate) const EGRESS_RUN_AS: Key = Key {
    name: "egress.run_as",
    variable: "TOMBOLO_EGRESS_RUN_AS",
    kind: Kind::RunAs,
    default: Default::Fixed("60791:60791"),
    meaning: "The user and the group, as numbers, that the egress proxy runs as: the process that holds \
              the values of secrets. Another user than that of run_as.",
};

pub(crate) const EGRESS_HOSTS: Key = Key {
    name: "egress.hosts",
    variable: "TOMBOLO_EGRESS_HOSTS",
    kind: Kind::Hosts,
    default: Default::Empty,
    meaning: "Your own addresses for names, with or without a port: sandboxes that may reach the name \
              reach it there. It permits no name by itself, leads anywhere but to a cloud's metadata \
              service, and certificates are verified for the name all the same.",
};

pub(crate) const EGRESS_PRIVATE_NETWORKS: Key = Key {
    name: "egress.private_networks",
    variable: "TOMBOLO_EGRESS_PRIVATE_NETWORKS",
    kind: Kind::Networks,
    default: Default::Empty,
    meaning: "Private networks that a sandbox's policy may open by listing addresses in them. Others, \
              loopback, link-local and metadata addresses stay closed whatever a policy says.",
};

pub(crate) const EGRESS_ROOT_FILES: Key = Key {
    name: "egress.root_files",
    variable: "TOMBOLO_EGRESS_ROOT_FILES",
    kind: Kind::Files,
    default: Default::Empty,
    meaning: "Files of certificate authorities, as PEM, that hosts may be verified by besides those that \
              this machine trusts. Root reads them when the egress proxy starts.",
};

pub(crate) const EGRESS_CLIENT_CERTIFICATES: Key = Key {
    name: "egress.client_certificates",
    variable: "TOMBOLO_EGRESS_CLIENT_CERTIFICATES",
    kind: Kind::HostFiles,
    default: Default::Empty,
    meaning: "Files that hosts which ask for a client certificate are shown, as PEM: the certificate, those \
              that vouch for it, and its key. A host means port 443 unless it names another. \
              Requests of every sandbox that may reach the host are sent under it, unless the \
              sandbox's policy passes the host through; no sandbox has the key. Root reads the files when the egress proxy starts.",
};

pub(crate) const EGRESS_AUDIT_FILE_MIB: Key = Key {
    name: "egress.audit_file_mib",
    variable: "TOMBOLO_EGRESS_AUDIT_FILE_MIB",
    kind: Kind::Integer { min: 1, max: 1024 },
    default: Default::Fixed("32"),
    meaning: "How large the file of records of what sandboxes sent grows, in MiB, before it is put \
              aside: egress/audit.jsonl in the state directory.",
};

pub(crate) const EGRESS_AUDIT_FILES: Key = Key {
    name: "egress.audit_files",
    variable: "TOMBOLO_EGRESS_AUDIT_FILES",
    kind: Kind::Integer { min: 1, max: 1000 },
    default: Default::Fixed("7"),
    meaning: "How many files of records that were put aside are kept; the oldest is removed.",
};

pub(crate) const INGRESS_LISTEN: Key = Key {
    name: "ingress.listen",
    variable: "TOMBOLO_INGRESS_LISTEN",
    kind: Kind::Address,
    default: Default::Fixed("127.0.0.1:8443"),
    meaning: "Where ports of sandboxes that are exposed over HTTP are reached, with TLS. Addresses of \
              exposures name this port unless it is 443.",
};

pub(crate) const INGRESS_BASE: Key = Key {
    name: "ingress.base",
    variable: "TOMBOLO_INGRESS_BASE",
    kind: Kind::Domain,
    default: Default::Fixed("tombolo.localhost"),
    meaning: "The name below which exposures are. Every name below it must lead to this machine, as \
              names below localhost do by themselves in browsers and in curl, and in all programs where \
              systemd-resolved or libnss-myhostname is.",
};

pub(crate) const INGRESS_CERTIFICATE_FILE: Key = Key {
    name: "ingress.certificate_file",
    variable: "TOMBOLO_INGRESS_CERTIFICATE_FILE",
    kind: Kind::File,
    default: Default::Empty,
    meaning: "Your own certificate for all names below ingress.base, with those it was signed by, as PEM; \
              needs ingress.key_file. Read again when it changes. Without it Tombolo makes certificates by \
              an authority of its own: see \"tombolo ingress root\".",
};

pub(crate) const INGRESS_KEY_FILE: Key = Key {
    name: "ingress.key_file",
    variable: "TOMBOLO_INGRESS_KEY_FILE",
    kind: Kind::File,
    default: Default::Empty,
    meaning: "The key of ingress.certificate_file, as PEM. Root reads it and hands it to the server.",
};

pub(crate) const INGRESS_ACME: Key = Key {
    name: "ingress.acme",
    variable: "TOMBOLO_INGRESS_ACME",
    kind: Kind::Acme,
    default: Default::Empty,
    meaning: "Who issues a certificate that everybody trusts for ingress.base and all names below it, by \
              ACME. Setting it is agreeing to the authority's terms. _acme-challenge below the base must \
              be delegated to this machine: see the page on exposed ports.",
};

pub(crate) const INGRESS_ACME_DNS_LISTEN: Key = Key {
    name: "ingress.acme_dns_listen",
    variable: "TOMBOLO_INGRESS_ACME_DNS_LISTEN",
    kind: Kind::Address,
    default: Default::Fixed("0.0.0.0:53"),
    meaning: "Where the authority's questions are answered, by UDP and TCP, if ingress.acme is set. It \
              asks at port 53 of an address that the world reaches.",
};

pub(crate) const INGRESS_ACME_ROOT_FILE: Key = Key {
    name: "ingress.acme_root_file",
    variable: "TOMBOLO_INGRESS_ACME_ROOT_FILE",
    kind: Kind::File,
    default: Default::Empty,
    meaning: "By whom the server of a private ACME authority is known, as PEM, if not by those whom this \
              machine trusts. Users other than root must be able to read it.",
};

pub(crate) const SSH_LISTEN: Key = Key {
    name: "ssh.listen",
    variable: "TOMBOLO_SSH_LISTEN",
    kind: Kind::Address,
    default: Default::Fixed("127.0.0.1:2222"),
    meaning: "Where sandboxes are reached over SSH. The JavaScript SDK does not show the port, so that its \
              users need 22, or an entry in their own SSH configuration.",
};

pub(crate) const SSH_HOST: Key = Key {
    name: "ssh.host",
    variable: "TOMBOLO_SSH_HOST",
    kind: Kind::Domain,
    default: Default::Fixed("localhost"),
    meaning: "The name by which SSH clients reach this machine, as they are told.",
};

/// Every key, in the order of the reference page.
pub(crate) const KEYS: &[&Key] = &[
    &LISTEN,
    &ISOLATION,
    &POOL_SIZE,
    &DEFAULT_MEMORY_MIB,
    &MEMORY_MIB_MIN,
    &MEMORY_MIB_MAX,
    &VCPU_COUNT,
    &DISK_GIB,
    &SANDBOX_LIMIT,
    &MEMORY_LIMIT_MIB,
    &LIFETIME_MAX,
    &SESSION_GRACE,
    &RUN_AS,
    &EGRESS_RUN_AS,
    &EGRESS_HOSTS,
    &EGRESS_PRIVATE_NETWORKS,
    &EGRESS_ROOT_FILES,
    &EGRESS_CLIENT_CERTIFICATES,
    &EGRESS_AUDIT_FILE_MIB,
    &EGRESS_AUDIT_FILES,
    &INGRESS_LISTEN,
    &INGRESS_BASE,
    &INGRESS_CERTIFICATE_FILE,
    &INGRESS_KEY_FILE,
    &INGRESS_ACME,
    &INGRESS_ACME_DNS_LISTEN,
    &INGRESS_ACME_ROOT_FILE,
    &SSH_LISTEN,
    &SSH_HOST,
];

/// What all our variables begin with.
pub(crate) const PREFIX: &str = "TOMBOLO_";
/// The directory that holds everything Tombolo keeps.
pub(crate) const STATE_DIR_VARIABLE: &str = "TOMBOLO_STATE_DIR";
/// The default of [`STATE_DIR_VARIABLE`].
pub(crate) const STATE_DIR_DEFAULT: &str = "/var/lib/tombolo";
/// The configuration file, if it is not `config.toml` in the state directory.
pub(crate) const CONFIG_VARIABLE: &str = "TOMBOLO_CONFIG";
/// The server to talk to, if it is not the one of the state directory.
pub(crate) const ENDPOINT_VARIABLE: &str = "TOMBOLO_ENDPOINT";
/// The token for [`ENDPOINT_VARIABLE`].
pub(crate) const TOKEN_VARIABLE: &str = "TOMBOLO_TOKEN";
/// Which log lines to write.
pub(crate) const LOG_VARIABLE: &str = "TOMBOLO_LOG";
/// `json` for one JSON object a line.
pub(crate) const LOG_FORMAT_VARIABLE: &str = "TOMBOLO_LOG_FORMAT";

/// The variables that are no keys of the configuration file.
pub(crate) const OTHER_VARIABLES: &[(&str, &str)] = &[
    (
        STATE_DIR_VARIABLE,
        "The directory that holds everything Tombolo keeps. Default: `/var/lib/tombolo`.",
    ),
    (
        CONFIG_VARIABLE,
        "The configuration file. Default: `config.toml` in the state directory, if it is there.",
    ),
    (
        ENDPOINT_VARIABLE,
        "The server to talk to, such as `http://127.0.0.1:8590`. Default: the one that runs on the \
         state directory.",
    ),
    (
        TOKEN_VARIABLE,
        "The token for the server named by `TOMBOLO_ENDPOINT`.",
    ),
    (
        LOG_VARIABLE,
        "Which log lines to write, such as `info,tombolo_server=debug`. Default: `warn`, and `info` \
         for `tombolo up`.",
    ),
    (
        LOG_FORMAT_VARIABLE,
        "`json` for one JSON object a line, `text` for people. Default: `text`.",
    ),
];

/// What the project's own tests are told by.
pub(crate) const TEST_PREFIX: &str = "TOMBOLO_TEST_";

pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().copied().find(|key| key.name == name)
}

/// The key that a misspelt one most likely means.
pub(super) fn nearest(misspelt: &str) -> Option<&'static Key> {
    const DISTANCE_MAX: usize = 4;
    KEYS.iter()
        .map(|key| (edit_distance(key.name, misspelt), *key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= DISTANCE_MAX)
        .map(|(_, key)| key)
}

/// Whether keys have names that begin with this one and a point.
pub(super) fn has_below(name: &str) -> bool {
    KEYS.iter()
        .filter_map(|key| key.name.strip_prefix(name))
        .any(|rest| rest.starts_with('.'))
}

pub(super) fn names() -> String {
    let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    names.join(", ")
}

fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
