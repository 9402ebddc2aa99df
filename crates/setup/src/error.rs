//! What can go wrong while setting up, each with the next step to take.

use std::{io, path::PathBuf};

use thiserror::Error;
use tombolo_proc::RunError;

/// Set-up did not come to its end.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Making things needs root.
    #[error("this machine is not set up yet, and setting it up needs root")]
    NotRoot,
    /// The machine is not a 64-bit PC running Linux.
    #[error("sandboxes need Linux on x86-64; this is {os} on {arch}")]
    Machine {
        /// The operating system.
        os: &'static str,
        /// The processor architecture.
        arch: &'static str,
    },
    /// Packages are missing and this distribution's are not known to us.
    #[error(
        "{} missing, and {distribution} is not a distribution whose packages can be installed from here",
        list(missing)
    )]
    Packages {
        /// The programs or files that are missing.
        missing: Vec<&'static str>,
        /// What the machine says it runs.
        distribution: String,
    },
    /// There is not enough disk space.
    #[error("{} has {free_mib} MiB free; set-up needs {needed_mib} MiB", path.display())]
    Space {
        /// The directory that was looked at.
        path: PathBuf,
        /// What is free for us.
        free_mib: u64,
        /// What is needed to finish.
        needed_mib: u64,
    },
    /// The state directory cannot be used.
    #[error("cannot prepare the state directory {}", path.display())]
    Directory {
        /// The path that could not be made or opened.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread could not get a file mode mask of its own.
    #[error("cannot set the file mode mask")]
    Mask {
        /// What the system said.
        #[source]
        source: nix::Error,
    },
    /// One of the steps failed.
    #[error("could not {step}")]
    Step {
        /// What was being done, as a phrase that follows "could not".
        step: &'static str,
        /// Where the programs' own output is.
        log: PathBuf,
        /// Whether the step needed the network.
        needs_network: bool,
        /// What went wrong.
        #[source]
        source: StepError,
    },
}

impl SetupError {
    /// What a person can do next.
    pub fn hint(&self) -> String {
        match self {
            Self::NotRoot => "run the same command as root, for example with sudo".to_owned(),
            Self::Machine { .. } => "use a machine, or a VM, with an x86-64 processor".to_owned(),
            Self::Packages { .. } => format!(
                "install nftables, mmdebstrap (version 1.2 or newer) and Debian's archive \
                 keyring as {}, then run the same command again",
                crate::debian::KEYRING
            ),
            Self::Space { path, .. } => format!(
                "free some space, or choose another state directory than {} with --state-dir",
                path.display()
            ),
            Self::Directory { .. } => {
                "check the directory's owner and mode, or choose another with --state-dir"
                    .to_owned()
            }
            Self::Mask { .. } => {
                "set-up needs the rights of a real root: a container has to be privileged"
                    .to_owned()
            }
            Self::Step {
                log, needs_network, ..
            } => {
                let network = if *needs_network {
                    "this step downloads; check the network, the proxy variables and, \
                     for Python packages, pip's configuration, and run the same command again. "
                } else {
                    ""
                };
                format!("{network}The whole story is in {}", log.display())
            }
        }
    }
}

/// Why a step failed.
#[derive(Debug, Error)]
pub enum StepError {
    /// A program failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file could not be read or written; the path is in the message.
    #[error(transparent)]
    File(#[from] io::Error),
    /// A private mount could not be made.
    #[error("cannot {action} at {}", path.display())]
    Mount {
        /// What was to be mounted or unshared.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: nix::Error,
    },
    /// A package did not contain what it was fetched for.
    #[error("{what} is not in {}", path.display())]
    Absent {
        /// What was looked for.
        what: String,
        /// Where.
        path: PathBuf,
    },
    /// A kernel module could not be decompressed.
    #[error("cannot decompress the kernel module {}", path.display())]
    Module {
        /// The compressed module.
        path: PathBuf,
        /// What the decoder said.
        #[source]
        source: lzma_rs::error::Error,
    },
    /// The finished artefact did not pass its check.
    #[error("{} did not pass its check: {finding}", path.display())]
    Check {
        /// The artefact.
        path: PathBuf,
        /// What was wrong with it.
        finding: &'static str,
    },
}

fn list(missing: &[&str]) -> String {
    match missing {
        [one] => format!("{one} is"),
        several => format!("{} are", several.join(" and ")),
    }
}
