//! Finding what is missing and making it, once, whoever else asks meanwhile.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use tokio::time::Instant;

use crate::{
    Layout, Progress, SetupError, StepError,
    debian::Debian,
    manifest::{Artefacts, Parts},
    publish, recipe,
};

/// What may differ between two set-ups.
#[derive(Debug, Clone)]
pub struct SetupOptions {
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// Another source of Debian packages than the distribution's default, as a
    /// URL or a line of `sources.list`.
    pub mirror: Option<String>,
    /// Put VS Code into the root image. A state directory that has it keeps it.
    pub with_vscode: bool,
}

impl SetupOptions {
    /// Options for a state directory, with defaults for the rest.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            mirror: None,
            with_vscode: false,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        let absolute = std::path::absolute(&self.state_dir);
        Layout::new(absolute.unwrap_or_else(|_| self.state_dir.clone()))
    }

    /// Whether the root image is to have VS Code: wanted now, or made before.
    fn wants_vscode(&self) -> bool {
        self.with_vscode || Artefacts::had_vscode(&self.layout().manifest())
    }
}

/// What was made before, if all of it is there and current. Reads one small
/// file and asks for three lengths.
pub fn find(options: &SetupOptions) -> Option<Artefacts> {
    let key = recipe::key_of_all(options.wants_vscode());
    Artefacts::current(&options.layout().manifest(), &key)
}

/// Makes what is missing. When nothing is, this takes no time, makes no sound
/// and needs no rights beyond reading.
///
/// Blocks for as long as it takes: from a runtime, call it where blocking is
/// allowed.
pub fn ensure(options: &SetupOptions, progress: &dyn Progress) -> Result<Artefacts, SetupError> {
    if let Some(found) = find(options) {
        return Ok(found);
    }
    let workshop = Debian::new(options)?;
    let with_vscode = options.wants_vscode();
    with_own_mask(|| ensure_with(&workshop, &options.layout(), with_vscode, progress))?
}

