//! Set-up against a workshop of our own: what is made, how often, and what is
//! left when a step fails.

use std::{
    os::unix::process::ExitStatusExt,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tombolo_proc::Command;

use super::*;
use crate::Silent;

/// Makes small files, counts, and fails where it is told to.
#[derive(Debug, Default)]
struct Fake {
    made: Mutex<Vec<&'static str>>,
    fails_at: Option<&'static str>,
    /// Kills this process at this moment, counted from 1.
    dies_at: Option<usize>,
    moments: AtomicUsize,
    working: AtomicUsize,
}

impl Fake {
    fn failing_at(step: &'static str) -> Self {
        Self {
            fails_at: Some(step),
            ..Self::default()
        }
    }

    fn make(
        &self,
        step: &'static str,
        write: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), StepError> {
        assert_eq!(
            self.working.fetch_add(1, Ordering::SeqCst),
            0,
            "two at once"
        );
        self.made.lock().unwrap().push(step);
        self.moment();
        write()?;
        self.moment();
        self.working.fetch_sub(1, Ordering::SeqCst);
        if self.fails_at == Some(step) {
            return Err(io::Error::other("told to fail").into());
        }
        Ok(())
    }

    /// One at which a set-up may be killed.
    fn moment(&self) {
        let moment = self.moments.fetch_add(1, Ordering::SeqCst) + 1;
        if self.dies_at == Some(moment) {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
    }

    fn made(self) -> Vec<&'static str> {
        self.made.into_inner().unwrap()
    }
}

impl Workshop for Fake {
    fn prepare(&self, _: &Layout, _: Missing, _: &Steps<'_>) -> Result<(), SetupError> {
        Ok(())
    }

    fn engine(&self, target: &Path, _: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
        self.make("engine", || {
            fs_err::create_dir(target)?;
            self.moment();
            fs_err::write(target.join("kernel"), "kernel")
        })
    }

    fn inspect(&self, engine_root: &Path) -> Result<Engine, StepError> {
        let kernel = engine_root.join("kernel");
        fs_err::metadata(&kernel)?;
        Ok(Engine {
            kernel,
            kernel_release: "6.12".to_owned(),
            qemu_version: "10".to_owned(),
        })
    }

    fn initramfs(&self, _: &Path, _: &Engine, target: &Path) -> Result<(), StepError> {
        self.make("initramfs", || Ok(()))?;
        publish::publish(target, |path| {
            fs_err::write(path, "initra")?;
            self.moment();
            Ok(fs_err::write(path, "initramfs")?)
        })
    }

    fn guest(
        &self,
        _: &Path,
        _: &Engine,
        with_vscode: bool,
        target: &Path,
        _: &(dyn Fn(&str) + Sync),
    ) -> Result<(), StepError> {
        let guest = if with_vscode {
            "guest with VS Code"
        } else {
            "guest"
        };
        self.make(guest, || {
            fs_err::create_dir(target)?;
            self.moment();
            fs_err::write(target.join(IMAGE_NAME), guest)
        })
    }
}

const ALL: [&str; 3] = ["engine", "initramfs", "guest"];

fn run(layout: &Layout, fake: Fake) -> (Result<Artefacts, SetupError>, Vec<&'static str>) {
    let result = ensure_with(&fake, layout, false, &Silent);
    (result, fake.made())
}

#[test]
fn vscode_is_an_extra_that_a_state_directory_keeps() {
    let directory = tempfile::tempdir().unwrap();
    let options = SetupOptions::new(directory.path());
    let layout = options.layout();
    assert_eq!(run(&layout, Fake::default()).1, ALL);
    assert!(!options.wants_vscode() && find(&options).is_some());

    let asking = SetupOptions {
        with_vscode: true,
        ..options.clone()
    };
    assert!(asking.wants_vscode() && find(&asking).is_none());
    let fake = Fake::default();
    let made = ensure_with(&fake, &layout, true, &Silent).unwrap();
    assert!(made.has_vscode);
    assert_eq!(fake.made(), ["guest with VS Code"]);
    // Who does not ask gets it too from now on.
    assert!(options.wants_vscode());
    assert_eq!(find(&options), Some(made));
}

fn unfinished(layout: &Layout) -> usize {
    let entries = fs_err::read_dir(layout.artefacts()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with(".unf"))
        .count()
}

#[test]
fn the_first_run_makes_everything_and_the_second_nothing() {
    let state = tempfile::tempdir().unwrap();
    let layout = Layout::new(state.path());
    let (first, made) = run(&layout, Fake::default());
    let first = first.unwrap();
    assert_eq!(made, ALL);
    let (second, made) = run(&layout, Fake::default());
    assert_eq!((second.unwrap(), made), (first.clone(), vec![]));
    assert_eq!(find(&SetupOptions::new(state.path())), Some(first));
}

#[test]
fn a_failing_step_leaves_nothing_half_made_and_the_next_run_continues() {
    for (index, step) in ALL.into_iter().enumerate() {
        let state = tempfile::tempdir().unwrap();
        let layout = Layout::new(state.path());
        let (result, made) = run(&layout, Fake::failing_at(step));
        let error = result.unwrap_err();
        assert!(matches!(error, SetupError::Step { .. }), "{error}");
        assert!(error.hint().contains("setup.log"), "{}", error.hint());
        assert_eq!(made, ALL[..=index]);
        assert_eq!(unfinished(&layout), 0, "after a failing {step}");
        assert_eq!(find(&SetupOptions::new(state.path())), None);

        let (result, made) = run(&layout, Fake::default());
        assert_eq!(made, ALL[index..]);
        assert!(result.is_ok());
    }
}

/// Moments of the whole set-up: before, amid and after each step.
const MOMENTS: usize = 9;
const DIRECTORY_VARIABLE: &str = "TOMBOLO_TEST_SETUP_DIRECTORY";
const MOMENT_VARIABLE: &str = "TOMBOLO_TEST_SETUP_MOMENT";

/// A set-up with all its moments; the next test runs it as a process of its own,
/// which is killed at one of them.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the next test tells its process"
)]
fn a_set_up_that_may_be_killed() {
    let own = tempfile::tempdir().unwrap();
    let directory = std::env::var_os(DIRECTORY_VARIABLE);
    let moment = std::env::var(MOMENT_VARIABLE).ok();
    let fake = Fake {
        dies_at: moment.map(|moment| moment.parse().unwrap()),
        ..Fake::default()
    };
    let layout = Layout::new(directory.map_or_else(|| own.path().to_owned(), PathBuf::from));
    ensure_with(&fake, &layout, false, &Silent).unwrap();
    assert_eq!(fake.moments.into_inner(), MOMENTS);
}

