//! The kernel's watches of one call, and what it tells by them, inotify(7).
//!
//! The kernel watches single directories. Below a path that is watched with all
//! below it, each directory that appears gets a watch and is listed afterwards,
//! so that what was made in it meanwhile is told too; what the kernel then says
//! of the same is left out. Blocks, and runs with the rights of the sandbox's
//! user.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tombolo_guest_proto::v1::{WatchEvent, WatchKind};

use super::changes::Changes;

/// Directories of one call.
const WATCHES_MAX: usize = 8192;
/// Entries whose event may still come although they were told.
const LISTED_MAX: usize = 4096;
const BUFFER_LEN: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Tree {
    inotify: Arc<OwnedFd>,
    /// On disk.
    root: PathBuf,
    root_watch: i32,
    is_directory: bool,
    /// Whether what is below directories below is watched, too.
    is_recursive: bool,
    /// Relative to the root, which is empty.
    paths: HashMap<i32, PathBuf>,
    watches: BTreeMap<PathBuf, i32>,
    /// What was moved away, until it is known whether it was moved to here.
    moving: Option<Moving>,
    burst: Burst,
    changes: Changes,
    is_over: bool,
}

/// What is known until the kernel has said all that it has to say.
#[derive(Debug, Default)]
struct Burst {
    /// What was told because it was found, so that it is not told again.
    listed: HashSet<PathBuf>,
    /// Whether a directory was gone before it could be watched: it may have another name.
    is_missing_some: bool,
}

#[derive(Debug)]
struct Moving {
    cookie: u32,
    path: PathBuf,
    is_directory: bool,
}

/// What one turn came to.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) events: Vec<WatchEvent>,
    /// Whether the kernel may have more.
    pub(super) has_more: bool,
    /// Whether nothing is there any more.
    pub(super) is_over: bool,
}

/// What the kernel said.
struct Said {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<PathBuf>,
}

