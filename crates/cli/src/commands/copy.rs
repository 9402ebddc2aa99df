//! `tombolo sandbox copy`: files and directories between this machine and
//! sandboxes, in either direction.

mod place;

use indicatif::{HumanBytes, ProgressBar};
use tombolo_client::fs::{CopyEvent, CopyPlace, Fs};
use tombolo_client::{Client, Sandbox};
use tombolo_diag::ExitCode;

use super::sandbox;
use crate::cli::CopyArgs;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::{output, wire};
use place::Place;

/// What `-` is as a destination.
const STANDARD_OUTPUT: &str = "/dev/stdout";

/// One end of a copy, connected to if it is in a sandbox.
struct End {
    path: String,
    sandbox: Option<(Sandbox, Fs)>,
}

impl End {
    async fn open(client: &Client, place: Place) -> Outcome<Self> {
        let (path, id) = match place {
            Place::Local(path) => (path, None),
            Place::Sandbox(id, path) => (path, Some(id)),
        };
        let sandbox = match id {
            None => None,
            Some(id) => {
                let sandbox = client.sandbox(&id).connect().await;
                let sandbox = sandbox.map_err(wire::not_connected)?;
                let fs = sandbox.fs();
                Some((sandbox, fs))
            }
        };
        Ok(Self { path, sandbox })
    }

    fn place(&self) -> CopyPlace<'_> {
        match &self.sandbox {
            None => CopyPlace::Here(&self.path),
            Some((_, fs)) => CopyPlace::Sandbox(fs, &self.path),
        }
    }

    async fn close(self) {
        if let Some((sandbox, _)) = self.sandbox {
            sandbox.close().await;
        }
    }
}

pub(super) async fn copy(context: &Context, args: &CopyArgs) -> Outcome {
    let source = Place::parse(&args.source);
    let destination = match args.destination.as_str() {
        "-" if args.json => {
            let words = "a file and --json cannot both go to standard output";
            return Err(Failure::message(ExitCode::Usage, words));
        }
        "-" => Place::Local(STANDARD_OUTPUT.to_owned()),
        given => Place::parse(given),
    };
    if let (Place::Local(_), Place::Local(_)) = (&source, &destination) {
        return Err(Failure::message(
            ExitCode::Usage,
            "neither the source nor the destination is in a sandbox",
        )
        .hint("write the one that is as ID:PATH; \"tombolo sandbox list\" shows the ids"));
    }
    let client = sandbox::client(context, &args.server).await?;
    let from = End::open(&client, source).await?;
    let to = End::open(&client, destination).await?;
    let progress = progress_bar();
    let copied = tombolo_client::fs::copy_with(from.place(), to.place(), |event| {
        tell(&event, &progress);
    });
    let copied = copied.await;
    progress.finish_and_clear();
    from.close().await;
    to.close().await;
    let copied = copied.map_err(|error| {
        let hint = error.next_step();
        let failure = Failure::from(error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    if args.json {
        return output::json(&copied);
    }
    output::tell(&format!(
        "copied {}, {} and {} ({})",
        counted(copied.files, "file", "files"),
        counted(copied.directories, "directory", "directories"),
        counted(copied.links, "link", "links"),
        HumanBytes(copied.bytes)
    ));
    Ok(())
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A spinner where somebody watches.
fn progress_bar() -> ProgressBar {
    if output::stderr_is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    }
}

fn tell(event: &CopyEvent<'_>, progress: &ProgressBar) {
    match event {
        CopyEvent::File(copied) => {
            let bytes = HumanBytes(copied.bytes);
            progress.set_message(format!("{} files, {bytes}", copied.files));
            progress.tick();
        }
        CopyEvent::Skipped(path) => output::tell(&format!(
            "skipped {}: it is no file, directory or link",
            output::printable(path)
        )),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_of_something_is_told_as_one() {
        for (count, expected) in [(0, "0 files"), (1, "1 file"), (2, "2 files")] {
            assert_eq!(counted(count, "file", "files"), expected);
        }
    }
}
