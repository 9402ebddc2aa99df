//! What happens between clone and exec. No allocation, no locks, no panics:
//! the child of a threaded process may do only async-signal-safe things.

use super::{Access, Plan, own, raw};
use rustix::fs::{CWD, FileType, Mode, makedev};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::os::fd::OwnedFd;

/// Length of what a child that fails writes to its parent: step, errno.
pub(super) const REPORT_LEN: usize = 5;

/// Steps by the number a report carries.
const STEPS: [&str; 13] = [
    "begin",
    "enter its control groups",
    "make a session",
    "make its mounts private",
    "bind its root",
    "make its devices",
    "bind a directory",
    "make a bind read-only",
    "change its root",
    "limit its resources",
    "give up privileges",
    "place its descriptors",
    "execute the program",
];

/// Why the child gave up, as sent through the report pipe.
pub(super) fn decode_report(report: [u8; REPORT_LEN]) -> (&'static str, std::io::Error) {
    let [step, errno @ ..] = report;
    let step = STEPS.get(usize::from(step)).copied().unwrap_or("start");
    let errno = i32::from_ne_bytes(errno);
    (step, std::io::Error::from_raw_os_error(errno))
}

/// Makes the child and, in it, never returns. Answers its pid and pidfd.
pub(super) fn clone(plan: &Plan, report: &OwnedFd) -> std::io::Result<(i32, OwnedFd)> {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_PIDFD
        | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: without CLONE_VM this is a fork: the child gets a copy of this
    // address space and returns from here on its own copy of the stack. The
    // kernel writes the pidfd into the parent's `pidfd`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags),
            0,
            &raw mut pidfd,
            0,
            0,
        )
    };
    match answer {
        -1 => Err(std::io::Error::last_os_error()),
        0 => become_program(plan, report),
        pid => Ok((
            i32::try_from(pid).map_err(std::io::Error::other)?,
            own(pidfd),
        )),
    }
}

fn become_program(plan: &Plan, report: &OwnedFd) -> ! {
    let (step, errno) = match run_steps(plan) {
        Ok(()) => {
            let environment: [*const libc::c_char; 1] = [std::ptr::null()];
            // SAFETY: `program` is NUL-ended, `argv_pointers` and
            // `environment` are arrays of such, ended by a null pointer.
            unsafe {
                libc::execve(
                    plan.program.as_ptr(),
                    plan.argv_pointers.as_ptr(),
                    environment.as_ptr(),
                )
            };
            (12, Errno::from_io_error(&std::io::Error::last_os_error()))
        }
        Err((step, errno)) => (step, Some(errno)),
    };
    let errno = errno.unwrap_or(Errno::IO).raw_os_error().to_ne_bytes();
    let bytes = [step, errno[0], errno[1], errno[2], errno[3]];
    // The parent learns of a lost report by the exit all the same.
    rustix::io::write(report, &bytes).ok();
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

fn run_steps(plan: &Plan) -> Result<(), (u8, Errno)> {
    let at = |step: u8| move |errno: Errno| (step, errno);
    for procs in &plan.cgroup_procs {
        rustix::io::write(procs, b"0").map_err(at(1))?;
    }
    rustix::process::setsid().map_err(at(2))?;
    rustix::mount::mount_change(
        c"/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(at(3))?;
    rustix::mount::mount_bind(&plan.root, &plan.root).map_err(at(4))?;
    make_devices(plan).map_err(at(5))?;
    for (source, target, _) in &plan.binds {
        rustix::mount::mount_bind(source, target).map_err(at(6))?;
    }
    let locked = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    for (_, target, access) in &plan.binds {
        let flags = match access {
            Access::Read => locked | MountFlags::RDONLY,
            Access::Write => locked,
        };
        rustix::mount::mount_remount(target, flags, c"").map_err(at(7))?;
    }
    rustix::mount::mount_remount(&plan.root, locked | MountFlags::RDONLY, c"").map_err(at(7))?;
    rustix::process::chdir(&plan.root).map_err(at(8))?;
    rustix::process::pivot_root(c".", c".").map_err(at(8))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(at(8))?;
    rustix::process::chdir(c"/").map_err(at(8))?;
    limit_resources().map_err(at(9))?;
    drop_privileges(plan).map_err(at(10))?;
    place_descriptors(plan).map_err(at(11))
}

fn make_devices(plan: &Plan) -> Result<(), Errno> {
    rustix::mount::mount(
        c"none",
        &plan.dev,
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"size=64k,mode=755",
    )?;
    for (path, major, minor) in &plan.dev_nodes {
        let mode = Mode::from_raw_mode(0o666);
        let device = makedev(*major, *minor);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, device)?;
        // The umask of the parent must not decide.
        rustix::fs::chmodat(CWD, path, mode, rustix::fs::AtFlags::empty())?;
    }
    rustix::mount::mount_remount(
        &plan.dev,
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC,
        c"",
    )
}

fn limit_resources() -> Result<(), Errno> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |value: u64| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Nofile, limit(1024))
}

fn drop_privileges(plan: &Plan) -> Result<(), Errno> {
    use rustix::process::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn place_descriptors(plan: &Plan) -> Result<(), Errno> {
    place(&plan.null, 0)?;
    place(&plan.stdout, 1)?;
    place(&plan.stderr, 2)?;
    let mut next = 3;
    for descriptor in &plan.descriptors {
        place(descriptor, next)?;
        next += 1;
    }
    // Everything else that this process inherited, the report pipe included,
    // closes itself at exec.
    // SAFETY: marks descriptors close-on-exec; touches no memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            next,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

fn place(descriptor: &OwnedFd, number: i32) -> Result<(), Errno> {
    // SAFETY: dup2 touches no memory; `number` is below every raised one, so
    // nothing we still need is closed by it.
    if unsafe { libc::dup2(raw(descriptor), number) } == number {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
