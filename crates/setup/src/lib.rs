//! Set-up that does itself: what a machine needs before the first sandbox.
//!
//! [`ensure`] finds what is missing and makes it: the *engine root*, a private
//! directory with QEMU, its firmware and the guest kernel, unpacked from
//! Debian's signed packages so that nothing of it touches the host's own; the
//! *initramfs*, which is our agent and the few kernel modules it loads; and
//! the *image*, the root file system every sandbox starts from. Each is made
//! under a temporary name, checked, and renamed into place, so an interrupted
//! or concurrent set-up leaves nothing half-made and the next one continues.
//!
//! [`examine`] reports what this machine can do and how to mend what it cannot.
//!
//! Called by the command line and by the project's own tools. Needs root for
//! making things, and nothing for finding them made.

mod agent;
mod chroot;
mod debian;
mod doctor;
mod ensure;
mod error;
mod initramfs;
mod layout;
mod manifest;
mod progress;
mod publish;
mod recipe;

pub use doctor::{Requirement, State, examine};
pub use ensure::{SetupOptions, ensure, find, prune};
pub use error::{SetupError, StepError};
pub use layout::Layout;
pub use manifest::Artefacts;
pub use progress::{Lines, Progress, Silent, Spinner, for_terminal};

/// Where everything lives unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/tombolo";
