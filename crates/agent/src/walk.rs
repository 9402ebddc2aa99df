//! Walking a tree of files as `walk` of Deno's standard library does.
//!
//! The tree is whatever programs of the guest made, and may change meanwhile.
//! A walk holds one open directory per level and nothing else, and runs in
//! turns: between two of them it holds no thread.

use std::ffi::{OsStr, OsString};
use std::fs::ReadDir;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use rustix::fs::{FileType, lstat, stat};
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tombolo_guest_proto::BATCH_ENTRIES_MAX;
use tombolo_guest_proto::v1::{WalkEntry, WalkEntryBatch, WalkRequest};
use tonic::Status;

use crate::fault::{CallError, Cause, at, blocking};
use crate::files::Files;
use crate::jspath::{basename, join, normalize};
use crate::pattern::{Pattern, Text};

/// No path is deeper than this; only links that lead back up are.
const DEPTH_MAX: usize = 2048;
/// Entries looked at in one turn, whether or not they are wanted.
const LOOKS_PER_TURN: usize = 8192;
/// Walks and globs that compute at one time.
const TURNS_MAX: usize = 8;
const TURN_WAIT_MAX: Duration = Duration::from_mins(1);

/// Bounds how many walks compute at once: one whose pattern never comes to an
/// end keeps its thread for good, and must not take all there are.
#[derive(Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS_MAX)))
    }
}

impl Turns {
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Runs `work` where it may block, when it is its turn.
    pub(crate) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = timeout(TURN_WAIT_MAX, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(CallError::errno("walk", "", Errno::AGAIN).into());
        };
        blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
    }
}

/// What a walk yields, before it becomes text.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: OsString,
    pub(crate) name: OsString,
    pub(crate) kind: FileType,
}

impl From<Found> for WalkEntry {
    fn from(found: Found) -> Self {
        Self {
            path: found.path.to_string_lossy().into_owned(),
            name: found.name.to_string_lossy().into_owned(),
            is_file: found.kind.is_file(),
            is_directory: found.kind.is_dir(),
            is_symlink: found.kind.is_symlink(),
        }
    }
}

/// How to walk, and what to yield of it.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent option of the library's"
)]
pub(crate) struct WalkOptions {
    /// Where relative paths start.
    pub(crate) home: PathBuf,
    pub(crate) operation: &'static str,
    pub(crate) max_depth: Option<u32>,
    pub(crate) include_files: bool,
    pub(crate) include_dirs: bool,
    pub(crate) include_symlinks: bool,
    pub(crate) follow_symlinks: bool,
    pub(crate) canonicalize: bool,
    pub(crate) exts: Option<Vec<String>>,
    pub(crate) matching: Option<Vec<Pattern>>,
    pub(crate) skip: Arc<[Pattern]>,
}

impl WalkOptions {
    fn compile(request: &WalkRequest, home: PathBuf) -> Result<Self, CallError> {
        let with_dot = |ext: &String| {
            if ext.starts_with('.') {
                ext.clone()
            } else {
                format!(".{ext}")
            }
        };
        let exts: Vec<String> = request.exts.iter().map(with_dot).collect();
        let matching = Pattern::compile_all("walk", &request.r#match)?;
        Ok(Self {
            home,
            operation: "walk",
            max_depth: request.max_depth,
            include_files: request.include_files,
            include_dirs: request.include_dirs,
            include_symlinks: request.include_symlinks,
            follow_symlinks: request.follow_symlinks,
            canonicalize: request.canonicalize,
            exts: request.has_exts.then_some(exts),
            matching: request.has_match.then_some(matching),
            skip: Pattern::compile_all("walk", &request.skip)?.into(),
        })
    }

    fn includes(&self, path: &OsStr) -> bool {
        let text = Text::new(path);
        if let Some(exts) = &self.exts
            && !exts.iter().any(|ext| text.as_str().ends_with(ext.as_str()))
        {
            return false;
        }
        if let Some(matching) = &self.matching
            && !matching.iter().any(|pattern| pattern.is_match(&text))
        {
            return false;
        }
        !self.skips_text(&text)
    }

    fn skips(&self, path: &OsStr) -> bool {
        !self.skip.is_empty() && self.skips_text(&Text::new(path))
    }

    fn skips_text(&self, text: &Text<'_>) -> bool {
        self.skip.iter().any(|pattern| pattern.is_match(text))
    }

    /// What the kernel is asked for: it knows nothing of the user's home.
    pub(crate) fn on_disk(&self, path: &OsStr) -> PathBuf {
        if path.is_empty() {
            PathBuf::new()
        } else {
            self.home.join(path)
        }
    }
}

/// A walk under way.
#[derive(Debug)]
pub(crate) struct Walker {
    options: WalkOptions,
    /// Where the walk has yet to begin.
    root: Option<OsString>,
    levels: Vec<Level>,
    failed: Option<CallError>,
}

#[derive(Debug)]
struct Level {
    path: OsString,
    entries: ReadDir,
}

/// What one look at the tree came to.
#[derive(Debug)]
pub(crate) enum Step {
    Wanted(Found),
    Unwanted,
    End,
}

impl Step {
    fn of(found: Option<Found>) -> Self {
        found.map_or(Self::Unwanted, Self::Wanted)
    }
}

impl Walker {
    pub(crate) fn new(options: WalkOptions, root: &OsStr) -> Self {
        Self {
            options,
            root: Some(root.to_owned()),
            levels: Vec::new(),
            failed: None,
        }
    }

