//! Measures what one sandbox uses and writes it down.

use std::sync::Arc;

use tombolo_ids::{MemoryMib, OrganisationId, SandboxId, UnixMillis};
use tombolo_ingress::{Meter as IngressMeter, Traffic};

use crate::app::App;
use crate::clock;
use crate::database::{QueryError, UsageSample, UsageTotals};

/// What has been counted of a sandbox so far.
#[derive(Debug)]
pub(crate) struct Meter {
    sandbox: SandboxId,
    organisation: OrganisationId,
    memory: MemoryMib,
    last_sequence: u64,
    latest: UsageSample,
    /// What came in while earlier processes counted.
    ingress_before: Traffic,
    ingress: Arc<IngressMeter>,
}

impl Meter {
    /// Counts from the sandbox's creation, or from where an earlier process
    /// left off.
    pub(super) fn new(
        sandbox: SandboxId,
        organisation: OrganisationId,
        memory: MemoryMib,
        created_at: UnixMillis,
        before: Option<UsageTotals>,
    ) -> Self {
        let latest = before.map_or(
            UsageSample {
                taken_at: created_at,
                cpu_nanos: 0,
                memory_mib_millis: 0,
                memory_private_bytes: 0,
                disk_allocated_bytes: 0,
                ingress: Traffic::default(),
            },
            |totals| totals.latest,
        );
        Self {
            sandbox,
            organisation,
            memory,
            last_sequence: before.map_or(0, |totals| totals.last_sequence),
            ingress_before: latest.ingress,
            ingress: Arc::default(),
            latest,
        }
    }

    /// Counts what comes in over HTTP from now on.
    pub(super) fn ingress(&self) -> Arc<IngressMeter> {
        Arc::clone(&self.ingress)
    }

    pub(super) fn set_memory(&mut self, memory: MemoryMib) {
        self.memory = memory;
    }

    /// The latest figures, if any were taken.
    pub(crate) fn latest(&self) -> Option<UsageSample> {
        (self.last_sequence > 0).then_some(self.latest)
    }

    /// Measures and records. When the node cannot answer, the time that passed
    /// is recorded with the figures known before.
    pub(crate) async fn measure(&mut self, app: &App) -> Result<(), QueryError> {
        let limit = app.config.limits.usage_timeout;
        let figures = app.node.usage(&self.sandbox, limit).await;
        let now = clock::now();
        let passed = now.since(self.latest.taken_at).as_millis();
        let added = u64::try_from(passed)
            .unwrap_or(u64::MAX)
            .saturating_mul(self.memory.0.into());
        let mut sample = UsageSample {
            taken_at: now,
            memory_mib_millis: added,
            ingress: sum(self.ingress_before, self.ingress.read()),
            ..self.latest
        };
        match figures {
            Ok(figures) => {
                // Processor time is never given back, whatever a node says.
                sample.cpu_nanos = sample.cpu_nanos.max(figures.cpu_nanos);
                sample.memory_private_bytes = figures.memory_private_bytes;
                sample.disk_allocated_bytes = figures.disk_allocated_bytes;
            }
            Err(error) => {
                tracing::debug!(sandbox = %self.sandbox, %error, "measured without the node");
            }
        }
        let sequence = self.last_sequence.saturating_add(1);
        app.database
            .add_usage(&self.sandbox, &self.organisation, sequence, &sample)
            .await?;
        self.last_sequence = sequence;
        self.latest = UsageSample {
            memory_mib_millis: self.latest.memory_mib_millis.saturating_add(added),
            ..sample
        };
        Ok(())
    }
}

fn sum(one: Traffic, other: Traffic) -> Traffic {
    Traffic {
        requests: one.requests.saturating_add(other.requests),
        request_bytes: one.request_bytes.saturating_add(other.request_bytes),
        response_bytes: one.response_bytes.saturating_add(other.response_bytes),
    }
}
