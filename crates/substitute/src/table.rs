//! The secrets of one sandbox in one generation of its policy.

use std::{collections::HashMap, sync::Arc};

use tombolo_secret::{PLACEHOLDER_LEN, PLACEHOLDER_PREFIX, Placeholder, SecretName, SecretValue};

use crate::{
    Composites, Destination, Flow, IneligibleReason, SCRUB_LEN_MIN, Scheme, ScrubMode, Scrubber,
    SecretHost, Slot, Slots,
    head::is_header_name,
    needle::needles_of,
    scrub::{Automaton, BuildAutomatonError},
};

/// The most secrets of one sandbox.
pub const SECRETS_MAX: usize = 256;
/// The most bytes that the needles of one sandbox may have together.
pub const NEEDLE_BYTES_MAX: usize = 4 << 20;

/// One secret and what may be done with it.
#[derive(Clone, Debug)]
pub struct SecretRule {
    /// Its name.
    pub name: SecretName,
    /// What stands for it in the sandbox.
    pub placeholder: Placeholder,
    /// What it is.
    pub value: SecretValue,
    /// Where it may go.
    pub hosts: Vec<SecretHost>,
    /// In which parts of a request.
    pub slots: Slots,
    /// Whether it may go without TLS.
    pub plaintext: Plaintext,
    /// Whether its hosts may be spoken to without it.
    pub requirement: Requirement,
    /// A header that is set on every request to its hosts.
    pub injection: Option<Injection>,
}

/// Whether a value may travel unprotected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// Only over TLS.
    #[default]
    Refused,
    /// Also over plain HTTP: for services on a network of one's own.
    Allowed,
}

/// Whether requests to a secret's hosts must carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requirement {
    /// They may do without.
    #[default]
    Optional,
    /// They must, and may carry no other credential: an approved host is
    /// otherwise a way out, with somebody else's account.
    Required,
}

/// A header that Tombolo sets itself, over whatever the guest sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injection {
    /// A header with a template whose only `{}` becomes the value.
    Header {
        /// The header's name.
        name: String,
        /// Such as `Bearer {}`.
        template: String,
    },
    /// `Authorization: Basic` with the value as password.
    Basic {
        /// The user name, which may be empty.
        user: String,
    },
}

/// Why secrets do not make a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// More than [`SECRETS_MAX`].
    #[error("a sandbox has {count} secrets; at most {SECRETS_MAX} are possible")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Two have one name.
    #[error("two secrets have the name {name}")]
    Name {
        /// The name.
        name: SecretName,
    },
    /// Two have one placeholder.
    #[error("{first} and {second} have the same placeholder")]
    Placeholder {
        /// The one.
        first: SecretName,
        /// The other.
        second: SecretName,
    },
    /// A secret with no host can never be used.
    #[error("the secret {name} has no host")]
    NoHost {
        /// Its name.
        name: SecretName,
    },
    /// A value contains what looks like a placeholder.
    #[error("the value of {name} contains a placeholder; give the value itself")]
    PlaceholderInValue {
        /// Its name.
        name: SecretName,
    },
    /// An injected header cannot be.
    #[error("the secret {name} cannot be injected: {reason}")]
    Injection {
        /// Its name.
        name: SecretName,
        /// What is wrong.
        reason: InjectionFault,
    },
    /// Two secrets are injected into the same header of the same host.
    #[error("{first} and {second} are injected into the same header of the same host")]
    InjectionTwice {
        /// The one.
        first: SecretName,
        /// The other.
        second: SecretName,
    },
    /// More than [`NEEDLE_BYTES_MAX`].
    #[error(
        "the values make {bytes} bytes to search responses for; at most {NEEDLE_BYTES_MAX} are \
         possible: use fewer or shorter secrets"
    )]
    NeedlesTooLong {
        /// How many.
        bytes: usize,
    },
    /// The library could not build its automaton.
    #[error("cannot prepare the search of responses")]
    Automaton(#[from] BuildAutomatonError),
}

/// What is wrong with an injected header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectionFault {
    /// Not the name of a header, or one that frames the message.
    #[error("its header cannot be set")]
    Header,
    /// Not exactly one `{}`, or a character that no header can have.
    #[error("its template needs exactly one {{}} and no control characters")]
    Template,
    /// The user of Basic has a colon or a control character.
    #[error("its user name has a colon or a control character")]
    User,
}

/// What a person should know of a table that is otherwise good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableWarning {
    /// The value is so short that it occurs by chance.
    #[error(
        "the value of {name} has only {len} bytes, fewer than {SCRUB_LEN_MIN}: responses are not \
         searched for it, because removing it would damage them"
    )]
    NotScrubbed {
        /// Whose value.
        name: SecretName,
        /// Its length in bytes.
        len: usize,
    },
    /// One value is the beginning of another.
    #[error("the value of {shorter} is the beginning of the value of {longer}")]
    Prefix {
        /// The one that is contained.
        shorter: SecretName,
        /// The one that contains it.
        longer: SecretName,
    },
}

