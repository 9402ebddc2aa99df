//! How a node hands the sockets of a network slot to the egress proxy: one
//! message of a `SOCK_SEQPACKET` connection for each slot, with the sandbox's id
//! as its bytes and four descriptors beside them (`unix(7)`, `SCM_RIGHTS`).
//!
//! A descriptor cannot travel in gRPC, and a connection of its own keeps the
//! order of nothing else: connections of a guest wait in the sockets until
//! their new holder knows what the sandbox may do. Both sides are safe code, so
//! the proxy needs nothing else of ours to receive.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg,
};
use tombolo_ids::{ParseIdError, SandboxId};

/// Sockets of a slot.
const SOCKET_COUNT: usize = 4;
/// Longer than any id of a sandbox.
const MESSAGE_LEN_MAX: usize = 64;

/// Where a sandbox's traffic arrives, in the order of the message. `F` is an
/// owned or a borrowed descriptor.
#[derive(Debug)]
pub struct SlotSockets<F> {
    /// Accepts connections to any IPv4 address and port; a connection's local
    /// address is the one it was meant for.
    pub tcp4: F,
    /// The same for IPv6.
    pub tcp6: F,
    /// Receives datagrams to port 53 of any IPv4 address; the address one was
    /// meant for is in the control message `IP_ORIGDSTADDR`, and the answer is
    /// sent from it with `IP_PKTINFO`.
    pub udp4: F,
    /// The same for IPv6: `IPV6_ORIGDSTADDR`, `IPV6_PKTINFO`.
    pub udp6: F,
}

/// One sandbox's sockets, received.
#[derive(Debug)]
pub struct Handover {
    /// Whose they are.
    pub sandbox: SandboxId,
    /// Non-blocking and closed on exec.
    pub sockets: SlotSockets<OwnedFd>,
}

/// Why sockets were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum SendSocketsError {
    /// The other side does not keep up. Send again once the connection is
    /// writable.
    #[error("the egress proxy does not take sockets now")]
    WouldBlock,
    /// The connection is broken.
    #[error("cannot hand the sockets of a network slot to the egress proxy")]
    Send(#[source] std::io::Error),
}

