//! `tombolo sandbox copy`: files and directories between this machine and
//! sandboxes, in either direction.
//!
//! What comes out of a sandbox is not to be trusted: names must stay below the
//! destination, symbolic links are made only after everything else, and
//! nothing is ever written through one that is already there.

mod local;
mod place;
mod remote;
mod side;

use std::path::PathBuf;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use indicatif::{HumanBytes, ProgressBar};
use serde::Serialize;
use tombolo_diag::ExitCode;

use super::sandbox;
use crate::cli::CopyArgs;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use place::Place;
use side::{Entry, Kind, Side};

/// How many files are on their way at once.
const FILES_AT_ONCE: usize = 8;
/// How many symbolic links wait for the end.
const LINKS_MAX: usize = 1_000_000;

/// What was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Copied {
    files: u64,
    directories: u64,
    links: u64,
    skipped: u64,
    bytes: u64,
}

pub(super) async fn copy(context: &Context, args: &CopyArgs) -> Outcome {
    let source = Place::parse(&args.source);
    let destination = Place::parse(&args.destination);
    if let (Place::Local(_), Place::Local(_)) = (&source, &destination) {
        return Err(Failure::message(
            ExitCode::Usage,
            "neither the source nor the destination is in a sandbox",
        )
        .hint("write the one that is as ID:PATH; \"tombolo sandbox list\" shows the ids"));
    }
    let client = sandbox::client(context, &args.server).await?;
    let from = Side::open(&client, &source).await?;
    let to = Side::open(&client, &destination).await?;
    let progress = progress_bar();
    let copied = transfer(&from, source.path(), &to, destination.path(), &progress).await;
    progress.finish_and_clear();
    from.close().await;
    to.close().await;
    let copied = copied?;
    if args.json {
        return output::json(&copied);
    }
    output::tell(&format!(
        "copied {} files, {} directories and {} links ({})",
        copied.files,
        copied.directories,
        copied.links,
        HumanBytes(copied.bytes)
    ));
    Ok(())
}

/// A spinner where somebody watches.
fn progress_bar() -> ProgressBar {
    if output::stderr_is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    }
}

async fn transfer(
    from: &Side,
    source: &str,
    to: &Side,
    destination: &str,
    progress: &ProgressBar,
) -> Outcome<Copied> {
    let target = choose_target(from, source, to, destination).await?;
    let mut walk = from.walk(source).await?;
    let mut copied = Copied::default();
    let mut links = Vec::new();
    let mut files = FuturesUnordered::new();
    while let Some(entry) = walk.next(from).await? {
        let path = side::join(&target, &entry.relative);
        match entry.kind {
            // Awaited in its turn: what is in it comes after it.
            Kind::Directory { mode } => {
                to.make_directory(&path, mode, entry.relative.as_os_str().is_empty())
                    .await?;
                copied.directories += 1;
            }
            Kind::File { .. } => files.push(copy_file(from, entry, to, path)),
            Kind::Link { to } if links.len() < LINKS_MAX => links.push((path, to)),
            Kind::Link { .. } => {
                return Err(Failure::message(
                    ExitCode::Failure,
                    format!("there are more than {LINKS_MAX} symbolic links"),
                ));
            }
            Kind::Other => {
                copied.skipped += 1;
                output::tell(&format!(
                    "skipped {}: it is no file, directory or link",
                    output::printable(&entry.path)
                ));
            }
        }
        if files.len() >= FILES_AT_ONCE
            && let Some(bytes) = files.try_next().await?
        {
            copied.add_file(bytes, progress);
        }
    }
    while let Some(bytes) = files.next().await {
        copied.add_file(bytes?, progress);
    }
    for (path, points_to) in links {
        to.make_link(&path, &points_to).await?;
        copied.links += 1;
    }
    Ok(copied)
}

impl Copied {
    fn add_file(&mut self, bytes: u64, progress: &ProgressBar) {
        self.files += 1;
        self.bytes += bytes;
        progress.set_message(format!("{} files, {}", self.files, HumanBytes(self.bytes)));
        progress.tick();
    }
}

/// Into a directory that is there, otherwise under the name that was given.
async fn choose_target(from: &Side, source: &str, to: &Side, destination: &str) -> Outcome<String> {
    if !from.exists(source).await? {
        return Err(Failure::message(
            ExitCode::Failure,
            format!("there is no {source} to copy"),
        ));
    }
    if !to.is_directory(destination).await? {
        return Ok(destination.to_owned());
    }
    Ok(match place::name_of(source) {
        Some(name) => side::join(destination, &PathBuf::from(name)),
        // `dir/.` and the like mean what is in the directory.
        None => destination.to_owned(),
    })
}

async fn copy_file(from: &Side, entry: Entry, to: &Side, path: String) -> Outcome<u64> {
    let name = output::printable(&entry.path);
    let copied = async {
        let mut reader = from.read(&entry).await?;
        let mut writer = to.write(&path, entry.mode()).await?;
        let mut bytes = 0;
        while let Some(piece) = reader.next().await? {
            bytes += piece.len() as u64;
            if let Err(error) = writer.write(&piece).await {
                return Err(writer.reason(error).await);
            }
        }
        reader.close().await?;
        writer.finish().await?;
        Ok(bytes)
    };
    copied
        .await
        .map_err(|failure: Failure| failure.context(format!("{name} is not copied")))
}

#[cfg(test)]
mod tests;
