//! What a client does to a way, and what it saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::way::Way;

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
        for (place, mut sender) in (0..).zip(senders) {
            let (way, load) = (way.clone(), *self);
            workers.spawn(async move {
                let mut micros = Histogram::<u64>::new(DIGITS)?;
                let mut due = start + step * place;
                let counts_from = start + WARM_UP;
                while due < counts_from + load.window {
                    sleep_until(due).await;
                    way.ask(&mut sender).await?;
                    if due >= counts_from {
                        let took = due.elapsed().as_micros();
                        micros.record(u64::try_from(took)?)?;
                    }
                    due += step * load.connections;
                }
                anyhow::Ok(micros)
            });
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

#[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
fn number(count: u64) -> f64 {
    count as f64
}
