//! Real slots, spoken to by a guest made of frames, as the attacks on a sealed
//! network would. Needs root and `nft`, as the project's test command has.

#![cfg(test)]

mod guest;
mod listener;

mod attacks;
mod life;
mod traffic;

use std::net::SocketAddr;

use tombolo_net::{Namespace, Slot, SlotPool, SlotSockets};

use guest::Guest;

/// A new slot with its guest.
struct Rig {
    guest: Guest,
    namespace: Namespace,
    sockets: SlotSockets,
}

fn slot() -> Slot {
    let make = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let pool = SlotPool::start(0).unwrap();
        runtime.unwrap().block_on(pool.take()).unwrap()
    };
    // A thread of its own, as a caller may have a runtime already.
    std::thread::spawn(make).join().unwrap()
}

fn rig() -> Rig {
    let slot = slot();
    Rig {
        guest: Guest::new(slot.tap),
        namespace: slot.namespace,
        sockets: slot.sockets,
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