/// Runs work on a thread with the usual file mode mask, whatever the person's
/// own is: what set-up makes is read by users other than root.
fn with_own_mask<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, SetupError> {
    let masked = || {
        // Without this the mask would be that of the whole process.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
            .map_err(|source| SetupError::Mask { source })?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(USUAL_MASK));
        Ok(work())
    };
    std::thread::scope(|scope| match scope.spawn(masked).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

const USUAL_MASK: u32 = 0o022;

/// Removes artefacts of other recipes than the current one, and says which;
/// what interrupted runs left goes too.
/// The caller knows that no sandbox and no template uses them.
pub fn prune(options: &SetupOptions) -> Result<Vec<PathBuf>, SetupError> {
    let layout = options.layout();
    let Some(current) = find(options) else {
        return Ok(Vec::new());
    };
    let _lock = lock(&layout, &crate::Silent)?;
    let directory = layout.artefacts();
    let kept = [
        Some(current.engine_root.as_path()),
        current.image.parent(),
        Some(current.initramfs.as_path()),
    ];
    let ours = ["engine-", "guest-", "initramfs-"];
    let mut removed = Vec::new();
    publish::sweep(&directory).map_err(|e| directory_error(&directory, e))?;
    let entries = fs_err::read_dir(&directory).map_err(|e| directory_error(&directory, e))?;
    for entry in entries {
        let path = entry.map_err(|e| directory_error(&directory, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let old = ours.iter().any(|begin| name.starts_with(begin));
        if old && !kept.contains(&Some(path.as_path())) {
            publish::remove(&path).map_err(|e| directory_error(&path, e))?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// What an engine root holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    pub(crate) kernel: PathBuf,
    pub(crate) kernel_release: String,
    pub(crate) qemu_version: String,
}

/// The outside world of set-up: packages, images, programs. Tests have their own.
pub(crate) trait Workshop: Sync {
    /// Checks the machine, and gets the host programs that the steps need.
    fn prepare(
        &self,
        layout: &Layout,
        missing: Missing,
        steps: &Steps<'_>,
    ) -> Result<(), SetupError>;
    /// Makes an engine root in an absent directory.
    fn engine(&self, target: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError>;
    /// Looks at a finished engine root.
    fn inspect(&self, engine_root: &Path) -> Result<Engine, StepError>;
    /// Makes the initramfs as a file.
    fn initramfs(
        &self,
        engine_root: &Path,
        engine: &Engine,
        target: &Path,
    ) -> Result<(), StepError>;
    /// Makes a directory with the root image.
    fn guest(
        &self,
        engine_root: &Path,
        engine: &Engine,
        with_vscode: bool,
        target: &Path,
        listen: &(dyn Fn(&str) + Sync),
    ) -> Result<(), StepError>;
}

/// What has to be made, as far as that is known before the engine is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) engine: bool,
    pub(crate) guest: bool,
    /// Whether the guest that is missing is one with VS Code.
    pub(crate) vscode: bool,
}

/// The name of the root image inside its directory.
pub(crate) const IMAGE_NAME: &str = "image.qcow2";

fn ensure_with(
    workshop: &dyn Workshop,
    layout: &Layout,
    with_vscode: bool,
    progress: &dyn Progress,
) -> Result<Artefacts, SetupError> {
    let key = recipe::key_of_all(with_vscode);
    let artefacts = layout.artefacts();
    fs_err::create_dir_all(&artefacts).map_err(|e| directory_error(&artefacts, e))?;
    let _lock = lock(layout, progress)?;
    if let Some(found) = Artefacts::current(&layout.manifest(), &key) {
        return Ok(found);
    }
    publish::sweep(&artefacts).map_err(|e| directory_error(&artefacts, e))?;

    let steps = Steps::new(layout, progress)?;
    let engine_root = layout.engine(&recipe::engine_key());
    let engine_is_there = engine_root.is_dir();
    let known_release = engine_is_there
        .then(|| workshop.inspect(&engine_root).ok())
        .flatten();
    let guest_of =
        |engine: &Engine| layout.guest(&recipe::guest_key(&engine.kernel_release, with_vscode));
    let guest_is_missing = known_release.is_none_or(|engine| !guest_of(&engine).is_dir());
    let missing = Missing {
        engine: !engine_is_there,
        guest: guest_is_missing,
        vscode: guest_is_missing && with_vscode,
    };
    workshop.prepare(layout, missing, &steps)?;
    if missing.engine {
        steps.run(Step::ENGINE, |listen| {
            publish::publish(&engine_root, |path| workshop.engine(path, listen))
        })?;
    }
    let engine = steps.quietly(Step::INSPECT, || workshop.inspect(&engine_root))?;
    let initramfs = layout.initramfs(&recipe::initramfs_key(&engine.kernel_release));
    if !initramfs.is_file() {
        steps.run(Step::INITRAMFS, |_| {
            workshop.initramfs(&engine_root, &engine, &initramfs)
        })?;
    }
    let guest = guest_of(&engine);
    let image = guest.join(IMAGE_NAME);
    if !image.is_file() {
        steps.run(Step::guest(with_vscode), |listen| {
            publish::publish(&guest, |path| {
                workshop.guest(&engine_root, &engine, with_vscode, path, listen)
            })
        })?;
    }
    steps.quietly(Step::MANIFEST, || {
        let made = Artefacts::new(Parts {
            key,
            engine_root,
            kernel: engine.kernel,
            initramfs,
            image,
            kernel_release: engine.kernel_release,
            qemu_version: engine.qemu_version,
            has_vscode: with_vscode,
        })?;
        made.save(&layout.manifest())?;
        Ok(made)
    })
}

/// One thing that set-up does, with the words for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// "Unpack the engine", as progress says it.
    pub(crate) title: &'static str,
    /// "unpack the engine", as it follows "could not".
    pub(crate) phrase: &'static str,
    pub(crate) needs_network: bool,
}

impl Step {
    pub(crate) const PACKAGES: Self = Self {
        title: "Install packages on this machine",
        phrase: "install packages on this machine",
        needs_network: true,
    };
    const ENGINE: Self = Self {
        title: "Get QEMU and the guest kernel",
        phrase: "get QEMU and the guest kernel",
        needs_network: true,
    };
    const INSPECT: Self = Self {
        title: "Look at the engine",
        phrase: "use the engine that was made",
        needs_network: false,
    };
    const INITRAMFS: Self = Self {
        title: "Pack the guest agent",
        phrase: "pack the guest agent",
        needs_network: false,
    };
    const GUEST: Self = Self {
        title: "Make the root image",
        phrase: "make the root image",
        needs_network: true,
    };
    const GUEST_WITH_VSCODE: Self = Self {
        title: "Make the root image with VS Code",
        phrase: "make the root image with VS Code",
        needs_network: true,
    };
    fn guest(with_vscode: bool) -> Self {
        if with_vscode {
            Self::GUEST_WITH_VSCODE
        } else {
            Self::GUEST
        }
    }

    const MANIFEST: Self = Self {
        title: "Record what was made",
        phrase: "record what was made",
        needs_network: false,
    };
}

/// Runs steps: tells the person, keeps the log, names the failure.
pub(crate) struct Steps<'a> {
    progress: &'a dyn Progress,
    log_path: PathBuf,
    log: fs_err::File,
}

impl<'a> Steps<'a> {
    fn new(layout: &Layout, progress: &'a dyn Progress) -> Result<Self, SetupError> {
        let log_path = layout.log();
        let directory = log_path.parent().unwrap_or(layout.state());
        fs_err::create_dir_all(directory).map_err(|e| directory_error(directory, e))?;
        let log = fs_err::File::create(&log_path).map_err(|e| directory_error(&log_path, e))?;
        Ok(Self {
            progress,
            log_path,
            log,
        })
    }

    pub(crate) fn run<T>(
        &self,
        step: Step,
        work: impl FnOnce(&(dyn Fn(&str) + Sync)) -> Result<T, StepError>,
    ) -> Result<T, SetupError> {
        let begun = Instant::now();
        self.progress.begin(step.title);
        self.note(step.title);
        let listen = |line: &str| {
            self.note(line);
            self.progress.detail(line);
        };
        let made = self.quietly(step, || work(&listen))?;
        self.progress.end(step.title, begun.elapsed());
        Ok(made)
    }

    fn quietly<T>(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<T, StepError>,
    ) -> Result<T, SetupError> {
        work().map_err(|source| {
            self.note(&source.to_string());
            SetupError::Step {
                step: step.phrase,
                log: self.log_path.clone(),
                needs_network: step.needs_network,
                source,
            }
        })
    }

    fn note(&self, line: &str) {
        use io::Write;
        // A log that cannot be written must not stop what it is about.
        writeln!(&self.log, "{line}").ok();
    }
}

/// Takes the lock that lets one set-up work at a time; it ends with the file.
fn lock(layout: &Layout, progress: &dyn Progress) -> Result<File, SetupError> {
    let path = layout.lock();
    let open = fs_err::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = open.map_err(|e| directory_error(&path, e))?.into_parts().0;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let waiting = "Wait for another set-up of this state directory";
            let begun = Instant::now();
            progress.begin(waiting);
            file.lock().map_err(|e| directory_error(&path, e))?;
            progress.end(waiting, begun.elapsed());
            Ok(file)
        }
        Err(TryLockError::Error(source)) => Err(directory_error(&path, source)),
    }
}

fn directory_error(path: &Path, source: io::Error) -> SetupError {
    SetupError::Directory {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
