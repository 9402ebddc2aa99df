//! Running a program of a root directory we made, inside it.
//!
//! All mounts are made in a mount namespace that belongs to one thread and to
//! the programs it starts. They end with it, also when this process is killed,
//! so no mount can be left behind and no clean-up can delete through one.

use std::path::{Path, PathBuf};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tombolo_proc::{Command, Output};

use crate::StepError;

/// A root directory and what to mount over it while a program runs.
#[derive(Debug, Clone)]
#[must_use]
pub(crate) struct Chroot {
    root: PathBuf,
    binds: Vec<(PathBuf, PathBuf)>,
    scratch: Vec<PathBuf>,
}

impl Chroot {
    /// A root with the host's `/dev` and `/proc`.
    pub(crate) fn new(root: &Path) -> Self {
        let host = ["dev", "proc"].map(|name| (Path::new("/").join(name), PathBuf::from(name)));
        Self {
            root: root.to_owned(),
            binds: host.into(),
            scratch: Vec::new(),
        }
    }

    /// Shows a host's file or directory at a path that exists inside.
    pub(crate) fn bind(mut self, host: &Path, inside: &str) -> Self {
        self.binds.push((host.to_owned(), PathBuf::from(inside)));
        self
    }

    /// Covers a directory inside with an empty one that leaves no trace.
    pub(crate) fn scratch(mut self, inside: &str) -> Self {
        self.scratch.push(PathBuf::from(inside));
        self
    }

    /// Lets `prepare` write into the mounted root, whose path it gets, then
    /// runs the command inside.
    pub(crate) fn run<R>(
        &self,
        prepare: impl FnOnce(&Path) -> Result<R, StepError> + Send,
        command: impl FnOnce(Command) -> Command + Send,
        on_line: &(dyn Fn(&str) + Sync),
    ) -> Result<Output, StepError> {
        let work = || {
            self.mount_all()?;
            prepare(&self.root)?;
            // The mounts end with the last that uses them, so it must not stay.
            let command_line = Command::new("setpriv").args(["--pdeathsig", "KILL", "chroot"]);
            let inside = command(command_line.arg(&self.root));
            Ok(inside.run_with_lines_blocking(on_line)?)
        };
        std::thread::scope(|scope| match scope.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn mount_all(&self) -> Result<(), StepError> {
        let root = Path::new("/");
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|source| failed("make a private mount namespace", root, source))?;
        mount_one(None, root, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)
            .map_err(|source| failed("make mounts private", root, source))?;
        for inside in &self.scratch {
            let at = self.root.join(inside);
            mount_one(None, &at, Some("tmpfs"), MsFlags::empty())
                .map_err(|source| failed("mount an empty directory", &at, source))?;
        }
        for (host, inside) in &self.binds {
            let at = self.root.join(inside);
            mount_one(Some(host), &at, None, MsFlags::MS_BIND | MsFlags::MS_REC)
                .map_err(|source| failed("show a part of the host", &at, source))?;
        }
        Ok(())
    }
}

fn mount_one(
    source: Option<&Path>,
    at: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<(), nix::Error> {
    mount(source, at, kind, flags, None::<&str>)
}

fn failed(action: &'static str, path: &Path, source: nix::Error) -> StepError {
    StepError::Mount {
        action,
        path: path.to_owned(),
        source,
    }
}
