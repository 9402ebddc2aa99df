//! What is told of files that change.

use std::collections::{BTreeSet, HashSet};

use rustix::io::Errno;
use tombolo_guest_proto::v1::WatchKind::{
    self, WatchCreated as Created, WatchMetadata as Metadata, WatchModified as Modified,
    WatchOverflow as Overflow, WatchRemoved as Removed, WatchRenamed as Renamed,
    WatchUnwatched as Unwatched,
};
use tombolo_guest_proto::v1::{WatchEvent, WatchEventBatch, WatchRequest};
use tonic::{Status, Streaming};

use crate::support::{Guest, command, errno, is_root, within};

/// Below what is watched, before each case.
const BEFORE: &str = "rm -rf tree out; mkdir -p tree/dir/inner out/dir; cd tree; \
                      echo old > old; echo out > ../out/file; echo out > ../out/dir/file";
/// The last that is told of each case.
const END: &str = "end";

/// What is told: the kind, the path and the former path.
type Told<'a> = (WatchKind, &'a str, &'a str);

struct Watch(Streaming<WatchEventBatch>);

impl Watch {
    async fn begin(guest: &Guest, path: &str, recursive: bool) -> Result<Self, Status> {
        let request = WatchRequest {
            path: path.into(),
            recursive,
        };
        let batches = within(guest.client.clone().watch(request)).await?;
        Ok(Self(batches.into_inner()))
    }

    async fn batch(&mut self) -> Option<Vec<WatchEvent>> {
        let batch = within(self.0.message()).await.unwrap();
        batch.map(|batch| batch.events)
    }

    /// All until the end, or until this path appears.
    async fn until(&mut self, last: &str) -> Vec<WatchEvent> {
        let mut all = Vec::new();
        while let Some(events) = self.batch().await {
            for event in events {
                if event.path == last {
                    return all;
                }
                all.push(event);
            }
        }
        all
    }
}

/// What was told, less what may or may not be told of what is new, depending on
/// how quickly it came.
fn told(events: Vec<WatchEvent>) -> Vec<(WatchKind, String, String)> {
    let mut new = HashSet::new();
    let mut told = Vec::new();
    for event in events {
        let kind = event.kind();
        match kind {
            Created => drop(new.insert(event.path.clone())),
            Modified | Metadata if new.contains(&event.path) => continue,
            _ => {}
        }
        let this = (kind, event.path, event.from);
        if told.last() != Some(&this) {
            told.push(this);
        }
    }
    told
}

