//! What a client does to a route, and what it saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::machine::{cpu_seconds, now_nanos, number};
use crate::origin::{BULK, BULK_BYTES, EVENTS, ITEM, ITEM_BYTES};
use crate::pacer::Pacer;
use crate::route::{Client, Sender};

/// What is done before it counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a throughput is looked at.
const WINDOW: Duration = Duration::from_millis(1500);
/// How long latencies are looked at.
const STEADY: Duration = Duration::from_secs(2);
/// How long events are looked at.
const EVENTS_FOR: Duration = Duration::from_secs(1);
/// Connections of a client that keeps them.
const KEPT: u64 = 32;
/// Connections and streams of each of a client with HTTP/2.
const KEPT_HTTP2: u64 = 4;
const STREAMS: u64 = 16;
/// Connections of a client with a steady rate.
const STEADY_CONNECTIONS: u64 = 16;
/// Connections that are opened at the same time.
const OPENING: u64 = 8;
const SECOND_NANOS: u64 = 1_000_000_000;
/// Three digits: to a thousandth.
const DIGITS: u8 = 3;

/// How much was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    pub(crate) per_second: f64,
    /// For each second that the measured process was on a processor; none where
    /// there is no process to look at.
    pub(crate) per_cpu_second: Option<f64>,
}

/// Requests on connections that are kept, as fast as they are answered.
pub(crate) async fn keep_alive(
    client: Arc<Client>,
    process: Option<u32>,
) -> anyhow::Result<Throughput> {
    let done = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    let probe = client.open().await?;
    let (connections, streams) = match probe.another() {
        Some(_) => (KEPT_HTTP2, STREAMS),
        None => (KEPT, 1),
    };
    drop(probe);
    for _ in 0..connections {
        let first = client.open().await?;
        let others = (1..streams).filter_map(|_| first.another());
        let senders: Vec<Sender> = others.collect();
        for sender in senders.into_iter().chain([first]) {
            workers.spawn(ask_forever(Arc::clone(&client), sender, Arc::clone(&done)));
        }
    }
    observe(&mut workers, &done, process).await
}

async fn ask_forever(
    client: Arc<Client>,
    mut sender: Sender,
    done: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let request = client.request(ITEM)?;
    loop {
        sender.exchange(request.clone(), ITEM_BYTES).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// One request on each connection.
pub(crate) async fn new_connections(
    client: Arc<Client>,
    process: Option<u32>,
) -> anyhow::Result<Throughput> {
    let done = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..OPENING {
        workers.spawn(open_forever(Arc::clone(&client), Arc::clone(&done)));
    }
    observe(&mut workers, &done, process).await
}

async fn open_forever(client: Arc<Client>, done: Arc<AtomicU64>) -> anyhow::Result<()> {
    let request = client.request(ITEM)?;
    loop {
        let mut sender = client.open().await?;
        sender.exchange(request.clone(), ITEM_BYTES).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts what workers do, who end only when they fail.
async fn observe(
    workers: &mut JoinSet<anyhow::Result<()>>,
    done: &AtomicU64,
    process: Option<u32>,
) -> anyhow::Result<Throughput> {
    let window = async {
        sleep(WARM_UP).await;
        let cost = Cost::begin(process)?;
        let before = done.load(Ordering::Relaxed);
        sleep(WINDOW).await;
        let amount = done.load(Ordering::Relaxed) - before;
        cost.of(number(amount))
    };
    tokio::select! {
        window = window => window,
        Some(ended) = workers.join_next() => {
            ended??;
            anyhow::bail!("a worker ended")
        }
    }
}

/// The moment from which time and processor time are counted.
struct Cost {
    began: Instant,
    cpu_seconds: Option<(u32, f64)>,
}

impl Cost {
    fn begin(process: Option<u32>) -> anyhow::Result<Self> {
        let taken = process.map(|pid| anyhow::Ok((pid, cpu_seconds(pid)?)));
        Ok(Self {
            cpu_seconds: taken.transpose()?,
            began: Instant::now(),
        })
    }

    /// What an amount of work comes to.
    fn of(&self, amount: f64) -> anyhow::Result<Throughput> {
        let seconds = self.began.elapsed().as_secs_f64();
        let per_cpu_second = match self.cpu_seconds {
            Some((pid, before)) => {
                let taken = cpu_seconds(pid)? - before;
                anyhow::ensure!(taken > 0.0, "the proxy has done nothing");
                Some(amount / taken)
            }
            None => None,
        };
        Ok(Throughput {
            per_second: amount / seconds,
            per_cpu_second,
        })
    }
}

/// Requests at a steady rate, whether or not earlier ones are answered. Each
/// counts from the moment at which it was to be sent. In nanoseconds.
pub(crate) async fn steady(client: Arc<Client>, rate: u64) -> anyhow::Result<Histogram<u64>> {
    let period = STEADY_CONNECTIONS * SECOND_NANOS / rate.max(1);
    let mut workers = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..STEADY_CONNECTIONS {
        senders.push(client.open().await?);
    }
    let start = now_nanos() + period;
    for (place, sender) in (0..).zip(senders) {
        let pacer = Pacer::new(start + place * SECOND_NANOS / rate.max(1), period)?;
        workers.spawn(ask_steadily(Arc::clone(&client), sender, pacer, start));
    }
    let mut all = Histogram::new(DIGITS)?;
    while let Some(seen) = workers.join_next().await {
        all.add(seen??)?;
    }
    Ok(all)
}

async fn ask_steadily(
    client: Arc<Client>,
    mut sender: Sender,
    mut pacer: Pacer,
    start: u64,
) -> anyhow::Result<Histogram<u64>> {
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let counts_from = start + nanos(WARM_UP);
    let until = counts_from + nanos(STEADY);
    let request = client.request(ITEM)?;
    let mut seen = Histogram::new(DIGITS)?;
    loop {
        let due = pacer.next().await?;
        if due >= until {
            return Ok(seen);
        }
        sender.exchange(request.clone(), ITEM_BYTES).await?;
        if due >= counts_from {
            seen.record(now_nanos().saturating_sub(due))?;
        }
    }
}

/// One long body, in bits.
pub(crate) async fn bulk(client: Arc<Client>, process: Option<u32>) -> anyhow::Result<Throughput> {
    let mut sender = client.open().await?;
    sender.exchange(client.request(ITEM)?, ITEM_BYTES).await?;
    let cost = Cost::begin(process)?;
    sender.exchange(client.request(BULK)?, BULK_BYTES).await?;
    cost.of(number(BULK_BYTES as u64 * 8))
}

/// How late events come, in nanoseconds.
pub(crate) async fn events(client: Arc<Client>) -> anyhow::Result<Histogram<u64>> {
    let mut sender = client.open().await?;
    let response = sender.send(client.request(EVENTS)?).await?;
    anyhow::ensure!(response.status().is_success(), "no events are sent");
    let mut body = response.into_body();
    let mut seen = Histogram::new(DIGITS)?;
    let mut text = String::new();
    let began = Instant::now();
    while began.elapsed() < EVENTS_FOR {
        let frame = body.frame().await.context("the events have ended")??;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let now = now_nanos();
        text.push_str(std::str::from_utf8(data)?);
        while let Some((event, rest)) = text.split_once("\n\n") {
            let sent = event.strip_prefix("data: ").context("no event")?;
            seen.record(now.saturating_sub(sent.parse()?))?;
            text = rest.to_owned();
        }
    }
    anyhow::ensure!(!seen.is_empty(), "no event came");
    Ok(seen)
}
