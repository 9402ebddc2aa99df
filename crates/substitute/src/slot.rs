//! Where in a request a placeholder may stand.

use std::fmt;

/// One kind of place in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Slot {
    /// The value of a header, except those that servers echo or log, those that
    /// frame the message, and cookies.
    Header = 1,
    /// User or password of `Authorization: Basic` (RFC 7617), behind its base64.
    Basic = 1 << 1,
    /// The value of the header `Cookie`.
    Cookie = 1 << 2,
    /// The value of a query parameter. Never its name.
    Query = 1 << 3,
    /// A segment of the path.
    Path = 1 << 4,
    /// A string of a JSON body, keys included.
    Json = 1 << 5,
    /// The value of a field of a form. Never its name.
    Form = 1 << 6,
    /// Anywhere in a body of text or XML.
    Text = 1 << 7,
    /// Text parts of a `multipart` body.
    Multipart = 1 << 8,
    /// Text messages that the guest sends on a WebSocket.
    WebSocket = 1 << 9,
}

impl Slot {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Header,
        Self::Basic,
        Self::Cookie,
        Self::Query,
        Self::Path,
        Self::Json,
        Self::Form,
        Self::Text,
        Self::Multipart,
        Self::WebSocket,
    ];

    /// Its name in configuration and audit records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Basic => "basic",
            Self::Cookie => "cookie",
            Self::Query => "query",
            Self::Path => "path",
            Self::Json => "json",
            Self::Form => "form",
            Self::Text => "text",
            Self::Multipart => "multipart",
            Self::WebSocket => "websocket",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of slots. By default [`Slot::Header`] and [`Slot::Basic`]: what a
/// server answers with or stores comes from the other places.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slots(u16);

impl Slots {
    /// No slot at all: for a secret that is only injected.
    pub const NONE: Self = Self(0);

    /// This set and one more.
    #[must_use]
    pub const fn with(self, slot: Slot) -> Self {
        Self(self.0 | slot as u16)
    }

    /// Whether a slot is in it.
    #[must_use]
    pub const fn contains(self, slot: Slot) -> bool {
        self.0 & slot as u16 != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::NONE.with(Slot::Header).with(Slot::Basic)
    }
}

impl FromIterator<Slot> for Slots {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        slots.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = Slot::ALL.into_iter().filter(|slot| self.contains(*slot));
        f.debug_set().entries(members).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_its_own_bit() {
        for one in Slot::ALL {
            for other in Slot::ALL {
                let set = Slots::NONE.with(one);
                assert_eq!(set.contains(other), one == other, "{one} {other}");
            }
        }
        let default = Slot::ALL
            .into_iter()
            .filter(|s| Slots::default().contains(*s));
        assert!(default.eq([Slot::Header, Slot::Basic]));
    }
}
