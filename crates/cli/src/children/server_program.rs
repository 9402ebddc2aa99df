//! The seam to the server crate.

use std::path::PathBuf;

use tokio::sync::oneshot;
use tombolo_ids::{DiskBytes, MemoryMib, Region};
use tombolo_server::{
    AcmeConfig, Addresses, Ending, IngressLimits, IngressOptions, Limits, ServerConfig, SshLimits,
    SshOptions,
};

use super::{Ready, ServerLaunch};
use crate::config::{IngressSettings, Settings};
use crate::failure::Outcome;

/// Runs the server until it ends, and says why. `ready` hears where it listens.
pub(super) async fn run(launch: ServerLaunch, ready: impl FnOnce(Ready)) -> Outcome<Ending> {
    let (sender, receiver) = oneshot::channel();
    let config = ServerConfig {
        listen: launch.listen,
        base_url: None,
        node_socket: launch.node_socket,
        egress_socket: Some(launch.egress_socket),
        database: launch.database,
        admin_token: Some(launch.admin_token_hash.parse()?),
        region: Region::DEFAULT,
        limits: limits(&launch.settings),
        ingress: Some(IngressOptions {
            listen: launch.settings.ingress.listen,
            base: launch.settings.ingress.base.parse()?,
            identity_file: launch.ingress_identity,
            acme: acme(&launch.settings.ingress, launch.acme_dir),
            limits: IngressLimits::STANDARD,
        }),
        ssh: Some(SshOptions {
            listen: launch.settings.ssh.listen,
            host: launch.settings.ssh.host.clone(),
            key_file: launch.ssh_host_key,
            limits: SshLimits::STANDARD,
        }),
        retires: launch.retires,
    };
    let announce = async {
        // A server that fails drops its half, and its error says more.
        if let Ok(Addresses { api, ingress, ssh }) = receiver.await {
            ready(Ready { api, ingress, ssh });
        }
    };
    let (served, ()) = tokio::join!(tombolo_server::run(config, sender), announce);
    Ok(served?)
}

fn acme(settings: &IngressSettings, directory: PathBuf) -> Option<AcmeConfig> {
    Some(AcmeConfig {
        directory_url: settings.acme.clone()?,
        root_file: settings.acme_root_file.clone(),
        dns_listen: settings.acme_dns_listen,
        directory,
    })
}

fn limits(settings: &Settings) -> Limits {
    let sandboxes_max = u32::try_from(settings.sandbox_limit).unwrap_or(u32::MAX);
    let disk_bytes = u64::from(settings.disk_gib) << 30;
    Limits {
        memory_min: MemoryMib(settings.memory_mib_min),
        memory_max: MemoryMib(settings.memory_mib_max),
        memory_default: MemoryMib(settings.default_memory_mib),
        disk: DiskBytes(disk_bytes),
        lifetime_max: settings.lifetime_max,
        grace: settings.session_grace,
        sandboxes_max,
        memory_total_mib_max: settings.memory_limit_mib,
        // Disks take room only for what is written, so their number is bound
        // enough.
        disk_total_bytes_max: disk_bytes.saturating_mul(sandboxes_max.into()),
        ..Limits::STANDARD
    }
}
