//! What a node keeps of a slot once its tap is QEMU's: the way to its sockets,
//! for as long as the guest runs and whoever answers it comes and goes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::make::Slot;
use crate::namespace::{FindNamespaceError, Namespace};
use crate::sockets::{ListenError, SlotSockets};

/// A slot in use. While it lives, and with it the sockets, the connections of its
/// guest wait for whoever is to answer them.
#[derive(Debug)]
pub struct HeldSlot {
    namespace: Namespace,
    /// None in a node that did not make the slot, until nobody else has them.
    sockets: Mutex<Option<Arc<SlotSockets>>>,
}

impl Slot {
    /// Gives the tap away, for QEMU, and keeps the rest.
    pub fn split(self) -> (OwnedFd, HeldSlot) {
        let held = HeldSlot {
            namespace: self.namespace,
            sockets: Mutex::new(Some(Arc::new(self.sockets))),
        };
        (self.tap, held)
    }
}

impl HeldSlot {
    /// Finds the slot of a running VM again, as [`Namespace::of_vm`] does.
    pub fn of_vm(pidfd: &impl AsFd, tap_descriptor: i32) -> Result<Self, FindNamespaceError> {
        Ok(Self {
            namespace: Namespace::of_vm(pidfd, tap_descriptor)?,
            sockets: Mutex::new(None),
        })
    }

    /// Where the guest's traffic arrives. Makes the sockets anew if they were lost
    /// with the node that had them, which takes some milliseconds of the calling
    /// thread; [`ListenError::InUse`] says that who answers the guest still has the
    /// old ones, and that nothing needs to be done.
    pub fn sockets(&self) -> Result<Arc<SlotSockets>, ListenError> {
        let mut sockets = self.sockets.lock();
        if let Some(sockets) = &*sockets {
            return Ok(Arc::clone(sockets));
        }
        let made = Arc::new(self.namespace.listen()?);
        Ok(Arc::clone(sockets.insert(made)))
    }
}