    /// Looks at one more entry.
    pub(crate) fn step(&mut self) -> Result<Step, CallError> {
        if let Some(root) = self.root.take() {
            return self.enter(root).map(Step::of);
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(Step::End);
        };
        let Some(entry) = level.entries.next() else {
            self.levels.pop();
            return Ok(Step::Unwanted);
        };
        let operation = self.options.operation;
        let entry = entry.map_err(|error| fail(operation, &level.path, error))?;
        let name = entry.file_name();
        let path = join(&level.path, &name);
        let kind = match entry.file_type() {
            Ok(kind) => kind_of(kind),
            // Removed since.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Step::Unwanted);
            }
            Err(error) => return Err(fail(operation, &path, error)),
        };
        self.visit(Found { path, name, kind }).map(Step::of)
    }

    fn visit(&mut self, mut found: Found) -> Result<Option<Found>, CallError> {
        let mut kind = found.kind;
        if kind.is_symlink() {
            if !self.options.follow_symlinks {
                let wanted = self.options.include_symlinks && self.options.includes(&found.path);
                return Ok(wanted.then_some(found));
            }
            let real = std::fs::canonicalize(self.options.on_disk(&found.path));
            let real = real.map_err(|error| fail(self.options.operation, &found.path, error))?;
            let stat = lstat(&real);
            let stat = stat.map_err(|errno| fail(self.options.operation, &found.path, errno))?;
            kind = FileType::from_raw_mode(stat.st_mode);
            // The library passes the option on to no level below the first.
            if self.options.canonicalize || self.levels.len() > 1 {
                found.path = real.into_os_string();
            }
        }
        if kind.is_symlink() || kind.is_dir() {
            return self.enter(found.path);
        }
        let wanted = self.options.include_files && self.options.includes(&found.path);
        Ok(wanted.then_some(found))
    }

    /// Begins the directory `path`; yields it when it is wanted.
    fn enter(&mut self, path: OsString) -> Result<Option<Found>, CallError> {
        let found = if self.options.include_dirs && self.options.includes(&path) {
            Some(self.entry(&path)?)
        } else {
            None
        };
        let depth = self.levels.len();
        let at_bottom = self
            .options
            .max_depth
            .is_some_and(|max| depth >= max as usize);
        if at_bottom || self.options.skips(&path) {
            return Ok(found);
        }
        if depth >= DEPTH_MAX {
            return Err(fail(self.options.operation, &path, Errno::LOOP));
        }
        let entries = std::fs::read_dir(self.options.on_disk(&path));
        let entries = entries.map_err(|error| fail(self.options.operation, &path, error))?;
        self.levels.push(Level { path, entries });
        Ok(found)
    }

    /// The entry of a path that was not read from a directory.
    pub(crate) fn entry(&self, path: &OsStr) -> Result<Found, CallError> {
        entry_of(&self.options, path)
    }

    fn turn(mut self) -> Result<(WalkEntryBatch, Option<Self>), CallError> {
        let mut batch = WalkEntryBatch::default();
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        for _ in 0..LOOKS_PER_TURN {
            match self.step() {
                Err(error) if batch.entries.is_empty() => return Err(error),
                Err(error) => {
                    // What was found before comes first.
                    self.failed = Some(error);
                    break;
                }
                Ok(Step::End) => return Ok((batch, None)),
                Ok(Step::Unwanted) => {}
                Ok(Step::Wanted(found)) => {
                    batch.entries.push(found.into());
                    if batch.entries.len() >= BATCH_ENTRIES_MAX {
                        break;
                    }
                }
            }
        }
        Ok((batch, Some(self)))
    }
}

/// What `path` is, links followed.
pub(crate) fn entry_of(options: &WalkOptions, path: &OsStr) -> Result<Found, CallError> {
    let path = normalize(path);
    let stat = stat(options.on_disk(&path));
    let stat = stat.map_err(|errno| fail(options.operation, &path, errno))?;
    Ok(Found {
        name: basename(&path).to_owned(),
        kind: FileType::from_raw_mode(stat.st_mode),
        path,
    })
}

fn fail(operation: &'static str, path: &OsStr, cause: impl Into<Cause>) -> CallError {
    at(operation, &path.to_string_lossy())(cause)
}

fn kind_of(kind: std::fs::FileType) -> FileType {
    match kind {
        kind if kind.is_file() => FileType::RegularFile,
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        _ => FileType::Unknown,
    }
}

/// Walks as the request says. Fails at once when an expression or the root is
/// bad, later when something below is.
pub(crate) async fn walk(
    files: &Files,
    turns: &Turns,
    request: WalkRequest,
) -> Result<impl Stream<Item = Result<WalkEntryBatch, Status>> + use<>, Status> {
    files.resolve("walk", &request.path)?;
    let home = files.home().to_owned();
    let turns = turns.share();
    let first = turns
        .take(move || {
            let options = WalkOptions::compile(&request, home)?;
            Walker::new(options, OsStr::from_bytes(request.path.as_bytes())).turn()
        })
        .await?;
    let state = (first.0, first.1, turns);
    Ok(stream::try_unfold(state, |state| async move {
        let (mut batch, mut walker, turns) = state;
        while batch.entries.is_empty() {
            let Some(more) = walker else {
                return Ok(None);
            };
            (batch, walker) = turns.take(move || more.turn()).await?;
        }
        Ok(Some((batch, (WalkEntryBatch::default(), walker, turns))))
    }))
}

#[cfg(test)]
mod tests;
