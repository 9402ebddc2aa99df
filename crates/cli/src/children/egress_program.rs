//! The seam to the egress crate: what needs root is done first, then the
//! process is nobody but its own user.

use tombolo_diag::ExitCode;
use tombolo_egress::{AuditBounds, ClientCertificate, EgressConfig, EgressListeners, RootFile};

use super::EgressLaunch;
use crate::failure::{Failure, Outcome};

/// A proxy that needs no rights any more.
#[derive(Debug)]
pub(super) struct Ready {
    config: EgressConfig,
    listeners: EgressListeners,
}

/// Reads the operator's files and binds the sockets, as root: the proxy's own
/// user can do neither, and cannot replace a socket either.
pub(super) fn open(launch: EgressLaunch) -> Outcome<Ready> {
    let mut root_files = Vec::new();
    for path in &launch.settings.root_files {
        let file = RootFile::read(path).map_err(|error| {
            Failure::new(ExitCode::Config, error).hint(
                "egress.root_files names files of certificate authorities; take it away, or put \
                 the file back",
            )
        })?;
        root_files.push(file);
    }
    let mut client_certificates = Vec::new();
    for (host, path) in &launch.settings.client_certificates {
        let certificate = ClientCertificate::read(host, path).map_err(|error| {
            Failure::new(ExitCode::Config, error).hint(
                "egress.client_certificates names files of certificates with their keys; take it \
                 away, or put the file back",
            )
        })?;
        client_certificates.push(certificate);
    }
    let control_uid = Some(launch.control_uid);
    let listeners = EgressListeners::bind(&launch.control, &launch.descriptors, control_uid)?;
    let config = EgressConfig {
        state_dir: launch.state_dir,
        hosts: launch.settings.hosts,
        private_networks: launch.settings.private_networks,
        root_files,
        client_certificates,
        audit: AuditBounds {
            file_bytes_max: launch.settings.audit_file_bytes_max,
            files_kept: launch.settings.audit_files_kept,
        },
    };
    Ok(Ready { config, listeners })
}

/// Runs the proxy until it is told to end.
pub(super) async fn run(ready: Ready, say_ready: impl FnOnce()) -> Outcome {
    Ok(tombolo_egress::run(ready.config, ready.listeners, say_ready).await?)
}
