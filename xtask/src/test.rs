//! `cargo xtask test`: from nothing to every ring of tests, in one command.
//!
//! The state directory is new each time, so that what is tested includes the
//! set-up; the last lines are the test runner's own summary.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use tombolo_leftovers::RunDirectory;
use tombolo_proc::Command;

use crate::{
    lint, test_kvm,
    tools::{self, cargo, ensure_root, ensure_subcommand, say, works, workspace},
};

const STATE_PREFIX: &str = "tombolo-test-";
/// Images take gigabytes and sockets need short paths: neither `target` nor a
/// `/tmp` in memory will do where this is there.
const ROOMY: &str = "/var/tmp";
/// Where the tests of real VMs find what set-up made.
pub(crate) const STATE_VARIABLE: &str = "TOMBOLO_STATE_DIR";
/// Where they find the program under test.
const BINARY_VARIABLE: &str = "TOMBOLO_TEST_BINARY";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only this ring, without the lints.
    #[arg(long, value_enum)]
    ring: Option<Ring>,
    /// Passed on to the test runner.
    #[arg(last = true)]
    runner: Vec<String>,
}

/// What a test needs, from nothing to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ring {
    /// Cores and components: no programs, no VMs.
    Core,
    /// Our programs, run as a person runs them.
    Programs,
    /// Real VMs.
    Vm,
    /// The official SDKs against real VMs.
    Sdk,
}

impl Ring {
    /// The ring as the test runner's filter.
    fn filter(self) -> &'static str {
        match self {
            Self::Core => "not package(tombolo-e2e) and not kind(test)",
            Self::Programs => {
                "not package(tombolo-e2e) and not package(tombolo-attacks) and kind(test)"
            }
            Self::Vm => {
                "(package(tombolo-e2e) and not binary(sdk)) or \
                 (package(tombolo-attacks) and kind(test))"
            }
            Self::Sdk => "package(tombolo-e2e) and binary(sdk)",
        }
    }

    fn needs_vms(self) -> bool {
        matches!(self, Self::Vm | Self::Sdk)
    }
}

/// A program that tests use, and the Debian packages that bring it.
#[derive(Debug)]
struct Needed {
    program: &'static str,
    check: &'static [&'static str],
    packages: &'static [&'static str],
}

/// What the tests of the SDKs, of SSH, certificates, browsers and the attacks run on.
const NEEDED: [Needed; 10] = [
    Needed {
        program: "ip",
        check: &["-Version"],
        packages: &["iproute2"],
    },
    Needed {
        program: "ssh",
        check: &["-V"],
        packages: &["openssh-client"],
    },
    Needed {
        program: "rsync",
        check: &["--version"],
        packages: &["rsync"],
    },
    Needed {
        program: "pebble",
        check: &["-help"],
        packages: &["pebble"],
    },
    Needed {
        program: "sshfs",
        check: &["--version"],
        packages: &["sshfs"],
    },
    Needed {
        program: "chromium",
        check: &["--version"],
        packages: &["chromium"],
    },
    Needed {
        // No option of certutil's own succeeds without a database.
        program: "sh",
        check: &["-c", "command -v certutil"],
        packages: &["libnss3-tools"],
    },
    Needed {
        program: "python3",
        check: &["-c", "import ensurepip, venv"],
        packages: &["python3", "python3-venv"],
    },
    Needed {
        program: "node",
        check: &["--version"],
        packages: &["nodejs"],
    },
    Needed {
        program: "npm",
        check: &["--version"],
        packages: &["npm"],
    },
];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure_subcommand("nextest")?;
    let with_vms = arguments.ring.is_none_or(Ring::needs_vms);
    if with_vms {
        ensure_root()?;
    }
    if with_vms {
        get_needed()?;
    }
    if arguments.ring.is_none() {
        lint::run()?;
    }
    let binary = build()?;
    let state = if with_vms {
        Some(set_up(&binary)?)
    } else {
        None
    };
    if arguments.ring.is_none()
        && let Some(state) = &state
    {
        test_kvm::run_default(state.path())?;
    }
    let tests = runner(arguments, &binary, state.as_ref().map(RunDirectory::path));
    tools::run(&tests)
}

fn get_needed() -> anyhow::Result<()> {
    let missing: Vec<&Needed> = NEEDED
        .iter()
        .filter(|needed| !works(needed.program, needed.check))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|needed| needed.packages)
        .copied()
        .collect();
    if !Path::new("/usr/bin/apt-get").is_file() {
        bail!(
            "install {} and run the same command again",
            packages.join(", ")
        );
    }
    let apt_get = |arguments: &[&str]| {
        Command::new("apt-get")
            .inherit_env()
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments)
    };
    tools::run(&apt_get(&["update"]))?;
    tools::run(&apt_get(&["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// Builds the program that the outer rings run, and says where it is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    tools::run(&cargo(["build", "--package", "tombolo-cli"]))?;
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(workspace())
        .no_deps()
        .exec()
        .context("cannot ask cargo for its target directory")?;
    Ok(metadata.target_directory.join("debug/tombolo").into())
}

pub(crate) fn set_up(binary: &Path) -> anyhow::Result<RunDirectory> {
    let roomy = Path::new(ROOMY);
    let parent = if roomy.is_dir() {
        roomy.to_owned()
    } else {
        std::env::temp_dir()
    };
    let state = RunDirectory::below(&parent, STATE_PREFIX)?;
    say(&format!(
        "the state directory is {}",
        state.path().display()
    ));
    let setup = Command::new(binary)
        .inherit_env()
        .arg("setup")
        .arg("--with-vscode")
        .arg("--state-dir")
        .arg(state.path());
    tools::run(&setup)?;
    Ok(state)
}

fn runner(arguments: &Arguments, binary: &Path, state: Option<&Path>) -> Command {
    let mut tests = cargo(["nextest", "run", "--workspace"]).env(BINARY_VARIABLE, binary);
    if let Some(ring) = arguments.ring {
        tests = tests.args(["--filterset", ring.filter()]);
        // A ring that has no test yet is not a failure of the others.
        tests = tests.arg("--no-tests=warn");
    }
    if let Some(state) = state {
        tests = tests.env(STATE_VARIABLE, state);
    }
    tests.args(&arguments.runner)
}
