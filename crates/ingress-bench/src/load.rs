//! What a client does to a way, and what it saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::way::{Sender, Way};

/// What is done before it counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// Three digits: to a thousandth.
const DIGITS: u8 = 3;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: u32,
    pub(crate) connections: u32,
    pub(crate) window: Duration,
}

/// How long requests took, from when they were to be sent.
#[derive(Debug)]
pub(crate) struct Seen {
    micros: Histogram<u64>,
    window: Duration,
}

impl Seen {
    pub(crate) fn p50_micros(&self) -> u64 {
        self.micros.value_at_quantile(0.5)
    }

    pub(crate) fn p99_micros(&self) -> u64 {
        self.micros.value_at_quantile(0.99)
    }

    pub(crate) fn max_micros(&self) -> u64 {
        self.micros.max()
    }

    pub(crate) fn per_second(&self) -> f64 {
        number(self.micros.len()) / self.window.as_secs_f64()
    }
}

impl Load {
    /// Requests at a steady rate, whether or not earlier ones are answered.
    pub(crate) async fn steady(&self, way: &Way) -> anyhow::Result<Seen> {
        let mut senders = Vec::new();
        for _ in 0..self.connections {
            let mut sender = way.connect().await?;
            way.ask(&mut sender).await?;
            senders.push(sender);
        }
        let step = Duration::from_secs(1) / self.rate;
        let start = Instant::now() + step;
        let mut workers = JoinSet::new();
        for (place, sender) in (0..).zip(senders) {
            let turns = Turns {
                first: start + step * place,
                step: step * self.connections,
                counts_from: start + WARM_UP,
                until: start + WARM_UP + self.window,
            };
            workers.spawn(turns.ask(way.clone(), sender));
        }
        let mut micros = Histogram::new(DIGITS)?;
        while let Some(seen) = workers.join_next().await {
            micros.add(seen??)?;
        }
        let window = self.window;
        Ok(Seen { micros, window })
    }

    /// Requests a second, each as soon as the one before it is answered.
    pub(crate) async fn as_fast_as_it_can(&self, way: &Way) -> anyhow::Result<f64> {
        let done = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            let (way, done) = (way.clone(), Arc::clone(&done));
            let mut sender = way.connect().await?;
            workers.spawn(async move {
                loop {
                    way.ask(&mut sender).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let window = async {
            sleep(WARM_UP).await;
            let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
            sleep(self.window).await;
            let amount = done.load(Ordering::Relaxed) - before;
            number(amount) / began.elapsed().as_secs_f64()
        };
        tokio::select! {
            per_second = window => Ok(per_second),
            Some(ended) = workers.join_next() => ended?,
        }
    }
}

/// When one connection of many is to send.
struct Turns {
    first: Instant,
    step: Duration,
    counts_from: Instant,
    until: Instant,
}

impl Turns {
    /// How long each took from when it was to be sent, in microseconds.
    async fn ask(self, way: Way, mut sender: Sender) -> anyhow::Result<Histogram<u64>> {
        let mut micros = Histogram::new(DIGITS)?;
        let mut due = self.first;
        while due < self.until {
            sleep_until(due).await;
            way.ask(&mut sender).await?;
            if due >= self.counts_from {
                micros.record(u64::try_from(due.elapsed().as_micros())?)?;
            }
            due += self.step;
        }
        Ok(micros)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
fn number(count: u64) -> f64 {
    count as f64
}
