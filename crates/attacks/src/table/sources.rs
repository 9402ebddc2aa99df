//! Which tests try which attack, as the sources say it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;

/// Where the attacks are that run inside sandboxes.
const GUEST: &str = "crates/attacks/guest";
/// Tests here are called by one of them, and are none for the compiler.
const OWN_TESTS: &str = "crates/attacks/tests";
const COMMENT: &str = "/// ";

/// Tests by the id of what they try.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<String, Vec<Place>>);

/// A function of a file, by its path from the root of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    path: String,
    function: String,
}

impl Place {
    /// A function of a file.
    pub fn new(path: &str, function: &str) -> Self {
        Self {
            path: path.to_owned(),
            function: function.to_owned(),
        }
    }

    /// A link from a page in `docs`.
    pub(super) fn link(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        format!("[{name}](../{}) `{}`", self.path, self.function)
    }
}

impl Sources {
    /// Reads all sources below a workspace.
    pub fn read(workspace: &Path) -> anyhow::Result<Self> {
        let mut sources = Self::default();
        let mut directories = vec!["crates".to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs_err::read_dir(workspace.join(&directory))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = format!("{directory}/{name}");
                if entry.file_type()?.is_dir() {
                    directories.push(path);
                } else if Path::new(&name)
                    .extension()
                    .is_some_and(|extension| extension == "rs")
                {
                    sources.read_rust(&path, &fs_err::read_to_string(entry.path())?)?;
                } else if path.starts_with(GUEST)
                    && name.starts_with("cases_")
                    && Path::new(&name)
                        .extension()
                        .is_some_and(|extension| extension == "py")
                {
                    sources.read_python(&path, &fs_err::read_to_string(entry.path())?);
                }
            }
        }
        for places in sources.0.values_mut() {
            places.sort();
            places.dedup();
        }
        Ok(sources)
    }

    /// What tries an attack.
    pub fn places(&self, id: &str) -> &[Place] {
        self.0.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Everything that some test says it tries.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether an attack runs inside a sandbox.
    pub fn is_in_guest(&self, id: &str) -> bool {
        self.places(id)
            .iter()
            .any(|place| place.path.starts_with(GUEST))
    }

    pub(super) fn add(&mut self, id: &str, place: Place) {
        self.0.entry(id.to_owned()).or_default().push(place);
    }

    fn read_rust(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let said = line.strip_prefix(COMMENT).and_then(ids_before_colon);
            let Some(ids) = said else {
                continue;
            };
            let rest = lines.get(number..).unwrap_or_default();
            let function = rest.iter().find_map(|line| function_name(line));
            let until = rest.iter().position(|line| function_name(line).is_some());
            let between = rest.get(..until.unwrap_or_default()).unwrap_or_default();
            let is_test = path.starts_with(OWN_TESTS)
                || between
                    .iter()
                    .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
            let place = format!("{path}:{}", number + 1);
            ensure!(is_test, "{place} names an attack above what is no test");
            for id in ids {
                self.add(id, Place::new(path, function.unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn read_python(&mut self, path: &str, text: &str) {
        for line in text.lines() {
            let name = line
                .strip_prefix("def ")
                .and_then(|line| line.split('(').next());
            let Some(name) = name else {
                continue;
            };
            let id = name.to_uppercase().replace('_', "-");
            if is_id(&id) {
                self.add(&id, Place::new(path, name));
            }
        }
    }
}

/// The ids that a comment begins with, if it does: `NET-01, TLS-02: …`.
fn ids_before_colon(comment: &str) -> Option<Vec<&str>> {
    let (ids, _) = comment.split_once(':')?;
    let ids: Vec<&str> = ids.split(", ").collect();
    ids.iter().all(|id| is_id(id)).then_some(ids)
}

/// Capital letters, a hyphen and two digits.
fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(chapter, number)| {
        !chapter.is_empty()
            && chapter.bytes().all(|byte| byte.is_ascii_uppercase())
            && number.len() == 2
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn function_name(line: &str) -> Option<&str> {
    let words = ["async ", "fn "];
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let [asynchronous, function] = words;
    let line = line.strip_prefix(asynchronous).unwrap_or(line);
    line.strip_prefix(function)?.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_what_is_said_above_them() {
        let text = "/// NET-01, TLS-02: a.\n/// More.\n#[tokio::test(flavor = \"x\")]\nasync fn one() {}\n\
                    /// NET-03.\n#[test]\nfn two() {}\n/// Not NET-04: a.\n#[test]\nfn three() {}\n";
        let mut sources = Sources::default();
        sources.read_rust("crates/x/src/lib.rs", text).unwrap();
        assert_eq!(sources.ids().collect::<Vec<_>>(), ["NET-01", "TLS-02"]);
        let place = Place::new("crates/x/src/lib.rs", "one");
        assert_eq!(sources.places("NET-01"), [place]);
        let wrong = "/// NET-01: a.\nfn helper() {}\n";
        assert!(sources.read_rust("crates/x/src/lib.rs", wrong).is_err());
        assert!(
            sources
                .read_rust("crates/attacks/tests/x.rs", wrong)
                .is_ok()
        );
    }

    #[test]
    fn functions_of_guests_are_named_after_attacks() {
        let mut sources = Sources::default();
        sources.read_python(
            "crates/attacks/guest/cases_a.py",
            "def net_01(guest):\n    pass\ndef helper():\n",
        );
        assert_eq!(sources.ids().collect::<Vec<_>>(), ["NET-01"]);
        assert!(sources.is_in_guest("NET-01"));
    }
}
