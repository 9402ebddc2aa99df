//! Whether this host's KVM can run our guest. A `/dev/kvm` that opens is no
//! proof: some hosts expose one on which a stock kernel never gets anywhere. So
//! a real template is booted on it once, and the answer is remembered for this
//! kernel, this QEMU and this guest.

use crate::artefacts::Artefacts;
use crate::qemu::{Isolation, Shape};
use crate::template::{BuildTemplateError, Templates};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tombolo_diag::in_one_line;

const KVM_DEVICE: &str = "/dev/kvm";

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IsolationChoice {
    /// KVM where it works, emulation of the same VM elsewhere.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation even where KVM works.
    Emulated,
}

/// Why no isolation could be settled on.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// KVM was demanded and does not work.
    #[error("KVM was asked for but does not work here: {reason}")]
    NoKvm {
        /// What was found.
        reason: String,
    },
    /// KVM could not be tried, for a reason that is not KVM's.
    #[error("cannot try whether KVM works here")]
    Try(#[source] Box<BuildTemplateError>),
    /// The answer could not be kept.
    #[error("cannot keep the answer of the KVM probe")]
    Keep(#[from] std::io::Error),
    /// The answer could not be written.
    #[error("cannot write the answer of the KVM probe")]
    Encode(#[from] serde_json::Error),
}

/// How VMs run on this host, and why so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Host kernel and guest this was found with.
    found_with: String,
    pub(crate) isolation: Isolation,
    pub(crate) reason: String,
}

pub(crate) async fn settle(
    choice: IsolationChoice,
    templates: &Templates,
    shape: Shape,
    state_dir: &Path,
) -> Result<Verdict, ProbeError> {
    let verdict = |isolation, reason: String| Verdict {
        found_with: found_with(&templates.artefacts),
        isolation,
        reason,
    };
    if choice == IsolationChoice::Emulated {
        let reason = "emulation was asked for".to_owned();
        return Ok(verdict(Isolation::Emulated, reason));
    }
    let found = if let Some(found) = remembered(state_dir, &templates.artefacts) {
        found
    } else {
        let (isolation, reason) = probe(templates, shape).await?;
        let found = verdict(isolation, reason);
        remember(state_dir, &found)?;
        found
    };
    if choice == IsolationChoice::Kvm && found.isolation != Isolation::Kvm {
        return Err(ProbeError::NoKvm {
            reason: found.reason,
        });
    }
    Ok(found)
}

/// Boots the template of this shape on KVM, unless that is out of the question.
async fn probe(templates: &Templates, shape: Shape) -> Result<(Isolation, String), ProbeError> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(KVM_DEVICE);
    if let Err(error) = device {
        return Ok((Isolation::Emulated, format!("{KVM_DEVICE}: {error}")));
    }
    tracing::info!("trying whether this host's KVM can run the guest");
    let shape = Shape {
        isolation_is_kvm: true,
        ..shape
    };
    if templates.find(shape).is_some() {
        return Ok((Isolation::Kvm, "a template was made on KVM".to_owned()));
    }
    let Err(error) = templates.build(shape).await else {
        return Ok((Isolation::Kvm, "the guest boots on KVM".to_owned()));
    };
    let reason = match &error {
        BuildTemplateError::NoAgent { seconds, .. } => {
            format!("{KVM_DEVICE} opens, but the guest did not boot on it within {seconds} s")
        }
        // The guest's doing, or that of the KVM below it.
        BuildTemplateError::Ended { .. }
        | BuildTemplateError::Agent(_)
        | BuildTemplateError::Channel(_)
        | BuildTemplateError::Slow(_)
        | BuildTemplateError::Save(_) => format!(
            "{KVM_DEVICE} opens, but the guest does not run on it: {}",
            in_one_line(&error)
        ),
        // Says nothing about KVM, and emulation would meet it as well.
        _ => return Err(ProbeError::Try(Box::new(error))),
    };
    let error = in_one_line(&error);
    tracing::warn!(%reason, error, "KVM does not run the guest; VMs will be emulated");
    Ok((Isolation::Emulated, reason))
}

fn found_with(artefacts: &Artefacts) -> String {
    let release = fs_err::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let boot = fs_err::metadata(KVM_DEVICE).is_ok();
    format!("{} {} kvm={boot}", release.trim(), artefacts.key)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("isolation.json")
}

fn remembered(state_dir: &Path, artefacts: &Artefacts) -> Option<Verdict> {
    let text = fs_err::read(path(state_dir)).ok()?;
    let verdict: Verdict = serde_json::from_slice(&text).ok()?;
    (verdict.found_with == found_with(artefacts)).then_some(verdict)
}

fn remember(state_dir: &Path, verdict: &Verdict) -> Result<(), ProbeError> {
    let temporary = state_dir.join("isolation.json.new");
    fs_err::write(&temporary, serde_json::to_vec_pretty(verdict)?)?;
    fs_err::rename(temporary, path(state_dir))?;
    Ok(())
}