/// Why no sockets were received. After any but [`WouldBlock`](Self::WouldBlock)
/// the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveSocketsError {
    /// Nothing is there yet. Receive again once the connection is readable.
    #[error("no sockets have been handed over")]
    WouldBlock,
    /// The connection is broken.
    #[error("cannot receive the sockets of a network slot")]
    Receive(#[source] std::io::Error),
    /// The message is longer than any, or carries more descriptors than belong
    /// to a slot.
    #[error("a handover is too large")]
    TooLarge,
    /// The message does not begin with the id of a sandbox.
    #[error("a handover does not say whose it is")]
    Sandbox(#[from] ParseIdError),
    /// The message is not text.
    #[error("a handover is not text")]
    Text(#[from] std::str::Utf8Error),
    /// There are not four descriptors, or one is not the socket it should be.
    #[error("a handover does not carry the four sockets of a slot")]
    Sockets,
}

/// Hands a slot's sockets over. The caller keeps its own copies.
pub fn send(
    connection: impl AsFd,
    sandbox: &SandboxId,
    sockets: &SlotSockets<BorrowedFd<'_>>,
) -> Result<(), SendSocketsError> {
    let descriptors = [sockets.tcp4, sockets.tcp6, sockets.udp4, sockets.udp6];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKET_COUNT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // Always fits: the space is made for it.
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let message = [IoSlice::new(sandbox.as_str().as_bytes())];
    match sendmsg(connection, &message, &mut control, SendFlags::NOSIGNAL) {
        // A message is sent whole or not at all.
        Ok(_) => Ok(()),
        Err(Errno::AGAIN) => Err(SendSocketsError::WouldBlock),
        Err(errno) => Err(SendSocketsError::Send(errno.into())),
    }
}

/// Receives a slot's sockets, and nothing once the node has closed its side.
pub fn receive(connection: impl AsFd) -> Result<Option<Handover>, ReceiveSocketsError> {
    // Room for more than belong, so that too many are seen to be too many.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKET_COUNT + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MESSAGE_LEN_MAX];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = match recvmsg(
        connection,
        &mut parts,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Err(ReceiveSocketsError::WouldBlock),
        Err(errno) => return Err(ReceiveSocketsError::Receive(errno.into())),
    };
    // Taken over at once, so that they are closed whatever is wrong.
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    if received.flags.intersects(cut) {
        return Err(ReceiveSocketsError::TooLarge);
    }
    let text = bytes.get(..received.bytes).unwrap_or_default();
    Ok(Some(Handover {
        sandbox: std::str::from_utf8(text)?.parse()?,
        sockets: SlotSockets::checked(descriptors)?,
    }))
}

impl SlotSockets<OwnedFd> {
    /// The four, if they are what they should be.
    fn checked(descriptors: Vec<OwnedFd>) -> Result<Self, ReceiveSocketsError> {
        let [tcp4, tcp6, udp4, udp6]: [OwnedFd; SOCKET_COUNT] = descriptors
            .try_into()
            .map_err(|_other: Vec<OwnedFd>| ReceiveSocketsError::Sockets)?;
        let expected = [
            (&tcp4, AddressFamily::INET, SocketType::STREAM),
            (&tcp6, AddressFamily::INET6, SocketType::STREAM),
            (&udp4, AddressFamily::INET, SocketType::DGRAM),
            (&udp6, AddressFamily::INET6, SocketType::DGRAM),
        ];
        let is_right = |(socket, family, kind): (&OwnedFd, AddressFamily, SocketType)| {
            socket_domain(socket) == Ok(family) && socket_type(socket) == Ok(kind)
        };
        if !expected.into_iter().all(is_right) {
            return Err(ReceiveSocketsError::Sockets);
        }
        Ok(Self {
            tcp4,
            tcp6,
            udp4,
            udp6,
        })
    }

    /// The same sockets, to be handed on.
    pub fn borrowed(&self) -> SlotSockets<BorrowedFd<'_>> {
        SlotSockets {
            tcp4: self.tcp4.as_fd(),
            tcp6: self.tcp6.as_fd(),
            udp4: self.udp4.as_fd(),
            udp6: self.udp6.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use rustix::net::{SocketFlags, socketpair};
    use tombolo_ids::Region;

    use super::*;

    fn connection() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn sockets() -> SlotSockets<OwnedFd> {
        let tcp = |address| OwnedFd::from(TcpListener::bind(address).unwrap());
        let udp = |address| OwnedFd::from(UdpSocket::bind(address).unwrap());
        SlotSockets {
            tcp4: tcp("127.0.0.1:0"),
            tcp6: tcp("[::1]:0"),
            udp4: udp("127.0.0.1:0"),
            udp6: udp("[::1]:0"),
        }
    }

    fn id() -> SandboxId {
        SandboxId::random("loc".parse::<Region>().unwrap()).unwrap()
    }

    fn send_raw(connection: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(12))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let parts = [IoSlice::new(bytes)];
        sendmsg(connection, &parts, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn each_handover_arrives_whole_and_in_order() {
        let (node, proxy) = connection();
        let waiting = receive(&proxy);
        assert!(matches!(waiting, Err(ReceiveSocketsError::WouldBlock)));
        let sent: Vec<_> = (0..3).map(|_| (id(), sockets())).collect();
        for (id, sockets) in &sent {
            send(&node, id, &sockets.borrowed()).unwrap();
        }
        for (id, sockets) in &sent {
            let got = receive(&proxy).unwrap().unwrap();
            assert_eq!(got.sandbox, *id);
            let name = |socket: &OwnedFd| rustix::net::getsockname(socket).unwrap();
            assert_eq!(name(&got.sockets.tcp4), name(&sockets.tcp4));
            assert_eq!(name(&got.sockets.udp6), name(&sockets.udp6));
            let flags = rustix::io::fcntl_getfd(&got.sockets.tcp6).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        drop(node);
        assert!(receive(&proxy).unwrap().is_none());
    }

    #[test]
    fn a_receiver_that_stalls_is_told_apart_from_one_that_is_gone() {
        let (node, proxy) = connection();
        let (id, sockets) = (id(), sockets());
        let mut results = std::iter::repeat_with(|| send(&node, &id, &sockets.borrowed()));
        let stalled = results.by_ref().find(Result::is_err).unwrap();
        assert!(matches!(stalled, Err(SendSocketsError::WouldBlock)));
        drop(proxy);
        assert!(matches!(
            results.next(),
            Some(Err(SendSocketsError::Send(_)))
        ));
    }

    #[test]
    fn what_is_not_a_handover_is_refused() {
        let (id, own) = (id(), sockets());
        let right = own.borrowed();
        let all = [right.tcp4, right.tcp6, right.udp4, right.udp6];
        let name = id.as_str().as_bytes();
        let long = [b'a'; MESSAGE_LEN_MAX + 1];
        let many = [all, all, all].concat();
        let swapped = [all[1], all[0], all[2], all[3]];
        let cases: [(&[u8], &[BorrowedFd<'_>], &str); 8] = [
            (name, &[], "Sockets"),
            (name, &all[..3], "Sockets"),
            (name, &many[..5], "Sockets"),
            (name, &many, "TooLarge"),
            (name, &swapped, "Sockets"),
            (&long, &all, "TooLarge"),
            (b"sbx_", &all, "Sandbox"),
            (b"\xff\xfe", &all, "Text"),
        ];
        for (bytes, descriptors, expected) in cases {
            let (node, proxy) = connection();
            send_raw(&node, bytes, descriptors);
            let refused = format!("{:?}", receive(&proxy).unwrap_err());
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}