/// The secrets of one sandbox, made ready for searching. Immutable: a change of
/// policy makes a new one.
#[derive(Debug)]
pub struct SecretTable {
    pub(crate) secrets: Vec<SecretRule>,
    by_placeholder: HashMap<Placeholder, usize>,
    warnings: Vec<TableWarning>,
    has_injections: bool,
    automaton: Option<Arc<Automaton>>,
}

/// Which secrets of a table may be used in one request.
#[derive(Clone, Debug)]
pub struct Eligibility(Vec<Result<(), IneligibleReason>>);

impl SecretTable {
    /// Checks the secrets and prepares the searches.
    pub fn new(secrets: Vec<SecretRule>) -> Result<Self, TableError> {
        if secrets.len() > SECRETS_MAX {
            let count = secrets.len();
            return Err(TableError::TooMany { count });
        }
        let mut by_placeholder = HashMap::new();
        for (index, secret) in secrets.iter().enumerate() {
            check_rule(secret)?;
            let earlier = secrets.get(..index).unwrap_or_default();
            check_pairs(secret, earlier)?;
            by_placeholder.insert(secret.placeholder, index);
        }
        let scrubbed = secrets.iter().filter(|s| s.value.len() >= SCRUB_LEN_MIN);
        let needles: Vec<_> = scrubbed
            .flat_map(|secret| needles_of(secret.value.expose(), &secret.placeholder.to_string()))
            .collect();
        let bytes = needles.iter().map(|needle| needle.real().len()).sum();
        if bytes > NEEDLE_BYTES_MAX {
            return Err(TableError::NeedlesTooLong { bytes });
        }
        let automaton = Automaton::build(needles)?.map(Arc::new);
        Ok(Self {
            warnings: warnings_of(&secrets),
            has_injections: secrets.iter().any(|secret| secret.injection.is_some()),
            secrets,
            by_placeholder,
            automaton,
        })
    }

    /// What a person should know.
    #[must_use]
    pub fn warnings(&self) -> &[TableWarning] {
        &self.warnings
    }

    /// Whether there is no secret at all, and so nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Whether a host is one of any secret's, whatever else holds: such a host
    /// needs its flows terminated.
    #[must_use]
    pub fn is_bound(&self, destination: &Destination<'_>) -> bool {
        let mut hosts = self.secrets.iter().flat_map(|secret| &secret.hosts);
        hosts.any(|host| host.matches(destination))
    }

    /// Which secrets may be used in a request to a destination. The caller
    /// adds what it knows of time and budgets with [`Eligibility::refuse`].
    #[must_use]
    pub fn eligibility(&self, destination: &Destination<'_>) -> Eligibility {
        let verdict = |secret: &SecretRule| {
            if destination.flow == Flow::Passthrough {
                Err(IneligibleReason::Passthrough)
            } else if destination.is_address() {
                Err(IneligibleReason::Address)
            } else if !secret.hosts.iter().any(|host| host.matches(destination)) {
                Err(IneligibleReason::Host)
            } else if destination.scheme == Scheme::Http && secret.plaintext == Plaintext::Refused {
                Err(IneligibleReason::Plaintext)
            } else {
                Ok(())
            }
        };
        Eligibility(self.secrets.iter().map(verdict).collect())
    }

    /// A search of one response, or of one direction of a WebSocket, for the
    /// values of all this sandbox's secrets. `None` if there is nothing to
    /// search for.
    #[must_use]
    pub fn scrubber(&self, composites: &Composites, mode: ScrubMode) -> Option<Scrubber> {
        Scrubber::new(composites.automaton(), self.automaton.clone(), mode)
    }

    /// Searches something short, such as the value of a header, at once.
    /// `None` if nothing was found.
    #[must_use]
    pub fn scrub(&self, composites: &Composites, mode: ScrubMode, text: &[u8]) -> Option<Vec<u8>> {
        let mut scrubber = self.scrubber(composites, mode)?;
        let mut scrubbed = Vec::new();
        scrubber.push(text, &mut scrubbed);
        scrubber.finish(&mut scrubbed);
        (scrubber.scrubbed() > 0).then_some(scrubbed)
    }

    pub(crate) fn find(&self, placeholder: &Placeholder) -> Option<(usize, &SecretRule)> {
        let index = *self.by_placeholder.get(placeholder)?;
        self.secrets.get(index).map(|secret| (index, secret))
    }

