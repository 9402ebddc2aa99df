//! What was found in a request, for the audit record. Never a value.

use tombolo_secret::SecretName;

use crate::{IneligibleReason, Slot};

/// One kind of placeholder in one slot, with how often it was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Became its value.
    Substituted {
        /// Whose value.
        secret: SecretName,
        /// Where.
        slot: Slot,
        /// How often.
        count: u32,
    },
    /// One of this sandbox's placeholders, left as it was.
    Ineligible {
        /// Whose placeholder.
        secret: SecretName,
        /// Where.
        slot: Slot,
        /// Why it was left.
        reason: IneligibleReason,
        /// How often.
        count: u32,
    },
    /// Looks like a placeholder and is none of this sandbox: another's, an old
    /// one, or a guess. Left as it was.
    Foreign {
        /// Where.
        slot: Slot,
        /// How often.
        count: u32,
    },
}

impl Finding {
    fn count(&mut self) -> &mut u32 {
        match self {
            Self::Substituted { count, .. }
            | Self::Ineligible { count, .. }
            | Self::Foreign { count, .. } => count,
        }
    }

    fn is_same_kind(&self, other: &Self) -> bool {
        let normal = |finding: &Self| {
            let mut finding = finding.clone();
            *finding.count() = 0;
            finding
        };
        normal(self) == normal(other)
    }
}

/// What was found in one request. It has at most one entry for each kind, so
/// it is bounded by the number of secrets and slots, however long a body is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Each kind once, in the order of first appearance.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many placeholders became values.
    #[must_use]
    pub fn substituted(&self) -> u32 {
        let counts = self.0.iter().map(|finding| match finding {
            Finding::Substituted { count, .. } => *count,
            Finding::Ineligible { .. } | Finding::Foreign { .. } => 0,
        });
        counts.fold(0, u32::saturating_add)
    }

    /// Adds what was found elsewhere in the same request.
    pub fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|finding| self.add(finding));
    }

    pub(crate) fn add(&mut self, mut finding: Finding) {
        let count = *finding.count();
        match self.0.iter_mut().find(|known| known.is_same_kind(&finding)) {
            Some(known) => {
                let sum = known.count().saturating_add(count);
                *known.count() = sum;
            }
            None => self.0.push(finding),
        }
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
