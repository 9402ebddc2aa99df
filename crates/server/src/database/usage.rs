//! What sandboxes used: rows that are added and never changed.

use sqlx::Row as _;
use tombolo_ids::{OrganisationId, SandboxId, UnixMillis};
use tombolo_ingress::Traffic;

use super::{Database, QueryError, failed, signed, unsigned};

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsageSample {
    pub(crate) taken_at: UnixMillis,
    /// Since the sandbox was created.
    pub(crate) cpu_nanos: u64,
    /// Memory granted times the time since the sample before.
    pub(crate) memory_mib_millis: u64,
    pub(crate) memory_private_bytes: u64,
    pub(crate) disk_allocated_bytes: u64,
    /// What came in over HTTP since the sandbox was created.
    pub(crate) ingress: Traffic,
}

/// All samples of a sandbox taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsageTotals {
    pub(crate) last_sequence: u64,
    /// The sum of memory times time, and the latest of everything else.
    pub(crate) latest: UsageSample,
}

impl Database {
    pub(crate) async fn add_usage(
        &self,
        sandbox: &SandboxId,
        organisation: &OrganisationId,
        sequence: u64,
        sample: &UsageSample,
    ) -> Result<(), QueryError> {
        sqlx::query(
            "INSERT INTO usage_samples (sandbox_id, sequence, organisation_id, taken_at, \
             cpu_nanos, memory_mib_millis, memory_private_bytes, disk_allocated_bytes, \
             ingress_requests, ingress_request_bytes, ingress_response_bytes) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(sandbox.as_str())
        .bind(signed(sequence))
        .bind(organisation.as_str())
        .bind(sample.taken_at.0)
        .bind(signed(sample.cpu_nanos))
        .bind(signed(sample.memory_mib_millis))
        .bind(signed(sample.memory_private_bytes))
        .bind(signed(sample.disk_allocated_bytes))
        .bind(signed(sample.ingress.requests))
        .bind(signed(sample.ingress.request_bytes))
        .bind(signed(sample.ingress.response_bytes))
        .execute(&self.writer)
        .await
        .map_err(failed("add a usage sample"))?;
        Ok(())
    }

    pub(crate) async fn usage_totals(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Option<UsageTotals>, QueryError> {
        let row = sqlx::query(
            "SELECT u.sequence AS sequence, u.taken_at AS taken_at, u.cpu_nanos AS cpu_nanos, \
             u.memory_private_bytes AS memory_private_bytes, \
             u.disk_allocated_bytes AS disk_allocated_bytes, \
             u.ingress_requests AS ingress_requests, \
             u.ingress_request_bytes AS ingress_request_bytes, \
             u.ingress_response_bytes AS ingress_response_bytes, \
             (SELECT SUM(a.memory_mib_millis) FROM usage_samples a \
              WHERE a.sandbox_id = u.sandbox_id) AS memory_mib_millis \
             FROM usage_samples u WHERE u.sandbox_id = $1 ORDER BY u.sequence DESC LIMIT 1",
        )
        .bind(sandbox.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(failed("sum up usage"))?;
        let Some(row) = row else { return Ok(None) };
        let taken_at = row
            .try_get("taken_at")
            .map(UnixMillis)
            .map_err(failed("read a usage sample"))?;
        Ok(Some(UsageTotals {
            last_sequence: unsigned(&row, "sequence")?,
            latest: UsageSample {
                taken_at,
                cpu_nanos: unsigned(&row, "cpu_nanos")?,
                memory_mib_millis: unsigned(&row, "memory_mib_millis")?,
                memory_private_bytes: unsigned(&row, "memory_private_bytes")?,
                disk_allocated_bytes: unsigned(&row, "disk_allocated_bytes")?,
                ingress: Traffic {
                    requests: unsigned(&row, "ingress_requests")?,
                    request_bytes: unsigned(&row, "ingress_request_bytes")?,
                    response_bytes: unsigned(&row, "ingress_response_bytes")?,
                },
            },
        }))
    }
}
