//! A network namespace that is kept by a descriptor, and work inside it.
//!
//! A thread is moved into a namespace, not a process, so work inside happens on
//! a thread of its own that ends with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::process::PidfdGetfdFlags;

use crate::address::TAP_NAME;
use crate::sockets::{self, ListenError, SlotSockets};

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// A slot's network namespace. It lives while this does, or a socket or tap
/// that was made in it.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

/// Why work inside a namespace could not begin.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// No thread for it.
    #[error("cannot start a thread for work in a network namespace")]
    Thread(#[source] io::Error),
    /// Not let in.
    #[error("cannot enter a network namespace")]
    Enter(#[source] io::Error),
    /// The work ended in a panic.
    #[error("work in a network namespace failed")]
    Panicked,
}

/// Why the namespace of a running VM was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindNamespaceError {
    /// The VM has ended, or has nothing under that number.
    #[error("cannot get descriptor {descriptor} of a VM")]
    Descriptor {
        /// The number in the VM's process.
        descriptor: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What the VM has there is not the tap it was given.
    #[error("descriptor {descriptor} of a VM is not the tap it was given")]
    NotItsTap {
        /// The number in the VM's process.
        descriptor: i32,
    },
    /// The tap does not tell.
    #[error("cannot open the network namespace of a VM's tap")]
    Namespace(#[source] io::Error),
    /// It is the namespace this process is in, which is nobody's slot.
    #[error("a VM's tap is in the host's own network namespace")]
    Host,
}

impl Namespace {
    /// The calling thread's.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        Ok(Self(std::fs::File::open(OWN_NAMESPACE)?.into()))
    }

    /// Finds the slot of a running VM again, for a node that did not make it:
    /// the VM still has the tap as the descriptor it was given at start. The
    /// number is what the jail gave it; the pidfd must be that of the VM.
    pub fn of_vm(pidfd: &impl AsFd, tap_descriptor: i32) -> Result<Self, FindNamespaceError> {
        let descriptor = tap_descriptor;
        let tap = rustix::process::pidfd_getfd(pidfd, descriptor, PidfdGetfdFlags::empty())
            .map_err(|errno| FindNamespaceError::Descriptor {
                descriptor,
                source: errno.into(),
            })?;
        // A VM that was broken out of may have put something else there.
        if !tombolo_sys::net::is_tap(&tap, TAP_NAME).unwrap_or(false) {
            return Err(FindNamespaceError::NotItsTap { descriptor });
        }
        let found = tombolo_sys::net::namespace_of_tap(&tap)
            .map(Self)
            .map_err(FindNamespaceError::Namespace)?;
        let own = Self::of_this_thread().map_err(FindNamespaceError::Namespace)?;
        if found.is_same(&own).map_err(FindNamespaceError::Namespace)? {
            return Err(FindNamespaceError::Host);
        }
        Ok(found)
    }

    /// Whether both are one namespace.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (ours, theirs) = (rustix::fs::fstat(&self.0)?, rustix::fs::fstat(&other.0)?);
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }

    /// Makes the slot's listening sockets anew, when those it was made with are
    /// gone. [`ListenError::InUse`] says that somebody still holds them.
    pub fn listen(&self) -> Result<SlotSockets, ListenError> {
        self.enter(sockets::open)?
    }

    /// Runs `work` on a new thread inside the namespace and waits for it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, EnterError> {
        std::thread::scope(|scope| {
            let inside = move || {
                self.join().map_err(EnterError::Enter)?;
                Ok(work())
            };
            let thread = std::thread::Builder::new()
                .name("network-slot".to_owned())
                .spawn_scoped(scope, inside)
                .map_err(EnterError::Thread)?;
            thread.join().unwrap_or(Err(EnterError::Panicked))
        })
    }

    /// Moves the calling thread into the namespace.
    pub(crate) fn join(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Moves the calling thread into a new namespace.
pub(crate) fn unshare() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?)
}
