//! Whose rights a thread's file operations and connections have.

#![expect(unsafe_code, reason = "setfsuid and setfsgid have no safe wrapper")]

use std::io;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// A user as the kernel knows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Identity {
    pub(crate) fn kernel_groups(&self) -> Vec<Gid> {
        self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect()
    }
}

/// From now on the calling thread reaches files with the rights of `identity`
/// and without capabilities. Other threads keep theirs. The thread's real user
/// stays, so that `identity` gains no right to signal or trace it.
///
/// Does nothing when the process is not root: then it has one identity only.
pub fn assume_for_files(identity: &Identity) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    set_thread_groups(&identity.kernel_groups())?;
    // SAFETY: changes this thread's file system group only; touches no memory.
    unsafe { libc::setfsgid(identity.gid) };
    // SAFETY: changes this thread's file system user only; touches no memory.
    unsafe { libc::setfsuid(identity.uid) };
    // Both answer with the former value and no error; an id that does not
    // exist reads back what is in force.
    // SAFETY: no user has this id, so nothing changes.
    let gid = unsafe { libc::setfsgid(libc::gid_t::MAX) };
    // SAFETY: as above.
    let uid = unsafe { libc::setfsuid(libc::uid_t::MAX) };
    if i64::from(uid) != i64::from(identity.uid) || i64::from(gid) != i64::from(identity.gid) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let mut sets = capabilities(None)?;
    sets.effective = CapabilitySet::empty();
    set_capabilities(None, sets)?;
    Ok(())
}

/// From now on the calling thread is `identity` to files and to the programs it connects
/// to, which the kernel tells who their peer is, and has no capabilities. Other threads
/// stay what they are. The thread's real and saved users stay, so that `identity` gains
/// no right to signal or trace it.
///
/// Does nothing when the process is not root: then it has one identity only.
pub fn assume_to_connect(identity: &Identity) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    set_thread_groups(&identity.kernel_groups())?;
    set_thread_res_gid(None, Gid::from_raw(identity.gid), None)?;
    // The kernel takes the capabilities that are in effect along with it.
    set_thread_res_uid(None, Uid::from_raw(identity.uid), None)?;
    let mut sets = capabilities(None)?;
    sets.effective = CapabilitySet::empty();
    set_capabilities(None, sets)?;
    Ok(())
}
