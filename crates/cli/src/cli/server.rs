//! The arguments of `tombolo up`, and the settings that can be flags.

use clap::Args;

use crate::config::{Flags, keys};

/// Start the server that the SDKs talk to, and stay with it
#[derive(Debug, Args)]
#[command(after_help = "\
Gets what is missing first. Then prints the three variables that point the SDKs here, and runs until
it is interrupted; that ends its sandboxes. If it is killed instead, its sandboxes live on, and the
next \"tombolo up\" on the same state directory takes them over. A server that \"tombolo run\" started
makes room for it, unless that one has sandboxes.

Examples:
  tombolo up
  tombolo up --listen 127.0.0.1:9000 --pool-size 8
  tombolo up --json

Every flag is also a key of the configuration file: see docs/reference/configuration.md.")]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// End by itself after a minute without sandboxes, or for another "tombolo up"
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Print where the server is, as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One flag for each key that can be set. They are kept as text, since flags,
/// variables and files are checked by the same rules.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingArgs {
    /// Where to listen [default: 127.0.0.1:8590]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// What runs the virtual machines: auto, kvm or emulated [default: auto]
    #[arg(long, value_name = "HOW")]
    pub(crate) isolation: Option<String>,
    /// How many virtual machines to keep ready [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) pool_size: Option<String>,
    /// Memory of a sandbox that asks for none [default: 1280]
    #[arg(long, value_name = "MIB")]
    pub(crate) default_memory_mib: Option<String>,
    /// The least memory a sandbox may ask for [default: 768]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib_min: Option<String>,
    /// The most memory a sandbox may ask for [default: 4096]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib_max: Option<String>,
    /// Processors of a sandbox [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) vcpu_count: Option<String>,
    /// Disk of a sandbox [default: 10]
    #[arg(long, value_name = "GIB")]
    pub(crate) disk_gib: Option<String>,
    /// How many sandboxes may run at once [default: 100]
    #[arg(long, value_name = "N")]
    pub(crate) sandbox_limit: Option<String>,
    /// Memory promised to all sandboxes together [default: 8 times the machine's memory]
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_limit_mib: Option<String>,
    /// The longest a sandbox may live [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub(crate) lifetime_max: Option<String>,
    /// How long a session waits for a connection that broke [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) session_grace: Option<String>,
    /// Who the public server runs as [default: 60790:60790]
    #[arg(long, value_name = "UID:GID")]
    pub(crate) run_as: Option<String>,
    /// Who the egress proxy runs as [default: 60791:60791]
    #[arg(long, value_name = "UID:GID")]
    pub(crate) egress_run_as: Option<String>,
    /// Your own address for a name; may be repeated [default: none]
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub(crate) egress_host: Vec<String>,
    /// A private network that policies may open; may be repeated [default: none]
    #[arg(long, value_name = "RANGE")]
    pub(crate) egress_private_network: Vec<String>,
    /// Further certificate authorities to verify hosts by; may be repeated [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) egress_root_file: Vec<String>,
    /// A certificate with its key to show to a host; may be repeated [default: none]
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) egress_client_certificate: Vec<String>,
    /// How large a file of egress records grows [default: 32]
    #[arg(long, value_name = "MIB")]
    pub(crate) egress_audit_file_mib: Option<String>,
    /// How many full files of egress records are kept [default: 7]
    #[arg(long, value_name = "N")]
    pub(crate) egress_audit_files: Option<String>,
    /// Where exposed ports are reached over HTTP [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ingress_listen: Option<String>,
    /// The name below which exposed ports are [default: tombolo.localhost]
    #[arg(long, value_name = "NAME")]
    pub(crate) ingress_base: Option<String>,
    /// Your own certificate for names below --ingress-base [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) ingress_certificate_file: Option<String>,
    /// The key of --ingress-certificate-file [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) ingress_key_file: Option<String>,
    /// Who issues a certificate for all names below --ingress-base [default: none]
    #[arg(long, value_name = "AUTHORITY")]
    pub(crate) ingress_acme: Option<String>,
    /// Where the authority's questions are answered [default: 0.0.0.0:53]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ingress_acme_dns_listen: Option<String>,
    /// By whom a private authority's server is known [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) ingress_acme_root_file: Option<String>,
    /// Where sandboxes are reached over SSH [default: 127.0.0.1:2222]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ssh_listen: Option<String>,
    /// The name by which SSH clients reach this machine [default: localhost]
    #[arg(long, value_name = "NAME")]
    pub(crate) ssh_host: Option<String>,
}

