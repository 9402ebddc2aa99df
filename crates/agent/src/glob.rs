//! Expanding a glob as `expandGlob` of Deno's standard library does: segment by
//! segment, each applied to all that the ones before it found.

mod syntax;

use std::cmp::Ordering as Order;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, stream};
use rustix::io::Errno;
use tombolo_guest_proto::BATCH_ENTRIES_MAX;
use tombolo_guest_proto::v1::{ExpandGlobRequest, WalkEntry, WalkEntryBatch};
use tonic::Status;

use crate::fault::{CallError, Cause};
use crate::files::Files;
use crate::jspath::{join_globs, resolve};
use crate::pattern::{PATTERNS_MAX, Pattern, Text, bad_regex};
use crate::walk::{Found, Step, Turns, WalkOptions, Walker, entry_of};
use syntax::{Syntax, is_glob, segments_of, unescape};

/// Names found at one time. They have to be sorted, so they are all held.
const FOUND_LEN_MAX: usize = 24 * 1024 * 1024;
/// What holding one costs besides its path.
const FOUND_OVERHEAD: usize = 128;
const OPERATION: &str = "expandGlob";

/// Finds all that the request's glob means, in the order of their paths.
pub(crate) async fn expand_glob(
    files: &Files,
    turns: &Turns,
    request: ExpandGlobRequest,
) -> Result<impl Stream<Item = Result<WalkEntryBatch, Status>> + use<>, Status> {
    let texts = [&request.glob, &request.root];
    if request.exclude.len() > PATTERNS_MAX {
        let cause = Cause::InvalidArgument("too many patterns");
        return Err(CallError::new(OPERATION, "", cause).into());
    }
    for text in texts.into_iter().chain(&request.exclude) {
        files.resolve(OPERATION, text)?;
    }
    let home = files.home().to_owned();
    let abandoned = Abandoned::default();
    let watched = Arc::clone(&abandoned.0);
    let found = turns
        .take(move || Expansion::new(request, home, watched)?.run())
        .await?;
    drop(abandoned);
    Ok(stream::iter(Batches(found.into_iter())))
}

/// Ends the work when nobody waits for it any more.
#[derive(Default)]
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Batches(std::vec::IntoIter<Found>);

impl Iterator for Batches {
    type Item = Result<WalkEntryBatch, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.0.by_ref().take(BATCH_ENTRIES_MAX).map(WalkEntry::from);
        let entries: Vec<_> = entries.collect();
        (!entries.is_empty()).then_some(Ok(WalkEntryBatch { entries }))
    }
}

struct Expansion {
    request: ExpandGlobRequest,
    home: PathBuf,
    /// The directory that the glob's fixed part starts at.
    root: OsString,
    excluded: Arc<[Pattern]>,
    abandoned: Arc<AtomicBool>,
}

/// What was found so far; a path that is found again counts once.
#[derive(Default)]
struct Matches {
    by_path: HashMap<OsString, Found>,
    len: usize,
}

impl Matches {
    fn add(&mut self, found: Found) -> Result<(), CallError> {
        let len = 2 * found.path.len() + found.name.len() + FOUND_OVERHEAD;
        if self.by_path.insert(found.path.clone(), found).is_none() {
            self.len += len;
        }
        if self.len > FOUND_LEN_MAX {
            Err(CallError::errno(OPERATION, "", Errno::NOMEM))
        } else {
            Ok(())
        }
    }

    fn sorted(self) -> Vec<Found> {
        let mut found: Vec<Found> = self.by_path.into_values().collect();
        found.sort_by(|a, b| compare(&a.path, &b.path));
        found
    }
}

/// JavaScript orders text by code units, which differs for rare characters.
fn compare(a: &OsStr, b: &OsStr) -> Order {
    let (a, b) = (a.to_string_lossy(), b.to_string_lossy());
    if a.is_ascii() && b.is_ascii() {
        a.cmp(&b)
    } else {
        a.encode_utf16().cmp(b.encode_utf16())
    }
}

