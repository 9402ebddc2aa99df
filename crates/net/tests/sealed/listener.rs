//! What holds a slot's sockets, as an egress proxy would.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use tombolo_net::SlotSockets;

const PATIENCE: Duration = Duration::from_secs(5);

/// A datagram, from whom, and where it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) payload: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// The next connection of the family of `like`, and where it was to go.
pub(crate) fn accept(sockets: &SlotSockets, like: SocketAddr) -> (TcpStream, SocketAddr) {
    let listener = if like.is_ipv4() {
        &sockets.tcp4
    } else {
        &sockets.tcp6
    };
    wait_readable(listener);
    let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC).unwrap();
    let stream = TcpStream::from(accepted);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let destination = stream.local_addr().unwrap();
    (stream, destination)
}

/// The next datagram of the family of `like`.
pub(crate) fn receive(sockets: &SlotSockets, like: SocketAddr) -> Datagram {
    let socket = udp(sockets, like);
    wait_readable(socket);
    let mut payload = vec![0; 1 << 16];
    let mut parts = [IoSliceMut::new(&mut payload)];
    let mut space = nix::cmsg_space!(libc::sockaddr_in6);
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .unwrap();
    let from = std_address(received.address.as_ref().unwrap());
    let to = received.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => {
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        ControlMessageOwned::Ipv6OrigDstAddr(address) => {
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, 0).into())
        }
        _ => None,
    });
    let length = received.bytes;
    payload.truncate(length);
    Datagram {
        payload,
        from,
        to: to.expect("no original destination"),
    }
}

/// Answers a datagram in the name of whoever it was sent to.
pub(crate) fn answer(sockets: &SlotSockets, question: &Datagram, payload: &[u8]) {
    let socket = udp(sockets, question.to);
    let to = SockaddrStorage::from(question.from);
    let parts = [IoSlice::new(payload)];
    let sent = match question.to.ip() {
        IpAddr::V4(source) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(source).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(
                socket.as_raw_fd(),
                &parts,
                &control,
                MsgFlags::empty(),
                Some(&to),
            )
        }
        IpAddr::V6(source) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: source.octets(),
                },
                ipi6_ifindex: 0,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(
                socket.as_raw_fd(),
                &parts,
                &control,
                MsgFlags::empty(),
                Some(&to),
            )
        }
    };
    assert_eq!(sent, Ok(payload.len()));
}

/// No connection and no datagram waits at any socket.
pub(crate) fn assert_nothing_arrived(sockets: &SlotSockets, what: &str) {
    let all = [&sockets.tcp4, &sockets.tcp6, &sockets.udp4, &sockets.udp6];
    let mut ready = all.map(|socket| PollFd::new(socket, PollFlags::IN));
    let count = poll(&mut ready, Some(&Timespec::default())).unwrap();
    assert_eq!(count, 0, "{what} arrived at a socket");
}

fn udp(sockets: &SlotSockets, like: SocketAddr) -> &OwnedFd {
    if like.is_ipv4() {
        &sockets.udp4
    } else {
        &sockets.udp6
    }
}

fn wait_readable(socket: &OwnedFd) {
    let mut ready = [PollFd::new(socket, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let count = poll(&mut ready, Some(&patience)).unwrap();
    assert_eq!(count, 1, "nothing arrived");
}

fn std_address(address: &SockaddrStorage) -> SocketAddr {
    if let Some(address) = address.as_sockaddr_in() {
        return SocketAddr::V4((*address).into());
    }
    SocketAddr::V6((*address.as_sockaddr_in6().unwrap()).into())
}
