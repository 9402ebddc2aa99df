//! What changed within one turn, with what says nothing new left out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tombolo_guest_proto::v1::{WatchEvent, WatchKind};

/// Events after which a turn is to end, but for what was read already.
const EVENTS_ENOUGH: usize = 2048;
/// Events of one turn, as of a full directory that was moved here. Beyond, they
/// are too many to tell one by one.
const EVENTS_MAX: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The path that was asked for.
    shown: String,
    events: Vec<WatchEvent>,
    /// What was told last of a path.
    last: HashMap<PathBuf, WatchKind>,
    is_overflowing: bool,
}

impl Changes {
    pub(super) fn new(shown: &str) -> Self {
        Self {
            shown: shown.to_owned(),
            ..Self::default()
        }
    }

    /// Whether the turn is to end.
    pub(super) fn are_enough(&self) -> bool {
        self.events.len() >= EVENTS_ENOUGH
    }

    /// Some of what changed is not known.
    pub(super) fn overflow(&mut self) {
        self.is_overflowing = true;
    }

    /// Paths are relative to the one that was asked for.
    pub(super) fn tell(&mut self, kind: WatchKind, path: &Path, is_directory: bool) {
        if says_nothing_new(self.last.get(path).copied(), kind) {
            return;
        }
        self.push(kind, path, None, is_directory);
    }

    pub(super) fn renamed(&mut self, from: &Path, to: &Path, is_directory: bool) {
        self.last.remove(from);
        self.push(WatchKind::WatchRenamed, to, Some(from), is_directory);
    }

    fn push(&mut self, kind: WatchKind, path: &Path, from: Option<&Path>, is_directory: bool) {
        if self.events.len() >= EVENTS_MAX {
            self.overflow();
            return;
        }
        self.last.insert(path.to_owned(), kind);
        let event = WatchEvent {
            kind: kind.into(),
            path: self.show(path),
            from: from.map(|from| self.show(from)).unwrap_or_default(),
            is_directory,
        };
        self.events.push(event);
    }

    /// All of the turn, and that there was more.
    pub(super) fn take(&mut self) -> Vec<WatchEvent> {
        self.last.clear();
        let mut events = std::mem::take(&mut self.events);
        if std::mem::take(&mut self.is_overflowing) {
            events.push(WatchEvent {
                kind: WatchKind::WatchOverflow.into(),
                path: self.shown.clone(),
                from: String::new(),
                is_directory: true,
            });
        }
        events
    }

    fn show(&self, path: &Path) -> String {
        let below = path.to_string_lossy();
        match self.shown.as_str() {
            shown if below.is_empty() => shown.to_owned(),
            shown if shown.ends_with('/') => format!("{shown}{below}"),
            shown => format!("{shown}/{below}"),
        }
    }
}

/// Writing a file makes an event each time, and a new one is new as a whole.
fn says_nothing_new(last: Option<WatchKind>, kind: WatchKind) -> bool {
    use WatchKind::{WatchCreated, WatchMetadata, WatchModified};
    matches!(
        (last, kind),
        (
            Some(WatchCreated),
            WatchCreated | WatchModified | WatchMetadata
        ) | (Some(WatchModified), WatchModified)
            | (Some(WatchMetadata), WatchMetadata)
    )
}

#[cfg(test)]
mod tests {
    use super::WatchKind::{
        WatchCreated as Created, WatchMetadata as Metadata, WatchModified as Modified,
        WatchOverflow as Overflow, WatchRemoved as Removed, WatchRenamed as Renamed,
    };
    use super::*;

    fn kinds(changes: &mut Changes) -> Vec<(WatchKind, String)> {
        let events = changes.take().into_iter();
        events.map(|event| (event.kind(), event.path)).collect()
    }

    #[test]
    fn what_says_nothing_new_is_left_out() {
        let cases: [(&[WatchKind], &[WatchKind]); 6] = [
            (&[Created, Metadata, Modified, Modified], &[Created]),
            (&[Modified, Modified, Modified], &[Modified]),
            (&[Modified, Metadata, Metadata], &[Modified, Metadata]),
            (
                &[Modified, Metadata, Modified],
                &[Modified, Metadata, Modified],
            ),
            (&[Created, Removed, Created], &[Created, Removed, Created]),
            (&[Removed, Created, Modified], &[Removed, Created]),
        ];
        for (told, expected) in cases {
            let mut changes = Changes::new("/work");
            for kind in told {
                changes.tell(*kind, Path::new("a"), false);
                changes.tell(*kind, Path::new("b"), false);
            }
            let seen = kinds(&mut changes).into_iter();
            let seen: Vec<_> = seen.filter(|(_, path)| path == "/work/a").collect();
            let seen: Vec<_> = seen.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(seen, expected, "{told:?}");
        }
    }

    #[test]
    fn a_new_name_is_a_new_file() {
        let mut changes = Changes::new("work/");
        changes.tell(Created, Path::new("a"), false);
        changes.renamed(Path::new("a"), Path::new("b"), false);
        changes.tell(Created, Path::new("a"), false);
        changes.tell(Modified, Path::new("b"), false);
        changes.tell(Removed, Path::new(""), true);
        let told = [
            (Created, "work/a"),
            (Renamed, "work/b"),
            (Created, "work/a"),
            (Modified, "work/b"),
            (Removed, "work/"),
        ];
        assert_eq!(
            kinds(&mut changes),
            told.map(|(kind, path)| (kind, path.to_owned()))
        );
    }

    #[test]
    fn too_many_are_told_as_that_and_the_next_turn_begins_anew() {
        let mut changes = Changes::new(".");
        for number in 0..=EVENTS_MAX {
            changes.tell(Created, Path::new(&number.to_string()), false);
        }
        let told = kinds(&mut changes);
        assert_eq!(told.len(), EVENTS_MAX + 1);
        assert_eq!(told.last(), Some(&(Overflow, ".".to_owned())));
        changes.tell(Modified, Path::new("0"), false);
        assert_eq!(kinds(&mut changes), [(Modified, "./0".to_owned())]);
    }
}
