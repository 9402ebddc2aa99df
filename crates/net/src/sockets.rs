//! The sockets at which a guest's traffic arrives.
//!
//! All four are bound to loopback addresses and transparent: the kernel hands
//! them what the rules redirect, whatever its destination. A TCP connection's
//! local address is its original destination. A datagram's is in the control
//! message `IP_ORIGDSTADDR` or `IPV6_ORIGDSTADDR`; the answer is sent from it
//! with `IP_PKTINFO` or `IPV6_PKTINFO`. As they listen on port 53, the answer's
//! port is right by itself, and their holder needs no privilege.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::address::{DNS_PORT, PROXY_PORT};
use crate::namespace::EnterError;

/// Connections that wait for their holder, per socket; more are not answered.
const BACKLOG: i32 = 256;

/// Where a guest's traffic arrives.
#[derive(Debug)]
pub struct SlotSockets {
    /// Accepts connections to any IPv4 address and port.
    pub tcp4: OwnedFd,
    /// Accepts connections to any IPv6 address and port.
    pub tcp6: OwnedFd,
    /// Receives datagrams to port 53 of any IPv4 address.
    pub udp4: OwnedFd,
    /// Receives datagrams to port 53 of any IPv6 address.
    pub udp6: OwnedFd,
}

/// Why a slot's sockets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody still holds the slot's sockets.
    #[error("the sockets of the network slot are still in somebody's hands")]
    InUse,
    /// The namespace is not open to us.
    #[error("cannot make sockets in a network slot")]
    Enter(#[from] EnterError),
    /// The kernel refused.
    #[error("cannot {step} of a network slot")]
    Socket {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Makes the sockets in the calling thread's namespace.
pub(crate) fn open() -> Result<SlotSockets, ListenError> {
    let (ipv4, ipv6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    Ok(SlotSockets {
        tcp4: listen((ipv4, PROXY_PORT).into(), SocketType::STREAM)?,
        tcp6: listen((ipv6, PROXY_PORT).into(), SocketType::STREAM)?,
        udp4: listen((ipv4, DNS_PORT).into(), SocketType::DGRAM)?,
        udp6: listen((ipv6, DNS_PORT).into(), SocketType::DGRAM)?,
    })
}

fn listen(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, ListenError> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)
        .map_err(|errno| failed("make a socket")(errno.into()))?;
    prepare(&socket, address, kind).map_err(failed("prepare a socket"))?;
    match rustix::net::bind(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::ADDRINUSE) => return Err(ListenError::InUse),
        Err(errno) => return Err(failed("bind a socket")(errno.into())),
    }
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)
            .map_err(|errno| failed("listen on a socket")(errno.into()))?;
    }
    Ok(socket)
}

fn prepare(socket: &OwnedFd, address: SocketAddr, kind: SocketType) -> io::Result<()> {
    setsockopt(socket, sockopt::IpTransparent, &true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(socket, true)?;
    }
    if kind == SocketType::DGRAM && address.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?;
    }
    if kind == SocketType::DGRAM && address.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    Ok(())
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> ListenError {
    move |source| ListenError::Socket { step, source }
}
