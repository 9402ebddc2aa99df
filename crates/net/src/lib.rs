//! The network of a sandbox: a *slot*, a network namespace with no way out.
//!
//! A slot holds `lo` and one tap, which QEMU gives to its guest as a network
//! card. Nothing is routed, forwarded or translated. Every TCP connection and
//! every DNS datagram of the guest, wherever it was sent, arrives at a listening
//! socket made inside the namespace, with its original destination; whoever
//! holds that socket answers in the destination's place. All else is dropped
//! before the kernel has looked into it, but for UDP to other ports, which is
//! refused, so that QUIC falls back to TCP at once. With nobody listening there
//! is no network at all.
//!
//! Only a node uses this crate, and as root. What a guest sends is handled by
//! the kernel and by who holds the sockets: no byte of it is read here.

pub mod address;
mod held;
mod kernel;
mod links;
mod make;
mod namespace;
mod pool;
mod rules;
mod sockets;

pub use held::HeldSlot;
pub use links::ConfigureLinksError;
pub use make::{MakeSlotError, Slot};
pub use namespace::{EnterError, FindNamespaceError, Namespace};
pub use pool::{SlotPool, TakeSlotError};
pub use sockets::{ListenError, SlotSockets};
