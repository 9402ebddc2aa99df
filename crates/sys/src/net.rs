//! Host side: taps, which are made and asked about by `ioctl` alone.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const TUN_DEVICE: &str = "/dev/net/tun";
/// `T`, the kind of the kernel's requests about taps (`linux/if_tun.h`).
const TUN_KIND: u8 = b'T';

nix::ioctl_write_ptr_bad!(
    set_interface,
    nix::request_code_write!(TUN_KIND, 202, size_of::<c_int>()),
    libc::ifreq
);
nix::ioctl_read_bad!(
    get_interface,
    nix::request_code_read!(TUN_KIND, 210, size_of::<libc::c_uint>()),
    libc::ifreq
);
nix::ioctl_none!(get_device_namespace, TUN_KIND, 227);

/// Makes a tap in the calling thread's network namespace, down and without
/// addresses. It is gone when the last copy of the descriptor is closed; until
/// then the namespace stays too. Frames are read and written with a
/// `virtio_net_hdr` of 10 bytes before them, so that a guest may leave
/// checksums and segmentation to us, and do not block.
pub fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let tap = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN_DEVICE)?;
    let mut request = empty_request();
    // The last byte stays 0, as the kernel wants it.
    let room = request.ifr_name.len() - 1;
    if name.is_empty() || name.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags.try_into().map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the request is a whole `ifreq` that
    // outlives the call, which reads and writes no more than that.
    unsafe { set_interface(tap.as_raw_fd(), &raw const request) }?;
    Ok(tap.into())
}

/// Whether the descriptor is a tap of this name.
pub fn is_tap(descriptor: &impl AsFd, name: &str) -> io::Result<bool> {
    let mut request = empty_request();
    // SAFETY: the descriptor is open and the request is a whole `ifreq` that
    // outlives the call, which writes no more than that.
    unsafe { get_interface(descriptor.as_fd().as_raw_fd(), &raw mut request) }?;
    let bytes = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    Ok(bytes.take_while(|byte| *byte != 0).eq(name.bytes()))
}

/// Opens the network namespace that a tap is in. Linux 5.10 or newer; the
/// caller needs its privileges over that namespace.
pub fn namespace_of_tap(tap: &impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument; it answers a new descriptor.
    let raw = unsafe { get_device_namespace(tap.as_fd().as_raw_fd()) }?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn empty_request() -> libc::ifreq {
    libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            // The largest member of the union.
            ifru_map: libc::__c_anonymous_ifru_map {
                mem_start: 0,
                mem_end: 0,
                base_addr: 0,
                irq: 0,
                dma: 0,
                port: 0,
            },
        },
    }
}