impl Tree {
    /// Watches from now on, and answers with what is to be told at once.
    pub(super) fn open(
        root: PathBuf,
        shown: &str,
        is_recursive: bool,
    ) -> Result<(Self, Vec<WatchEvent>), Errno> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let root_watch = inotify::add_watch(&inotify, &root, wanted())?;
        let is_directory = root.is_dir();
        let mut tree = Self {
            inotify: Arc::new(inotify),
            root,
            root_watch,
            is_directory,
            is_recursive: is_recursive && is_directory,
            paths: HashMap::new(),
            watches: BTreeMap::new(),
            moving: None,
            burst: Burst::default(),
            changes: Changes::new(shown),
            is_over: false,
        };
        tree.map(root_watch, PathBuf::new());
        if tree.is_recursive {
            tree.scan(PathBuf::new(), false)?;
        }
        let events = tree.changes.take();
        Ok((tree, events))
    }

    /// Readable when the kernel has something to tell.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.inotify)
    }

    /// Tells what the kernel has said so far, or as much as is told at once.
    pub(super) fn turn(&mut self) -> Result<Turn, Errno> {
        let inotify = Arc::clone(&self.inotify);
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_LEN];
        let mut reader = Reader::new(&*inotify, &mut buffer);
        let has_more = loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()));
                    let said = Said {
                        watch: event.wd(),
                        flags: event.events(),
                        cookie: event.cookie(),
                        name: name.map(PathBuf::from),
                    };
                    self.apply(&said);
                }
                Err(Errno::AGAIN) => break false,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            // What was read of the kernel is in the buffer alone.
            if self.is_over || (reader.is_buffer_empty() && self.changes.are_enough()) {
                break !self.is_over;
            }
        };
        if !has_more {
            self.settle();
            self.burst = Burst::default();
        }
        Ok(Turn {
            events: self.changes.take(),
            has_more,
            is_over: self.is_over,
        })
    }

    fn apply(&mut self, said: &Said) {
        // The two halves of a move follow each other.
        let arrived = said.flags.contains(ReadFlags::MOVED_TO);
        let moving = self
            .moving
            .take_if(|moving| arrived && moving.cookie == said.cookie);
        self.settle();
        if said.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.start_anew();
            return;
        }
        if said.flags.contains(ReadFlags::IGNORED) {
            self.unmap(said.watch);
            if said.watch == self.root_watch {
                self.end();
            }
            return;
        }
        let Some(directory) = self.paths.get(&said.watch) else {
            return;
        };
        match &said.name {
            Some(name) => {
                let path = directory.join(name);
                self.apply_below(said, path, moving);
            }
            // Of a directory below, its own directory tells.
            None if said.watch == self.root_watch => self.apply_to_root(said.flags),
            None => {}
        }
    }

    fn apply_to_root(&mut self, flags: ReadFlags) {
        let (root, is_directory) = (Path::new(""), self.is_directory);
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
            self.end();
        } else if flags.contains(ReadFlags::MODIFY) {
            self.changes
                .tell(WatchKind::WatchModified, root, is_directory);
        } else if flags.contains(ReadFlags::ATTRIB) {
            self.changes
                .tell(WatchKind::WatchMetadata, root, is_directory);
        }
    }

    fn apply_below(&mut self, said: &Said, path: PathBuf, moving: Option<Moving>) {
        let is_directory = said.flags.contains(ReadFlags::ISDIR);
        if let Some(moving) = moving {
            self.changes.renamed(&moving.path, &path, is_directory);
            if is_directory {
                self.rebase(&moving.path, &path);
                if self.burst.is_missing_some {
                    self.find_missing(path);
                }
            }
            return;
        }
        if said
            .flags
            .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
        {
            self.appeared(path, is_directory);
        } else if said.flags.contains(ReadFlags::DELETE) {
            self.burst.listed.remove(&path);
            self.changes
                .tell(WatchKind::WatchRemoved, &path, is_directory);
        } else if said.flags.contains(ReadFlags::MOVED_FROM) {
            self.burst.listed.remove(&path);
            self.moving = Some(Moving {
                cookie: said.cookie,
                path,
                is_directory,
            });
        } else if said.flags.contains(ReadFlags::MODIFY) {
            self.changes
                .tell(WatchKind::WatchModified, &path, is_directory);
        } else if said.flags.contains(ReadFlags::ATTRIB) {
            self.changes
                .tell(WatchKind::WatchMetadata, &path, is_directory);
        }
    }

    fn appeared(&mut self, path: PathBuf, is_directory: bool) {
        if self.burst.listed.remove(&path) {
            return;
        }
        self.changes
            .tell(WatchKind::WatchCreated, &path, is_directory);
        if is_directory && self.is_recursive {
            // Whatever is not watched is told as that.
            self.scan(path, true).unwrap_or_default();
        }
    }

    /// Watches a directory and all below. What is there is told if `is_new`.
    /// Fails when there are too many, and tells of those that are not watched
    /// for another reason.
    fn scan(&mut self, directory: PathBuf, is_new: bool) -> Result<(), Errno> {
        let mut outcome = Ok(());
        let mut waiting = vec![directory];
        while let Some(directory) = waiting.pop() {
            match self.add(&directory) {
                Ok(()) => {}
                // Removed since, replaced, or moved: the kernel will say so.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    self.burst.is_missing_some = true;
                    continue;
                }
                Err(errno) => {
                    if errno == Errno::NOSPC {
                        outcome = Err(errno);
                    }
                    self.changes
                        .tell(WatchKind::WatchUnwatched, &directory, true);
                    continue;
                }
            }
            let Ok(entries) = std::fs::read_dir(self.on_disk(&directory)) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = directory.join(entry.file_name());
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_new {
                    self.listed(&path, is_directory);
                }
                if is_directory && outcome.is_ok() {
                    waiting.push(path);
                }
            }
        }
        outcome
    }

    /// Watches what is below a directory that was moved and had no watch yet, and tells
    /// what is in there.
    fn find_missing(&mut self, directory: PathBuf) {
        let mut waiting = vec![directory];
        while let Some(directory) = waiting.pop() {
            if !self.watches.contains_key(&directory) {
                // Whatever is not watched is told as that.
                self.scan(directory, true).unwrap_or_default();
                continue;
            }
            let Ok(entries) = std::fs::read_dir(self.on_disk(&directory)) else {
                continue;
            };
            let directories = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(directories.map(|entry| directory.join(entry.file_name())));
        }
    }

    /// Tells of what was found in a directory that is new.
    fn listed(&mut self, path: &Path, is_directory: bool) {
        self.changes
            .tell(WatchKind::WatchCreated, path, is_directory);
        if self.burst.listed.len() < LISTED_MAX {
            self.burst.listed.insert(path.to_owned());
        }
    }

    fn add(&mut self, directory: &Path) -> Result<(), Errno> {
        if directory.as_os_str().is_empty() {
            // It is watched from the beginning.
            return Ok(());
        }
        if self.watches.len() >= WATCHES_MAX && !self.watches.contains_key(directory) {
            return Err(Errno::NOSPC);
        }
        let flags = wanted() | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        let watch = inotify::add_watch(&*self.inotify, self.on_disk(directory), flags)?;
        self.map(watch, directory.to_owned());
        Ok(())
    }

    fn map(&mut self, watch: i32, path: PathBuf) {
        if let Some(former) = self.paths.insert(watch, path.clone()) {
            self.watches.remove(&former);
        }
        self.watches.insert(path, watch);
    }

    fn unmap(&mut self, watch: i32) {
        if let Some(path) = self.paths.remove(&watch)
            && self.watches.get(&path) == Some(&watch)
        {
            self.watches.remove(&path);
        }
    }

    /// The watches of a directory and of those below.
    fn below(&self, directory: &Path) -> Vec<(PathBuf, i32)> {
        let range = self.watches.range(directory.to_owned()..);
        let below = range.take_while(|(path, _)| path.starts_with(directory));
        below.map(|(path, watch)| (path.clone(), *watch)).collect()
    }

    /// A directory has another path, and so has what is below.
    fn rebase(&mut self, from: &Path, to: &Path) {
        for (path, watch) in self.below(from) {
            if let Ok(rest) = path.strip_prefix(from) {
                let rest = rest.to_owned();
                let path = if rest.as_os_str().is_empty() {
                    to.to_owned()
                } else {
                    to.join(rest)
                };
                self.map(watch, path);
            }
        }
    }

    /// What was moved away and not to here is gone.
    fn settle(&mut self) {
        let Some(moving) = self.moving.take() else {
            return;
        };
        self.changes
            .tell(WatchKind::WatchRemoved, &moving.path, moving.is_directory);
        if moving.is_directory {
            for (_, watch) in self.below(&moving.path) {
                self.forget(watch);
            }
        }
    }

    fn forget(&mut self, watch: i32) {
        self.unmap(watch);
        // It may be gone by itself.
        inotify::remove_watch(&*self.inotify, watch).unwrap_or_default();
    }

    /// The kernel lost count: whatever is there now is watched.
    fn start_anew(&mut self) {
        self.changes.overflow();
        let root_watch = self.root_watch;
        let former = std::mem::take(&mut self.paths);
        self.watches.clear();
        self.burst.listed.clear();
        self.map(root_watch, PathBuf::new());
        if self.is_recursive {
            self.scan(PathBuf::new(), false).unwrap_or_default();
        }
        for watch in former.into_keys() {
            if !self.paths.contains_key(&watch) {
                self.forget(watch);
            }
        }
    }

    fn end(&mut self) {
        if !self.is_over {
            let root = Path::new("");
            self.changes
                .tell(WatchKind::WatchRemoved, root, self.is_directory);
            self.is_over = true;
        }
    }

    fn on_disk(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

/// What the kernel is to tell. Who reads files changes nothing.
fn wanted() -> WatchFlags {
    WatchFlags::ATTRIB
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MODIFY
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVE_SELF
        | WatchFlags::EXCL_UNLINK
}
