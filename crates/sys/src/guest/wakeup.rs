//! Getting a thread out of a system call that may block for ever, such as a
//! wait for a file lock: a signal with a handler that does nothing, and
//! without `SA_RESTART`, makes the call return `EINTR`.

#![expect(
    unsafe_code,
    reason = "signal handlers and tgkill have no safe wrapper"
)]

use std::io;

const SIGNAL: libc::c_int = libc::SIGUSR1;

extern "C" fn on_wakeup(_signal: libc::c_int) {}

/// Installs the handler. Call once, before any [`wake`].
pub fn install() -> io::Result<()> {
    // SAFETY: `sigaction` is plain data for which all zeroes is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_wakeup as *const () as libc::sighandler_t;
    // SAFETY: the handler touches nothing, so it may run at any point of any
    // thread; `action` lives across the call.
    let installed = unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
    if installed < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A thread of this process.
#[derive(Clone, Copy, Debug)]
pub struct ThreadId(rustix::process::Pid);

/// The calling thread.
#[must_use]
pub fn current_thread() -> ThreadId {
    ThreadId(rustix::thread::gettid())
}

/// Interrupts the system call that `thread` is in, if it is in one. A thread
/// about to enter one is missed, so the caller repeats until it sees an effect.
pub fn wake(thread: ThreadId) -> io::Result<()> {
    let process = rustix::process::getpid().as_raw_pid();
    let thread = thread.0.as_raw_pid();
    // SAFETY: sends a signal whose handler does nothing to a thread of this
    // process, or fails when there is none.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
