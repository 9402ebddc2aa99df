//! Daemons: programs that outlive whoever started them.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{Command, RunError};

/// A program that runs in a session of its own. Dropping this leaves the
/// program running; it is reaped by whoever becomes its parent.
#[derive(Debug)]
#[must_use]
pub struct Detached {
    child: std::process::Child,
}

impl Detached {
    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether and how the program has ended, without waiting for it.
    pub fn try_wait(&mut self) -> io::Result<Option<std::process::ExitStatus>> {
        self.child.try_wait()
    }
}

impl Command {
    /// Starts the program in a session of its own, with exactly these files as
    /// its standard streams (`/dev/null` where none is given).
    pub fn spawn_detached(
        &self,
        stdin: Option<File>,
        stdout: Option<File>,
        stderr: Option<File>,
    ) -> Result<Detached, RunError> {
        let program = self.locate()?;
        let mut session = self.clone().process_group(false);
        session.arguments.insert(0, program.into_os_string());
        // `setsid` becomes the program without a fork, because a child of ours
        // never leads a process group here; so the process id stays the same.
        session
            .prepare(OsStr::new("setsid"))
            .stdin(stdio(stdin))
            .stdout(stdio(stdout))
            .stderr(stdio(stderr))
            .spawn()
            .map(|child| Detached { child })
            .map_err(|source| self.start_error(source))
    }

    /// Finds the program before anything starts, because an error of the
    /// detached program itself would reach nobody.
    fn locate(&self) -> Result<PathBuf, RunError> {
        let name = Path::new(&self.program);
        let candidates: Vec<PathBuf> = if name.components().count() > 1 {
            vec![name.to_owned()]
        } else {
            std::env::split_paths(self.path_variable())
                .map(|directory| directory.join(name))
                .collect()
        };
        candidates
            .into_iter()
            .find(|path| is_executable(path))
            .ok_or_else(|| self.start_error(io::Error::from(io::ErrorKind::NotFound)))
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn stdio(file: Option<File>) -> Stdio {
    file.map_or_else(Stdio::null, Stdio::from)
}
