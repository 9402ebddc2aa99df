//! Datagrams with their original destinations, from which they are answered.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// The longest datagram that is read; questions are far shorter.
pub(super) const LEN_MAX: usize = 4096;

/// A socket of questions.
#[derive(Debug)]
pub(crate) enum Datagrams {
    /// A transparent one, which tells where each datagram was sent.
    Transparent(UdpSocket),
    /// An ordinary one, with what to say instead.
    #[cfg(test)]
    Plain(UdpSocket, SocketAddr),
}

impl Datagrams {
    /// Takes a transparent socket that is not blocking.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::net::UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self::Transparent(UdpSocket::from_std(socket)?))
    }

    /// The next datagram: its length, from whom, and to whom.
    pub(super) async fn receive(
        &self,
        buffer: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        match self {
            Self::Transparent(socket) => {
                socket
                    .async_io(Interest::READABLE, || receive(socket, buffer))
                    .await
            }
            #[cfg(test)]
            Self::Plain(socket, original) => {
                let (len, source) = socket.recv_from(buffer).await?;
                Ok((len, source, *original))
            }
        }
    }

    /// Answers in the name of whoever was asked.
    pub(super) async fn answer(
        &self,
        answer: &[u8],
        to: SocketAddr,
        from: SocketAddr,
    ) -> io::Result<()> {
        match self {
            Self::Transparent(socket) => {
                socket
                    .async_io(Interest::WRITABLE, || send(socket, answer, to, from.ip()))
                    .await
            }
            #[cfg(test)]
            Self::Plain(socket, _) => socket.send_to(answer, to).await.map(drop),
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    let mut space = nix::cmsg_space!(libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let source = received.address.as_ref().and_then(address);
    let original = received.cmsgs()?.find_map(|message| match message {
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
    match (source, original) {
        (Some(source), Some(original)) => Ok((received.bytes, source, original)),
        _ => Err(io::Error::other("a datagram without addresses")),
    }
}

fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
    let to = SockaddrStorage::from(to);
    let parts = [IoSlice::new(answer)];
    let send = |control: &[ControlMessage<'_>]| {
        let socket = socket.as_raw_fd();
        sendmsg(socket, &parts, control, MsgFlags::empty(), Some(&to))
    };
    match from {
        IpAddr::V4(from) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(from).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send(&[ControlMessage::Ipv4PacketInfo(&info)])?;
        }
        IpAddr::V6(from) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: from.octets(),
                },
                ipi6_ifindex: 0,
            };
            send(&[ControlMessage::Ipv6PacketInfo(&info)])?;
        }
    }
    Ok(())
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|address| SocketAddrV6::from(*address).into())
    })
}
