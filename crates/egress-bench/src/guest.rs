//! The guest's side without a guest: a network namespace in which every virtual
//! address is a local one, and the four sockets at which a sandbox's traffic
//! arrives. Packets cross the loopback device instead of a tap and its rules,
//! so what is measured is the proxy alone.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use nix::sched::CloneFlags;
use nix::sys::socket::{setsockopt, sockopt};
use tombolo_node_proto::handover::SlotSockets;
use tombolo_proc::Command;

use crate::machine;

/// The addresses that names get (RFC 2544).
const VIRTUAL_NETWORK: &str = "198.18.0.0/15";
/// What guests connect to.
pub(crate) const HTTPS_PORT: u16 = 443;
const DNS_PORT: u16 = 53;

/// A namespace and its sockets.
#[derive(Debug)]
pub(crate) struct GuestSide {
    pub(crate) namespace: OwnedFd,
    pub(crate) sockets: SlotSockets<OwnedFd>,
}

impl GuestSide {
    pub(crate) fn make() -> anyhow::Result<Self> {
        in_thread(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace; this needs root")?;
            ip("link set lo up")?;
            ip(&format!("route add local {VIRTUAL_NETWORK} dev lo"))?;
            Ok(Self {
                namespace: machine::own_namespace()?,
                sockets: sockets(HTTPS_PORT, DNS_PORT)?,
            })
        })
    }

    /// Sockets to which nothing will ever come.
    pub(crate) fn idle_sockets(&self) -> anyhow::Result<SlotSockets<OwnedFd>> {
        in_thread(|| {
            machine::enter(&self.namespace)?;
            sockets(0, 0)
        })
    }
}

/// Work on a thread of its own, which may end in another namespace.
fn in_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    Command::new("ip")
        .args(arguments.split(' '))
        .run_blocking()?;
    Ok(())
}

fn sockets(tcp_port: u16, udp_port: u16) -> anyhow::Result<SlotSockets<OwnedFd>> {
    let tcp4 = TcpListener::bind((Ipv4Addr::UNSPECIFIED, tcp_port))?;
    let tcp6 = TcpListener::bind((Ipv6Addr::LOCALHOST, tcp_port))?;
    let udp4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, udp_port))?;
    let udp6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, udp_port))?;
    setsockopt(&udp4, sockopt::Ipv4OrigDstAddr, &true)?;
    setsockopt(&udp6, sockopt::Ipv6OrigDstAddr, &true)?;
    for listener in [&tcp4, &tcp6] {
        listener.set_nonblocking(true)?;
    }
    for socket in [&udp4, &udp6] {
        socket.set_nonblocking(true)?;
    }
    Ok(SlotSockets {
        tcp4: tcp4.into(),
        tcp6: tcp6.into(),
        udp4: udp4.into(),
        udp6: udp6.into(),
    })
}
