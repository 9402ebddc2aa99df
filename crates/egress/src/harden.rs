//! What this process gives up before it holds anything secret.

use std::io;

use nix::{
    libc,
    sys::mman::{MlockAllFlags, mlockall},
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Nobody of the same user reads its memory, no crash writes it to a disk, and none of it is
/// swapped out.
///
/// The whole memory is meant, and not the values alone: the HTTP library's buffers hold
/// heads and bodies with values in them, where nobody could mark them.
pub(crate) fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    keep_from_swap()
}

/// Locks each page once it is used. With a limit on that, a process that reached it would
/// get no memory any more, so it is said instead, and nothing is locked.
fn keep_from_swap() -> io::Result<()> {
    if getrlimit(Resource::Memlock).current.is_some() {
        tracing::warn!(
            "values of secrets may be swapped out, because this process may lock little memory; \
             give \"tombolo up\" an unlimited RLIMIT_MEMLOCK (LimitMEMLOCK=infinity, ulimit -l)"
        );
        return Ok(());
    }
    // The wrapper does not know the flag that leaves alone what was never used.
    let when_used = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | when_used)?;
    Ok(())
}
