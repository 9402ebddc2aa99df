//! Where to copy from or to, as it was typed.

use tombolo_ids::SandboxId;

/// A path, on this machine or in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Local(String),
    Sandbox(SandboxId, String),
}

impl Place {
    /// `ID:PATH` is in a sandbox; everything else is a path here. (A file
    /// whose name looks like that can be written as `./…`.)
    pub(super) fn parse(given: &str) -> Self {
        if let Some((id, path)) = given.split_once(':')
            && let Ok(id) = id.parse::<SandboxId>()
        {
            let path = if path.is_empty() { "." } else { path };
            return Self::Sandbox(id, path.to_owned());
        }
        Self::Local(given.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sbx_ord_0123456789abcdefghjk";

    #[test]
    fn places_are_here_or_in_a_sandbox() {
        let id: SandboxId = ID.parse().unwrap();
        for (given, expected) in [
            ("a/b", Place::Local("a/b".to_owned())),
            ("a:b", Place::Local("a:b".to_owned())),
            (ID, Place::Local(ID.to_owned())),
            (
                &format!("{ID}:"),
                Place::Sandbox(id.clone(), ".".to_owned()),
            ),
            (
                &format!("{ID}:/a:b"),
                Place::Sandbox(id.clone(), "/a:b".to_owned()),
            ),
            (&format!("./{ID}:x"), Place::Local(format!("./{ID}:x"))),
        ] {
            assert_eq!(Place::parse(given), expected, "{given}");
        }
    }
}
