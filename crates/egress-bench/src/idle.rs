//! What a sandbox costs that does nothing, and how long a new one waits for its
//! network.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep, timeout};
use tombolo_ids::SandboxId;
use tombolo_net::{Slot, SlotPool};
use tombolo_node_proto::handover::SlotSockets;

use crate::guest::GuestSide;
use crate::machine::{number, resident_kib};
use crate::origin::Origin;
use crate::proxy::Proxy;

/// Sandboxes that idle.
const IDLE: u32 = 200;
/// Slots that are handed out.
const SLOTS: usize = 40;
const FILL_TIMEOUT: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const DIGITS: u8 = 3;

/// How long a sandbox waits, in nanoseconds.
#[derive(Debug)]
pub(crate) struct HandOut {
    /// For a slot of the pool.
    pub(crate) take: Histogram<u64>,
    /// Until the proxy carries it.
    pub(crate) attach: Histogram<u64>,
}

/// What the proxy keeps in memory for each sandbox that does nothing, in KiB.
pub(crate) async fn memory_kib(
    program: &Path,
    origin: &Origin,
    guest: &GuestSide,
) -> anyhow::Result<f64> {
    let mut proxy = Proxy::start(program, origin).await?;
    // What the first one makes is made once.
    proxy.attach(&guest.idle_sockets()?.borrowed()).await?;
    let before = resident_kib(proxy.pid)?;
    for _ in 0..IDLE {
        proxy.attach(&guest.idle_sockets()?.borrowed()).await?;
    }
    Ok((resident_kib(proxy.pid)? - before) / f64::from(IDLE))
}

/// Hands out slots that wait, each to a sandbox of its own.
pub(crate) async fn hand_out(proxy: &mut Proxy) -> anyhow::Result<HandOut> {
    let pool = SlotPool::start(SLOTS)?;
    let filled = async {
        while pool.ready_count() < SLOTS {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(FILL_TIMEOUT, filled)
        .await
        .context("the pool of slots is not filled")?;
    let (mut take, mut attach) = (Histogram::new(DIGITS)?, Histogram::new(DIGITS)?);
    let mut taken = Vec::new();
    for _ in 0..SLOTS {
        let began = Instant::now();
        let slot = pool.take().await?;
        take.record(nanos(began))?;
        taken.push(slot);
    }
    drop(pool);
    for slot in taken {
        attach.record(attach_slot(proxy, slot).await?)?;
    }
    Ok(HandOut { take, attach })
}

/// How long it takes until a sandbox is carried. It is not afterwards.
async fn attach_slot(proxy: &mut Proxy, slot: Slot) -> anyhow::Result<u64> {
    let id = SandboxId::random("loc".parse()?)?;
    let (request, _) = proxy.request(&id)?;
    let sockets = SlotSockets {
        tcp4: slot.sockets.tcp4.as_fd(),
        tcp6: slot.sockets.tcp6.as_fd(),
        udp4: slot.sockets.udp4.as_fd(),
        udp6: slot.sockets.udp6.as_fd(),
    };
    let began = Instant::now();
    proxy.introduce(&id, &sockets, request).await?;
    let waited = nanos(began);
    proxy.detach(&id).await?;
    slot.discard();
    Ok(waited)
}

fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A quantile in microseconds.
pub(crate) fn micros(seen: &Histogram<u64>, quantile: f64) -> f64 {
    number(seen.value_at_quantile(quantile)) / 1000.0
}
