//! Whether a TLS connection is terminated and looked into, or passed through unread.
//!
//! Only what is terminated can be held to request rules and be given secrets. What is
//! passed through is held to its name alone.

use crate::{document::InterceptMode, network::Target, pattern::AllowEntry};

/// What to do with a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    /// The proxy is the server, with a certificate of the sandbox's own authority.
    Terminate(InterceptReason),
    /// The bytes go through after the name of the `ClientHello` was compared.
    Splice(InterceptReason),
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterceptReason {
    /// The policy says so for every host.
    All,
    /// The host is listed as pass-through.
    Passthrough,
    /// There is an allow list, which only termination can enforce in full.
    Restricted,
    /// A secret may be used here.
    Secrets,
    /// Request rules apply here.
    Rules,
    /// The operator shows this host a certificate.
    ClientCertificate,
    /// There is no allow list, no secret and no rule that would need it.
    NothingToEnforce,
}

impl InterceptReason {
    /// The stable code, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Passthrough => "passthrough",
            Self::Restricted => "restricted",
            Self::Secrets => "secrets",
            Self::Rules => "rules",
            Self::ClientCertificate => "client_certificate",
            Self::NothingToEnforce => "nothing_to_enforce",
        }
    }
}

/// The interception part of a policy.
#[derive(Clone, Debug)]
pub struct InterceptPolicy {
    pub(crate) mode: InterceptMode,
    pub(crate) restricted: bool,
    pub(crate) passthrough: Vec<AllowEntry>,
    /// Where secrets may be used, and where rules apply.
    pub(crate) secrets: Vec<AllowEntry>,
    pub(crate) rules: Vec<AllowEntry>,
    /// Where the operator shows a certificate, which the sandbox cannot.
    pub(crate) certified: Vec<AllowEntry>,
}

impl InterceptPolicy {
    /// What to do with a TLS connection to this name or address, and port.
    pub fn decide<'a>(&self, target: impl Into<Target<'a>>, port: u16) -> Interception {
        let target = target.into();
        let speaks = |entries: &[AllowEntry]| {
            entries
                .iter()
                .any(|entry| entry.matches_port(port) && entry.host().matches(target))
        };
        if speaks(&self.passthrough) {
            return Interception::Splice(InterceptReason::Passthrough);
        }
        if self.mode == InterceptMode::All {
            return Interception::Terminate(InterceptReason::All);
        }
        if speaks(&self.secrets) {
            return Interception::Terminate(InterceptReason::Secrets);
        }
        if speaks(&self.rules) {
            return Interception::Terminate(InterceptReason::Rules);
        }
        if speaks(&self.certified) {
            return Interception::Terminate(InterceptReason::ClientCertificate);
        }
        // An address that is listed is reached whole, so no name needs to be enforced there.
        if self.restricted && matches!(target, Target::Name(_)) {
            return Interception::Terminate(InterceptReason::Restricted);
        }
        Interception::Splice(InterceptReason::NothingToEnforce)
    }
}

#[cfg(test)]
mod tests;
