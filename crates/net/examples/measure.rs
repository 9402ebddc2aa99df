//! Prints what a slot costs: `sudo cargo run --release -p tombolo-net --example
//! measure`.

use std::time::Duration;

use tokio::time::Instant;
use tombolo_net::{Slot, SlotPool};

const SLOTS: usize = 50;
const POOLED: usize = 10;

#[expect(clippy::print_stdout, reason = "a measurement prints")]
fn say(what: &str, value: &str) {
    println!("{what:<44} {value}");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let empty = SlotPool::start(0)?;
    drop(empty.take().await?);
    let before = memory_kib()?;
    let mut slots: Vec<Slot> = Vec::with_capacity(SLOTS);
    let mut made = Vec::with_capacity(SLOTS);
    for _ in 0..SLOTS {
        let start = Instant::now();
        slots.push(empty.take().await?);
        made.push(start.elapsed());
    }
    report("made on demand", made);
    let used = memory_kib()?.saturating_sub(before);
    let each = used / u64::try_from(SLOTS)?;
    say("memory of the kernel, each", &format!("{each} KiB"));
    let mut dropped = Vec::with_capacity(SLOTS);
    let mut without_tap = Vec::with_capacity(SLOTS);
    for (index, slot) in slots.into_iter().enumerate() {
        let Slot {
            tap,
            namespace,
            sockets,
        } = slot;
        let start = Instant::now();
        if index % 2 == 0 {
            drop((sockets, namespace, tap));
            dropped.push(start.elapsed());
        } else {
            drop((sockets, namespace));
            without_tap.push(start.elapsed());
        }
    }
    report("dropped whole", dropped);
    report("dropped, but for the tap", without_tap);
    let pool = SlotPool::start(POOLED)?;
    while pool.ready_count() < POOLED {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut taken = Vec::with_capacity(POOLED);
    let mut kept = Vec::with_capacity(POOLED);
    for _ in 0..POOLED {
        let start = Instant::now();
        kept.push(pool.take().await?);
        taken.push(start.elapsed());
    }
    report("taken from the pool, while it refills", taken);
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() - 1) * percent / 100).copied();
    let (median, worst) = (at(50).unwrap_or_default(), at(100).unwrap_or_default());
    say(what, &format!("median {median:?}, worst {worst:?}"));
}

/// What the kernel itself uses. Resident memory of processes would hide it.
fn memory_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let text = fs_err::read_to_string("/proc/meminfo")?;
    let mut sum = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        if ["Slab:", "Percpu:", "VmallocUsed:"].contains(&name) {
            sum += words.next().unwrap_or("0").parse::<u64>()?;
        }
    }
    Ok(sum)
}