#[tokio::test]
async fn changes_are_told_as_what_they_are() {
    let guest = Guest::start().await;
    let cases: [(&str, &[Told<'_>]); 14] = [
        ("echo a > a", &[(Created, "a", "")]),
        ("echo b >> old", &[(Modified, "old", "")]),
        ("chmod 600 old", &[(Metadata, "old", "")]),
        ("rm old", &[(Removed, "old", "")]),
        ("mv old new", &[(Renamed, "new", "old")]),
        ("mv old dir/inner/new", &[(Renamed, "dir/inner/new", "old")]),
        ("mv old ../out", &[(Removed, "old", "")]),
        ("mv ../out/file in", &[(Created, "in", "")]),
        (
            "ln -s ../out link; echo x > ../out/x",
            &[(Created, "link", "")],
        ),
        (
            "mv dir other; echo x > other/inner/x",
            &[(Renamed, "other", "dir"), (Created, "other/inner/x", "")],
        ),
        (
            "mv dir ../out/away; echo x > ../out/away/inner/x",
            &[(Removed, "dir", "")],
        ),
        (
            "mv ../out/dir in; echo x >> in/file",
            &[(Created, "in", ""), (Created, "in/file", "")],
        ),
        (
            "rm -r dir",
            &[(Removed, "dir/inner", ""), (Removed, "dir", "")],
        ),
        (
            "rm old; mkdir old; echo x > old/x",
            &[
                (Removed, "old", ""),
                (Created, "old", ""),
                (Created, "old/x", ""),
            ],
        ),
    ];
    check(&guest, &cases).await;
}

#[tokio::test]
async fn directories_that_are_renamed_before_they_are_watched_are_found() {
    let guest = Guest::start().await;
    let cases: [(&str, &[Told<'_>]); 2] = [
        (
            "mkdir tmp; echo x > tmp/a; mv tmp pkg",
            &[
                (Created, "tmp", ""),
                (Renamed, "pkg", "tmp"),
                (Created, "pkg/a", ""),
            ],
        ),
        (
            "mkdir dir/fresh; mv dir other; echo x > other/fresh/x",
            &[
                (Created, "dir/fresh", ""),
                (Renamed, "other", "dir"),
                (Created, "other/fresh/x", ""),
            ],
        ),
    ];
    check(&guest, &cases).await;
}

/// What is told of each script is just what is expected.
async fn check(guest: &Guest, cases: &[(&str, &[Told<'_>])]) {
    for (script, expected) in cases {
        assert_eq!(guest.sh(BEFORE).await.reply.code, 0);
        let mut watch = Watch::begin(guest, "tree", true).await.unwrap();
        // What is told of one turn is told when it is over.
        let script = format!("cd tree; {script}; sync; mkdir {END}");
        assert_eq!(guest.sh(&script).await.reply.code, 0, "{script}");
        let seen = told(watch.until(&format!("tree/{END}")).await);
        let below = |path: &str| match path {
            "" => String::new(),
            path => format!("tree/{path}"),
        };
        let expected: Vec<_> = expected
            .iter()
            .map(|(kind, path, from)| (*kind, below(path), below(from)))
            .collect();
        assert_eq!(seen, expected, "{script}");
    }
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_told() {
    let guest = Guest::start().await;
    assert_eq!(guest.sh(BEFORE).await.reply.code, 0);
    let mut watch = Watch::begin(&guest, "tree/", false).await.unwrap();
    let script = format!("cd tree; echo x > dir/x; mkdir new; echo x > new/x; mkdir {END}");
    assert_eq!(guest.sh(&script).await.reply.code, 0);
    let seen = told(watch.until(&format!("tree/{END}")).await);
    assert_eq!(seen, [(Created, "tree/new".to_owned(), String::new())]);
}

#[tokio::test]
async fn a_watch_ends_with_what_it_watches() {
    let guest = Guest::start().await;
    let cases = [
        ("tree/old", "echo x >> tree/old; rm tree/old"),
        ("tree/old", "echo x >> tree/old; mv tree/old out"),
        ("tree", "rm -r tree"),
        ("tree", "mv tree gone"),
    ];
    for (path, script) in cases {
        assert_eq!(guest.sh(BEFORE).await.reply.code, 0);
        let absolute = guest.home.join(path);
        let absolute = absolute.to_str().unwrap();
        let mut watch = Watch::begin(&guest, absolute, true).await.unwrap();
        assert_eq!(guest.sh(script).await.reply.code, 0, "{script}");
        let seen = told(watch.until("").await);
        let last = (Removed, absolute.to_owned(), String::new());
        assert_eq!(seen.last(), Some(&last), "{script}: {seen:?}");
        guest.sh("rm -rf gone").await;
    }
}

/// Directories that appear faster than they can be watched are listed.
#[tokio::test]
async fn nothing_is_missed_in_directories_that_appear() {
    let guest = Guest::start().await;
    assert_eq!(guest.sh(BEFORE).await.reply.code, 0);
    let mut watch = Watch::begin(&guest, "tree", true).await.unwrap();
    let script = format!(
        "cd tree; for i in $(seq 100); do mkdir -p d$i/e/f; echo x > d$i/e/f/g; done; mkdir {END}"
    );
    assert_eq!(guest.sh(&script).await.reply.code, 0);
    let seen = told(watch.until(&format!("tree/{END}")).await);
    let mut expected = BTreeSet::new();
    for number in 1..=100 {
        for below in ["", "/e", "/e/f", "/e/f/g"] {
            expected.insert(format!("tree/d{number}{below}"));
        }
    }
    assert_eq!(seen.len(), expected.len(), "nothing is told twice");
    let created = seen.into_iter().filter(|(kind, ..)| *kind == Created);
    let created: BTreeSet<_> = created.map(|(_, path, _)| path).collect();
    assert_eq!(created, expected);
}

#[tokio::test]
async fn what_cannot_be_watched_is_told() {
    let guest = Guest::start().await;
    assert_eq!(guest.sh(BEFORE).await.reply.code, 0);
    let missing = Watch::begin(&guest, "nothing", true).await.map(drop);
    assert_eq!(errno(&missing), Errno::NOENT.raw_os_error());
    if is_root() {
        let closed = guest.home.join("tree/closed");
        fs_err::create_dir_all(closed.join("below")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(&closed, mode).unwrap();
        let refused = Watch::begin(&guest, "tree/closed", true).await.map(drop);
        assert_eq!(errno(&refused), Errno::ACCESS.raw_os_error());
        let mut watch = Watch::begin(&guest, "tree", true).await.unwrap();
        let expected = (Unwatched, "tree/closed".to_owned(), String::new());
        assert_eq!(told(watch.batch().await.unwrap()), [expected]);
    }
    let mut watches = Vec::new();
    let full = loop {
        match Watch::begin(&guest, "tree/dir", false).await {
            Ok(watch) => watches.push(watch),
            Err(status) => break Err::<(), _>(status),
        }
    };
    assert_eq!(errno(&full), Errno::MFILE.raw_os_error());
    assert!(watches.len() >= 30, "{}", watches.len());
}

/// Who does not listen is told that there was more, and hears of what comes next.
#[tokio::test]
async fn too_many_changes_are_told_as_that() {
    let guest = Guest::start().await;
    // Where making so many takes no time.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs_err::set_permissions(directory.path(), mode).unwrap();
    let tree = directory.path().to_str().unwrap();
    let mut watch = Watch::begin(&guest, tree, true).await.unwrap();
    let bound = fs_err::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let count = bound.trim().parse::<usize>().unwrap() + 8192;
    let script = format!(
        "import os\n\
         for at in range({count}):\n    \
             name = '{tree}/' + 'long' * 50 + str(at)\n    \
             os.mkdir(name)\n    \
             os.rmdir(name)\n\
         os.mkdir('{tree}/new')\n"
    );
    let made = guest.run(command("python3", &["-c", &script])).await;
    assert_eq!(made.reply.code, 0, "{made:?}");
    let mut seen = watch.batch().await.unwrap();
    while !seen.iter().any(|event| event.kind() == Overflow) {
        seen = watch.batch().await.unwrap();
    }
    let script = format!("echo x > {tree}/new/x; mkdir {tree}/{END}");
    assert_eq!(guest.sh(&script).await.reply.code, 0);
    let seen = told(watch.until(&format!("{tree}/{END}")).await);
    let expected = (Created, format!("{tree}/new/x"), String::new());
    assert!(seen.contains(&expected), "{} others", seen.len());
}
