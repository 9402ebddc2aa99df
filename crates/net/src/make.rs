//! Makes slots, one after the other, on a thread that is given to nothing else:
//! it moves from namespace to namespace.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use tokio::runtime::{Builder, Runtime};
use tombolo_proc::RunError;

use crate::address::TAP_NAME;
use crate::links::{self, ConfigureLinksError};
use crate::namespace::{self, Namespace};
use crate::sockets::{self, ListenError, SlotSockets};
use crate::{kernel, rules};

/// A network for one sandbox. Dropping all of it is its end: the kernel takes
/// the namespace apart in its own time. It is never used for a second guest.
/// Closing the last copy of the tap takes tens of milliseconds; for a running
/// sandbox that is QEMU's, else use [`discard`](Self::discard).
#[derive(Debug)]
pub struct Slot {
    /// For QEMU, as `-netdev tap,fd=`. When its last copy is closed the tap is
    /// gone, and nothing can be made to work in the slot again.
    pub tap: OwnedFd,
    /// Kept by the node, to make the sockets anew should they be lost.
    pub namespace: Namespace,
    /// For whoever answers the guest. While a copy is kept, connections wait for
    /// a new holder instead of being refused.
    pub sockets: SlotSockets,
}

impl Slot {
    /// Drops a slot that no VM has got, without waiting for the kernel.
    pub fn discard(self) {
        let thread = std::thread::Builder::new().name("network-slot".to_owned());
        // Without a thread it is dropped here.
        thread.spawn(move || drop(self)).ok();
    }
}

/// Why a slot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeSlotError {
    /// No thread or runtime for the work.
    #[error("cannot start the maker of network slots")]
    Maker(#[source] io::Error),
    /// No namespace.
    #[error("cannot {step} a network namespace; this needs root")]
    Namespace {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A kernel setting, which names itself in the cause.
    #[error("cannot configure a network namespace; a kernel with IPv6 is needed")]
    Settings(#[source] io::Error),
    /// No tap.
    #[error("cannot make a tap; /dev/net/tun is needed: modprobe tun")]
    Tap(#[source] io::Error),
    /// The packet rules were not taken.
    #[error("cannot load the rules of a network slot; nft is needed: apt-get install nftables")]
    Rules(#[source] RunError),
    /// Interfaces, addresses or routes were not taken.
    #[error("cannot configure the interfaces of a network slot")]
    Links(#[from] ConfigureLinksError),
    /// No sockets.
    #[error(transparent)]
    Sockets(#[from] ListenError),
}

/// Makes slots on the thread it was made on, and only there.
#[derive(Debug)]
pub(crate) struct SlotMaker {
    home: Namespace,
    runtime: Runtime,
}

impl SlotMaker {
    /// A maker for the calling thread.
    pub(crate) fn new() -> Result<Self, MakeSlotError> {
        let home = Namespace::of_this_thread().map_err(MakeSlotError::Maker)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(MakeSlotError::Maker)?;
        Ok(Self { home, runtime })
    }

    /// Makes a slot. The thread is back in its own namespace when this answers;
    /// if it cannot go back, every later call fails.
    pub(crate) fn make(&self) -> Result<Slot, MakeSlotError> {
        let namespace = |step| move |source| MakeSlotError::Namespace { step, source };
        // Wherever a call before this one has left the thread.
        self.home.join().map_err(namespace("leave"))?;
        namespace::unshare().map_err(namespace("make"))?;
        let made = self.runtime.block_on(make_here());
        // Also so that this thread does not keep the slot alive.
        self.home.join().map_err(namespace("leave"))?;
        made
    }
}

/// Makes the calling thread's namespace, which is new, a slot.
async fn make_here() -> Result<Slot, MakeSlotError> {
    let namespace = Namespace::of_this_thread().map_err(|source| MakeSlotError::Namespace {
        step: "open",
        source,
    })?;
    kernel::configure().map_err(MakeSlotError::Settings)?;
    let tap = tombolo_sys::net::open_tap(TAP_NAME).map_err(MakeSlotError::Tap)?;
    let index = nix::net::if_::if_nametoindex(TAP_NAME)
        .map_err(|errno: Errno| MakeSlotError::Tap(errno.into()))?;
    rules::load().await.map_err(MakeSlotError::Rules)?;
    let sockets = sockets::open()?;
    links::configure(index).await?;
    Ok(Slot {
        tap,
        namespace,
        sockets,
    })
}
