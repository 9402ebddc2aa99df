//! What is timed, and how.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use crate::failure::{Failure, Outcome};
use crate::wire;
use tombolo_client::fs::WriteOptions;
use tombolo_client::{Client, Sandbox};

/// How many sandboxes are ended at the same time.
const ENDS_AT_ONCE: usize = 8;
/// The file that is written and read.
const FILE: &str = "/home/app/bench";

/// Times of one kind. They are few, so each is kept and a percentile is one
/// of them.
#[derive(Debug, Default)]
pub(super) struct Samples {
    times: Vec<Duration>,
}

impl Samples {
    pub(super) fn push(&mut self, time: Duration) {
        let at = self.times.partition_point(|earlier| *earlier <= time);
        self.times.insert(at, time);
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// The time that so many in a hundred do not exceed (nearest rank); zero
    /// where nothing was measured.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.times.len() * percent).div_ceil(100);
        let time = self.times.get(rank.saturating_sub(1));
        time.copied().unwrap_or_default()
    }
}

/// Times of moving one file.
#[derive(Debug, Default)]
pub(super) struct FileSamples {
    pub(super) write: Samples,
    /// The whole file by one call, as the SDKs do.
    pub(super) read: Samples,
    /// By a handle, as `tombolo sandbox copy` does.
    pub(super) read_pieces: Samples,
}

/// Many sandboxes that were created at once.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) latency: Samples,
    sandboxes: Vec<Sandbox>,
}

/// The client under measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench<'a> {
    client: &'a Client,
}

impl<'a> Bench<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    pub(super) async fn sandbox(&self) -> Outcome<Sandbox> {
        let sandbox = Sandbox::create(self.client).await;
        sandbox.map_err(wire::not_connected)
    }

    /// Ends a sandbox and waits until nothing is left of it.
    pub(super) async fn end(&self, sandbox: Sandbox) -> Outcome {
        sandbox.kill().await.map_err(wire::refused)
    }

    /// Creates one after another.
    pub(super) async fn create(&self, runs: u32) -> Outcome<Samples> {
        let mut samples = Samples::default();
        for _ in 0..runs {
            let begun = Instant::now();
            let sandbox = self.sandbox().await?;
            samples.push(begun.elapsed());
            self.end(sandbox).await?;
        }
        Ok(samples)
    }

    /// How long a create took, and how long until its first command was done.
    pub(super) async fn create_and_exec(&self) -> Outcome<(Duration, Duration)> {
        let begun = Instant::now();
        let sandbox = self.sandbox().await?;
        let created = begun.elapsed();
        exec_true(&sandbox).await?;
        let executed = begun.elapsed();
        self.end(sandbox).await?;
        Ok((created, executed))
    }

    pub(super) async fn exec(&self, sandbox: &Sandbox, runs: u32) -> Outcome<Samples> {
        let mut samples = Samples::default();
        for _ in 0..runs {
            let begun = Instant::now();
            exec_true(sandbox).await?;
            samples.push(begun.elapsed());
        }
        Ok(samples)
    }

    /// What `deno.eval("1 + 1")` of the SDKs does: a REPL that starts, answers
    /// and is told to end.
    pub(super) async fn eval(&self, sandbox: &Sandbox, runs: u32) -> Outcome<Samples> {
        let mut samples = Samples::default();
        for _ in 0..runs {
            let begun = Instant::now();
            let sum: u32 = sandbox.deno().eval("1 + 1").await?;
            check(sum == 2)?;
            samples.push(begun.elapsed());
        }
        Ok(samples)
    }

    pub(super) async fn files(
        &self,
        sandbox: &Sandbox,
        bytes: usize,
        runs: u32,
    ) -> Outcome<FileSamples> {
        // Not all zeros, which something on the way might make short work of.
        let pattern: Vec<u8> = (0..=250).cycle().take(bytes).collect();
        let fs = sandbox.fs();
        let mut samples = FileSamples::default();
        for _ in 0..runs {
            let begun = Instant::now();
            let options = WriteOptions::new().mode(0o644);
            fs.write_file_with(FILE, &pattern, options).await?;
            samples.write.push(begun.elapsed());

            let begun = Instant::now();
            let content = fs.read_file(FILE).await?;
            samples.read.push(begun.elapsed());
            check(content.as_ref() == pattern.as_slice())?;
            drop(content);

            let begun = Instant::now();
            let mut reader = fs.read_stream(FILE).await?;
            let mut len = 0;
            while let Some(piece) = reader.chunk().await? {
                check(pattern[len..].starts_with(&piece))?;
                len += piece.len();
            }
            reader.close().await?;
            samples.read_pieces.push(begun.elapsed());
            check(len == pattern.len())?;
        }
        fs.remove(FILE).await?;
        Ok(samples)
    }

    /// Creates so many at once, and keeps them.
    pub(super) async fn crowd(&self, count: usize) -> Outcome<Crowd> {
        let creates = stream::iter(0..count).map(async |_| {
            let begun = Instant::now();
            let sandbox = self.sandbox().await?;
            Ok::<_, Failure>((begun.elapsed(), sandbox))
        });
        let created: Vec<_> = creates.buffer_unordered(count).try_collect().await?;
        let mut latency = Samples::default();
        let mut sandboxes = Vec::with_capacity(count);
        for (time, sandbox) in created {
            latency.push(time);
            sandboxes.push(sandbox);
        }
        Ok(Crowd { latency, sandboxes })
    }

    pub(super) async fn disperse(&self, crowd: Crowd) -> Outcome {
        stream::iter(crowd.sandboxes.into_iter().map(Ok))
            .try_for_each_concurrent(ENDS_AT_ONCE, |sandbox| self.end(sandbox))
            .await
    }
}

fn check(same: bool) -> Outcome {
    if same {
        return Ok(());
    }
    Err(Failure::message(
        tombolo_diag::ExitCode::Internal,
        "what came back is not what went",
    ))
}

async fn exec_true(sandbox: &Sandbox) -> Outcome {
    let exit = sandbox.command("true").status().await?;
    if exit.success {
        return Ok(());
    }
    Err(Failure::message(
        tombolo_diag::ExitCode::Failure,
        format!("\"true\" ended with {}", exit.code),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.percentile(50), Duration::ZERO);
        for millis in (1..=200).rev() {
            samples.push(Duration::from_millis(millis));
        }
        assert_eq!(samples.len(), 200);
        for (percent, millis) in [(0, 1), (50, 100), (95, 190), (99, 198), (100, 200)] {
            assert_eq!(
                samples.percentile(percent),
                Duration::from_millis(millis),
                "{percent}"
            );
        }
    }
}