#[test]
fn a_set_up_killed_at_any_moment_leaves_nothing_half_made_and_the_next_finishes() {
    let program = std::env::current_exe().unwrap();
    for moment in 1..=MOMENTS {
        let state = tempfile::tempdir().unwrap();
        let (layout, options) = (Layout::new(state.path()), SetupOptions::new(state.path()));
        let child = Command::new(&program)
            .args(["--exact", "ensure::tests::a_set_up_that_may_be_killed"])
            .env(DIRECTORY_VARIABLE, state.path())
            .env(MOMENT_VARIABLE, moment.to_string())
            .output_blocking();
        let signal = child.unwrap().status.signal();
        assert_eq!(signal, Some(rustix::process::Signal::KILL.as_raw()));
        assert_eq!(find(&options), None, "killed at {moment}");

        // All three moments of a step are before it is published.
        let (result, made) = run(&layout, Fake::default());
        let finished = moment.saturating_sub(1) / 3;
        assert_eq!(made, ALL[finished..], "killed at {moment}");
        assert_eq!(unfinished(&layout), 0, "killed at {moment}");
        assert_eq!(find(&options), Some(result.unwrap()));
    }
}

#[test]
fn leftovers_of_a_killed_run_are_swept() {
    let state = tempfile::tempdir().unwrap();
    let layout = Layout::new(state.path());
    fs_err::create_dir_all(layout.artefacts().join(".unfinished-1-guest/root")).unwrap();
    run(&layout, Fake::default()).0.unwrap();
    assert_eq!(unfinished(&layout), 0);
}

#[test]
fn what_was_cut_or_removed_is_noticed() {
    let state = tempfile::tempdir().unwrap();
    let layout = Layout::new(state.path());
    let options = SetupOptions::new(state.path());
    let first = run(&layout, Fake::default()).0.unwrap();
    for path in [&first.kernel, &first.initramfs, &first.image] {
        let content = fs_err::read(path).unwrap();
        fs_err::write(path, "cut").unwrap();
        assert_eq!(find(&options), None, "{}", path.display());
        fs_err::write(path, content).unwrap();
        assert!(find(&options).is_some());
    }
    fs_err::write(layout.manifest(), "{").unwrap();
    assert_eq!(find(&options), None);
    let (again, made) = run(&layout, Fake::default());
    assert_eq!((again.unwrap(), made), (first, vec![]));
}

#[test]
fn two_at_once_make_everything_once() {
    let state = tempfile::tempdir().unwrap();
    let layout = Layout::new(state.path());
    let (fake, start) = (Fake::default(), Barrier::new(4));
    let results: Vec<Artefacts> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    ensure_with(&fake, &layout, false, &Silent).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(fake.made(), ALL);
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn pruning_keeps_what_is_current() {
    let state = tempfile::tempdir().unwrap();
    let layout = Layout::new(state.path());
    let options = SetupOptions::new(state.path());
    run(&layout, Fake::default()).0.unwrap();
    let old = layout.engine("0123456789abcdef");
    fs_err::create_dir(&old).unwrap();
    assert_eq!(prune(&options).unwrap(), [old]);
    assert!(find(&options).is_some());
    assert_eq!(prune(&options).unwrap(), Vec::<PathBuf>::new());
}