    /// Whether any secret is injected anywhere.
    pub(crate) fn has_injections(&self) -> bool {
        self.has_injections
    }

    /// The secrets that may be used.
    pub(crate) fn eligible<'a>(
        &'a self,
        eligibility: &'a Eligibility,
    ) -> impl Iterator<Item = &'a SecretRule> {
        let pairs = self.secrets.iter().zip(&eligibility.0);
        pairs
            .filter(|(_, verdict)| verdict.is_ok())
            .map(|(secret, _)| secret)
    }

    /// Where a secret is in the table.
    pub(crate) fn position(&self, name: &SecretName) -> Option<usize> {
        self.secrets.iter().position(|secret| secret.name == *name)
    }
}

impl Eligibility {
    /// Takes a secret out: it is revoked, expired or used up. A reason that is
    /// already there stays. Whether the table has such a secret.
    pub fn refuse(
        &mut self,
        table: &SecretTable,
        name: &SecretName,
        reason: IneligibleReason,
    ) -> bool {
        let verdict = table.position(name).and_then(|index| self.0.get_mut(index));
        if let Some(verdict) = verdict {
            *verdict = verdict.and(Err(reason));
            return true;
        }
        false
    }

    /// Whether no secret at all may be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Result::is_err)
    }

    /// Whether a secret may be used in a slot.
    pub(crate) fn check(
        &self,
        index: usize,
        secret: &SecretRule,
        slot: Slot,
    ) -> Result<(), IneligibleReason> {
        self.0
            .get(index)
            .copied()
            .unwrap_or(Err(IneligibleReason::Host))?;
        if secret.slots.contains(slot) {
            Ok(())
        } else {
            Err(IneligibleReason::Slot)
        }
    }
}

fn check_rule(secret: &SecretRule) -> Result<(), TableError> {
    let name = || secret.name.clone();
    if secret.hosts.is_empty() {
        return Err(TableError::NoHost { name: name() });
    }
    // The whole prefix is refused, so that no value and its surroundings can
    // make up a placeholder together.
    if secret.value.expose().contains(PLACEHOLDER_PREFIX) {
        return Err(TableError::PlaceholderInValue { name: name() });
    }
    let fault = secret.injection.as_ref().and_then(injection_fault);
    match fault {
        Some(reason) => Err(TableError::Injection {
            name: name(),
            reason,
        }),
        None => Ok(()),
    }
}

fn injection_fault(injection: &Injection) -> Option<InjectionFault> {
    let has_control = |text: &str| text.bytes().any(|byte| byte.is_ascii_control());
    match injection {
        Injection::Header { name, .. } if !is_header_name(name) => Some(InjectionFault::Header),
        Injection::Header { template, .. } => (template.matches("{}").count() != 1
            || has_control(template))
        .then_some(InjectionFault::Template),
        Injection::Basic { user } => {
            (user.contains(':') || has_control(user)).then_some(InjectionFault::User)
        }
    }
}

fn check_pairs(secret: &SecretRule, earlier: &[SecretRule]) -> Result<(), TableError> {
    for other in earlier {
        if other.name == secret.name {
            let name = secret.name.clone();
            return Err(TableError::Name { name });
        }
        let (first, second) = (other.name.clone(), secret.name.clone());
        if other.placeholder == secret.placeholder {
            return Err(TableError::Placeholder { first, second });
        }
        let same_header = match (&other.injection, &secret.injection) {
            (Some(a), Some(b)) => a.header().eq_ignore_ascii_case(b.header()),
            _ => false,
        };
        if same_header && other.hosts.iter().any(|host| secret.hosts.contains(host)) {
            return Err(TableError::InjectionTwice { first, second });
        }
    }
    Ok(())
}

impl Injection {
    /// The header that is set.
    #[must_use]
    pub fn header(&self) -> &str {
        match self {
            Self::Header { name, .. } => name,
            Self::Basic { .. } => "authorization",
        }
    }
}

fn warnings_of(secrets: &[SecretRule]) -> Vec<TableWarning> {
    let mut warnings = Vec::new();
    for secret in secrets {
        let value = secret.value.expose();
        if value.len() < SCRUB_LEN_MIN {
            warnings.push(TableWarning::NotScrubbed {
                name: secret.name.clone(),
                len: value.len(),
            });
        }
        let longer = secrets.iter().filter(|other| {
            other.value.len() > value.len() && other.value.expose().starts_with(value)
        });
        warnings.extend(longer.map(|other| TableWarning::Prefix {
            shorter: secret.name.clone(),
            longer: other.name.clone(),
        }));
    }
    warnings
}

const _: () = assert!(PLACEHOLDER_LEN > PLACEHOLDER_PREFIX.len());

#[cfg(test)]
mod tests;
