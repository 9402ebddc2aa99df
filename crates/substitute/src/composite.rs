//! What was made of a value while a request was substituted, and so could come
//! back although the value itself does not: the token of Basic.

use std::{collections::VecDeque, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

use crate::{
    needle::{Needle, url_safe},
    scrub::{Automaton, BuildAutomatonError},
};

/// How many composites of one sandbox are remembered; the oldest are forgotten.
pub const COMPOSITES_MAX: usize = 64;
/// The longest that is remembered, in bytes. In a longer one, the value alone
/// is still recognised.
const COMPOSITE_LEN_MAX: usize = 1024;

/// A text that contains a value in a form of its own, and what the guest knows
/// in its place.
#[derive(Clone)]
pub struct Composite(Needle);

impl Composite {
    /// The token of `Authorization: Basic`.
    pub(crate) fn basic(user_and_password: &[u8], shown: &str) -> Self {
        // Without padding, so that it is found with and without.
        let real = STANDARD_NO_PAD.encode(user_and_password).into_bytes();
        let shown = shown.trim_end_matches('=').as_bytes().to_vec();
        Self(Needle::new(real, shown))
    }

    /// A text of the caller's making: a signature, a token that a host gave.
    #[must_use]
    pub fn new(real: Zeroizing<Vec<u8>>, shown: Vec<u8>) -> Option<Self> {
        (!real.is_empty()).then(|| Self(Needle::from_zeroizing(real, shown)))
    }
}

impl fmt::Debug for Composite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Composite(hidden)")
    }
}

/// The composites of one sandbox. Register what a request made before it is
/// sent; responses that begin later are searched for it.
#[derive(Clone, Debug, Default)]
pub struct Composites {
    recent: VecDeque<Composite>,
    automaton: Option<Arc<Automaton>>,
}

impl Composites {
    /// Remembers a composite.
    pub fn register(&mut self, composite: Composite) -> Result<(), BuildAutomatonError> {
        let real = composite.0.real();
        if real.len() > COMPOSITE_LEN_MAX || self.recent.iter().any(|known| known.0.real() == real)
        {
            return Ok(());
        }
        if self.recent.len() == COMPOSITES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(composite);
        let needles = self.recent.iter().flat_map(|composite| {
            let needle = composite.0.clone();
            let url = url_safe(needle.real());
            let url = url.map(|real| Needle::new(real, needle.shown().to_vec()));
            [Some(needle), url]
        });
        self.automaton = Automaton::build(needles.flatten().collect())?.map(Arc::new);
        Ok(())
    }

    pub(crate) fn automaton(&self) -> Option<Arc<Automaton>> {
        self.automaton.clone()
    }
}
