//! From the initial file system to a running guest: kernel modules, the root
//! disk, the mounts that programs expect, limits. Runs once, before anything
//! else, as PID 1; a failure here ends the guest.

mod limits;
mod mounts;

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};
use rustix::thread::{NanosleepRelativeResult, nanosleep};
use rustix::time::Timespec;

pub(crate) use limits::{OPEN_FILES_MAX, app_cgroup};

const MODULES: &str = "/modules";
const ROOT_DEVICE: &str = "/dev/vda";
/// In units of 512 bytes, whatever the disk's own sector is.
const ROOT_SECTORS: &str = "/sys/class/block/vda/size";
const SECTOR_BYTES: u64 = 512;
/// What the disk lacks to be all zeroes the image has already written. Zeroing the
/// tables of what is grown in the background would fill each sandbox's own layer.
const ROOT_OPTIONS: Option<&CStr> = Some(c"noinit_itable");
const NEW_ROOT: &str = "/newroot";
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};
/// Two milliseconds each: twenty seconds, which even a slow emulator beats.
const POLLS_MAX: u32 = 10_000;

/// Why a guest did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot mount {filesystem} on {target}")]
    Mount {
        filesystem: &'static str,
        target: &'static str,
        #[source]
        error: Errno,
    },
    #[error("cannot make {path}")]
    MakeDirectory {
        path: &'static str,
        #[source]
        error: Errno,
    },
    #[error("cannot read the list of kernel modules")]
    ModuleList(#[source] std::io::Error),
    #[error("cannot load the kernel module {path:?}")]
    Module {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("{what} did not appear")]
    Missing { what: &'static str },
    #[error("cannot move to the root disk")]
    SwitchRoot(#[source] Errno),
    #[error("cannot use the whole of the root disk")]
    GrowRoot(#[source] std::io::Error),
}

/// Brings the guest up as far as programs need.
pub(crate) fn boot() -> Result<(), BootError> {
    mounts::mount_early()?;
    crate::log::use_kernel_log();
    set("/proc/sys/kernel/printk", "1");
    load_modules()?;
    wait_for("the root disk", || {
        Path::new(ROOT_DEVICE).exists().then_some(())
    })?;
    mounts::make_directory(NEW_ROOT, 0o755)?;
    let mounted = mount(
        ROOT_DEVICE,
        NEW_ROOT,
        "ext4",
        MountFlags::empty(),
        ROOT_OPTIONS,
    );
    mounted.map_err(|error| BootError::Mount {
        filesystem: "ext4",
        target: "/",
        error,
    })?;
    switch_root().map_err(BootError::SwitchRoot)?;
    mounts::mount_late()?;
    grow_root().map_err(BootError::GrowRoot)?;
    rustix::system::sethostname(crate::system::NO_NAME.as_bytes())
        .unwrap_or_else(|errno| crate::log::log!("cannot name the machine: {errno}"));
    limits::set_system_limits();
    limits::protect_agent();
    if let Err(error) = tombolo_sys::guest::network::bring_up("lo") {
        crate::log::log!("cannot bring up the loopback interface: {error}");
    }
    Ok(())
}

/// Tries `look` until it finds something, for a bounded time.
pub(crate) fn wait_for<T>(
    what: &'static str,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, BootError> {
    for _ in 0..POLLS_MAX {
        if let Some(found) = look() {
            return Ok(found);
        }
        // Waking early only looks once more.
        if let NanosleepRelativeResult::Err(_) = nanosleep(&POLL) {
            break;
        }
    }
    Err(BootError::Missing { what })
}

/// Writes a kernel setting; a kernel without it is as good.
fn set(path: &str, value: &str) {
    if let Err(error) = fs_err::write(path, value) {
        crate::log::log!("cannot set {path} to {value}: {error}");
    }
}

fn load_modules() -> Result<(), BootError> {
    let order = Path::new(MODULES).join("order");
    let order = match fs_err::read_to_string(order) {
        Ok(order) => order,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BootError::ModuleList(error)),
    };
    let names = order.lines().map(str::trim);
    for name in names.filter(|name| !name.is_empty() && !name.starts_with('#')) {
        let path = Path::new(MODULES).join(name);
        load_module(&path).map_err(|error| BootError::Module { path, error })?;
    }
    Ok(())
}

fn load_module(path: &Path) -> std::io::Result<()> {
    let module = fs_err::File::open(path)?;
    match rustix::system::finit_module(module.file(), c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the disk the root, and gives back the memory of the initial one.
fn switch_root() -> Result<(), Errno> {
    for name in ["dev", "proc", "sys"] {
        let target = format!("{NEW_ROOT}/{name}");
        match rustix::fs::mkdir(target.as_str(), Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        mount_move(format!("/{name}").as_str(), target.as_str())?;
    }
    remove_modules();
    chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")
}

/// Gives the file system, which is as large as the image was made, the whole of
/// a disk that may be larger. Takes time only in the VM that becomes a template.
fn grow_root() -> std::io::Result<()> {
    let sectors = fs_err::read_to_string(ROOT_SECTORS)?;
    let sectors: u64 = sectors.trim().parse().map_err(std::io::Error::other)?;
    let root = fs_err::File::open("/")?;
    let block_bytes = rustix::fs::fstatvfs(root.file())?.f_bsize;
    let disk_bytes = sectors.saturating_mul(SECTOR_BYTES);
    let block_count = disk_bytes.checked_div(block_bytes).unwrap_or_default();
    tombolo_sys::guest::filesystem::grow_ext4(root.file(), block_count)
}

fn remove_modules() {
    let Ok(modules) = fs_err::read_dir(MODULES) else {
        return;
    };
    for module in modules.flatten() {
        if let Err(error) = fs_err::remove_file(module.path()) {
            crate::log::log!("{error}");
        }
    }
}

/// Opens the port that the host connects to.
pub(crate) fn open_port(name: &str) -> Result<std::os::fd::OwnedFd, BootError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    wait_for("the port to the host", || {
        let ports = fs_err::read_dir("/sys/class/virtio-ports").ok()?;
        let port = ports.flatten().find(|port| {
            let found = fs_err::read_to_string(port.path().join("name"));
            found.is_ok_and(|found| found.trim_end() == name)
        })?;
        let device = Path::new("/dev").join(port.file_name());
        let device = CString::new(device.into_os_string().into_encoded_bytes()).ok()?;
        rustix::fs::open(device, flags, Mode::empty()).ok()
    })
}
