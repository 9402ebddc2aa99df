//! What idle sandboxes cost in memory.

use std::time::Duration;

use serde::Serialize;
use tombolo_api::native::SandboxPhase;

use crate::failure::{Failure, Outcome};
use crate::up::Pids;
use tombolo_client::Client;

/// How long sandboxes are left alone before they count as idle.
const SETTLE: Duration = Duration::from_secs(5);

/// Memory with some sandboxes idle, in bytes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    pub(super) sandboxes: usize,
    pub(super) server_resident: u64,
    /// The most that it has ever been, file transfers included.
    pub(super) server_peak: u64,
    pub(super) node_resident: u64,
    pub(super) node_peak: u64,
    /// A sandbox's own: private and dirty.
    pub(super) sandbox_private_median: u64,
    pub(super) sandbox_private_most: u64,
}

pub(super) async fn settle() {
    tokio::time::sleep(SETTLE).await;
}

pub(super) async fn look(client: &Client, pids: &Pids, count: usize) -> Outcome<Memory> {
    let rows = client.sandboxes().fresh_usage().all().await?;
    let mut private: Vec<u64> = rows
        .iter()
        .filter(|row| row.state == SandboxPhase::Running)
        .filter_map(|row| Some(row.usage?.memory_private_bytes))
        .collect();
    private.sort_unstable();
    let server = Resident::of(pids.server)?;
    let node = Resident::of(pids.node)?;
    Ok(Memory {
        sandboxes: count,
        server_resident: server.now,
        server_peak: server.peak,
        node_resident: node.now,
        node_peak: node.peak,
        sandbox_private_median: private.get(private.len() / 2).copied().unwrap_or(0),
        sandbox_private_most: private.last().copied().unwrap_or(0),
    })
}

/// What the kernel says of a process's memory.
#[derive(Debug, PartialEq, Eq)]
struct Resident {
    now: u64,
    peak: u64,
}

impl Resident {
    fn of(pid: u32) -> Outcome<Self> {
        Self::read(&fs_err::read_to_string(format!("/proc/{pid}/status"))?).ok_or_else(|| {
            Failure::message(
                tombolo_diag::ExitCode::System,
                format!("/proc/{pid}/status does not say how much memory there is"),
            )
        })
    }

    fn read(status: &str) -> Option<Self> {
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib * 1024)
        };
        Some(Self {
            now: bytes("VmRSS:")?,
            peak: bytes("VmHWM:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let status = "Name:\tx\nVmHWM:\t   12 kB\nVmRSS:\t    8 kB\n";
        let resident = Resident {
            now: 8 * 1024,
            peak: 12 * 1024,
        };
        assert_eq!(Resident::read(status), Some(resident));
        assert_eq!(Resident::read("Name:\tx\n"), None);
        assert!(Resident::of(std::process::id()).unwrap().now > 0);
    }
}