impl SettingArgs {
    /// What was given, by key.
    pub(crate) fn flags(&self) -> Flags {
        let hosts = joined(&self.egress_host);
        let private_networks = joined(&self.egress_private_network);
        let root_files = joined(&self.egress_root_file);
        let client_certificates = joined(&self.egress_client_certificate);
        [
            (&keys::LISTEN, &self.listen),
            (&keys::ISOLATION, &self.isolation),
            (&keys::POOL_SIZE, &self.pool_size),
            (&keys::DEFAULT_MEMORY_MIB, &self.default_memory_mib),
            (&keys::MEMORY_MIB_MIN, &self.memory_mib_min),
            (&keys::MEMORY_MIB_MAX, &self.memory_mib_max),
            (&keys::VCPU_COUNT, &self.vcpu_count),
            (&keys::DISK_GIB, &self.disk_gib),
            (&keys::SANDBOX_LIMIT, &self.sandbox_limit),
            (&keys::MEMORY_LIMIT_MIB, &self.memory_limit_mib),
            (&keys::LIFETIME_MAX, &self.lifetime_max),
            (&keys::SESSION_GRACE, &self.session_grace),
            (&keys::RUN_AS, &self.run_as),
            (&keys::EGRESS_RUN_AS, &self.egress_run_as),
            (&keys::EGRESS_HOSTS, &hosts),
            (&keys::EGRESS_PRIVATE_NETWORKS, &private_networks),
            (&keys::EGRESS_ROOT_FILES, &root_files),
            (&keys::EGRESS_CLIENT_CERTIFICATES, &client_certificates),
            (&keys::EGRESS_AUDIT_FILE_MIB, &self.egress_audit_file_mib),
            (&keys::EGRESS_AUDIT_FILES, &self.egress_audit_files),
            (&keys::INGRESS_LISTEN, &self.ingress_listen),
            (&keys::INGRESS_BASE, &self.ingress_base),
            (
                &keys::INGRESS_CERTIFICATE_FILE,
                &self.ingress_certificate_file,
            ),
            (&keys::INGRESS_KEY_FILE, &self.ingress_key_file),
            (&keys::INGRESS_ACME, &self.ingress_acme),
            (
                &keys::INGRESS_ACME_DNS_LISTEN,
                &self.ingress_acme_dns_listen,
            ),
            (&keys::INGRESS_ACME_ROOT_FILE, &self.ingress_acme_root_file),
            (&keys::SSH_LISTEN, &self.ssh_listen),
            (&keys::SSH_HOST, &self.ssh_host),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.name, value.clone()?)))
        .collect()
    }
}

/// The entries of a flag that may be repeated, as one text.
fn joined(entries: &[String]) -> Option<String> {
    (!entries.is_empty()).then(|| entries.join(","))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Flagged {
        #[command(flatten)]
        settings: SettingArgs,
    }

    #[test]
    fn a_flag_of_a_list_may_be_repeated() {
        let line = "up --egress-host a.example=1.2.3.4 --egress-host b.example=1.2.3.4:5 \
                    --egress-root-file /a";
        let flags = Flagged::parse_from(line.split_whitespace())
            .settings
            .flags();
        assert_eq!(
            flags[keys::EGRESS_HOSTS.name],
            "a.example=1.2.3.4,b.example=1.2.3.4:5"
        );
        assert_eq!(flags[keys::EGRESS_ROOT_FILES.name], "/a");
        assert!(!flags.contains_key(keys::EGRESS_PRIVATE_NETWORKS.name));
    }

    #[test]
    fn every_key_has_its_flag_with_its_default() {
        let up = crate::cli::definition();
        let up = up.find_subcommand("up").unwrap();
        for key in keys::KEYS {
            let flag = key.flag();
            let argument = up.get_arguments().find(|argument| {
                argument.get_long().map(|long| format!("--{long}")) == Some(flag.clone())
            });
            let help = argument.and_then(clap::Arg::get_help).unwrap().to_string();
            let default = key.default.to_string();
            assert!(
                help.contains(&default),
                "{flag}: {help} does not say {default}"
            );
        }
    }
}