impl Expansion {
    fn new(
        request: ExpandGlobRequest,
        home: PathBuf,
        abandoned: Arc<AtomicBool>,
    ) -> Result<Self, CallError> {
        let absolute = request.glob.starts_with('/');
        let cwd = home.as_os_str();
        // An absolute glob ignores its root, except for what is excluded.
        let base = match request.root.as_str() {
            "" if absolute => OsString::from("/"),
            "" => cwd.to_owned(),
            root => resolve(cwd, OsStr::new(root)),
        };
        let syntax = Syntax::of(&request);
        let excluded = request.exclude.iter().map(|exclude| {
            let path = resolve(&base, OsStr::new(exclude));
            compile(&path.to_string_lossy(), syntax)
        });
        Ok(Self {
            excluded: excluded.collect::<Result<Vec<_>, _>>()?.into(),
            root: if absolute { OsString::from("/") } else { base },
            request,
            home,
            abandoned,
        })
    }

    fn run(self) -> Result<Vec<Found>, CallError> {
        let mut segments = segments_of(&self.request.glob).into_iter().peekable();
        let mut fixed = self.root.clone();
        while let Some(segment) = segments.next_if(|segment| !is_glob(segment)) {
            let name = unescape(segment);
            fixed = join_globs(&fixed, OsStr::new(&name), self.request.globstar);
        }
        let mut matches = match entry_of(&self.walk_options(None, true), &fixed) {
            Ok(found) => vec![found],
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        for segment in segments {
            let mut next = Matches::default();
            let pattern = compile(segment, Syntax::of(&self.request))?;
            for found in matches {
                self.advance(&found, segment, &pattern, &mut next)?;
            }
            matches = next.sorted();
        }
        let directories_only = self.request.glob.ends_with('/');
        matches.retain(|found| {
            if found.kind.is_dir() {
                self.request.include_dirs
            } else {
                !directories_only
            }
        });
        Ok(matches)
    }

    fn advance(
        &self,
        from: &Found,
        segment: &str,
        pattern: &Pattern,
        next: &mut Matches,
    ) -> Result<(), CallError> {
        if !from.kind.is_dir() {
            return Ok(());
        }
        if segment == ".." {
            let parent = join_globs(&from.path, OsStr::new(".."), self.request.globstar);
            let text = Text::new(&parent);
            if self.excluded.iter().any(|pattern| pattern.is_match(&text)) {
                return Ok(());
            }
            return next.add(entry_of(&self.walk_options(None, true), &parent)?);
        }
        let any_depth = segment == "**";
        let (depth, canonicalize) = match any_depth {
            true if self.request.globstar => (None, self.request.canonicalize),
            true => (Some(1), self.request.canonicalize),
            false => (Some(1), true),
        };
        let mut walker = Walker::new(self.walk_options(depth, canonicalize), &from.path);
        loop {
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(CallError::errno(OPERATION, "", Errno::CANCELED));
            }
            let found = match walker.step()? {
                Step::Wanted(found) => found,
                Step::Unwanted => continue,
                Step::End => return Ok(()),
            };
            let is_wanted =
                any_depth || (found.path != from.path && pattern.is_match(&Text::new(&found.name)));
            if is_wanted {
                next.add(found)?;
            }
        }
    }

    fn walk_options(&self, max_depth: Option<u32>, canonicalize: bool) -> WalkOptions {
        WalkOptions {
            home: self.home.clone(),
            operation: OPERATION,
            max_depth,
            include_files: true,
            include_dirs: true,
            include_symlinks: true,
            follow_symlinks: self.request.follow_symlinks,
            canonicalize,
            exts: None,
            matching: None,
            skip: Arc::clone(&self.excluded),
        }
    }
}

fn compile(glob: &str, syntax: Syntax) -> Result<Pattern, CallError> {
    let source = syntax.to_regex(glob);
    let flags = if syntax.case_insensitive { "i" } else { "" };
    let pattern = Pattern::new(&source, flags);
    pattern.map_err(|error| bad_regex(OPERATION, glob, error))
}
