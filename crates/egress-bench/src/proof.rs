//! That what is measured does what it is measured at: without these a proxy
//! that did nothing would be the fastest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{StatusCode, Version};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep};
use tombolo_ids::SandboxId;

use crate::machine::Cores;
use crate::origin::{ITEM, ITEM_BYTES, REFLECT, VALUE};
use crate::proxy::Proxy;
use crate::route::Route;

/// Denied by a rule of the policy.
const DENIED: &str = "/v1/keys/1";
/// A record is complete when its connection has ended.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Placeholders become values, values do not come back, and rules deny.
pub(crate) fn check(cores: Cores, route: &Route) -> anyhow::Result<()> {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        route.measure(cores, version, async |client| {
            let mut sender = client.open().await?;
            sender.exchange(client.request(ITEM)?, ITEM_BYTES).await?;
            let reflected = sender.send(client.request(REFLECT)?).await?;
            anyhow::ensure!(reflected.status() == StatusCode::OK, "nothing is reflected");
            let body = reflected.into_body().collect().await?.to_bytes();
            let text = String::from_utf8_lossy(&body);
            anyhow::ensure!(!text.contains(VALUE), "the secret came back");
            anyhow::ensure!(text.contains(&route.credential), "no placeholder came back");
            let denied = sender.send(client.request(DENIED)?).await?;
            anyhow::ensure!(denied.status() == StatusCode::FORBIDDEN, "no rule denies");
            Ok(())
        })?;
    }
    Ok(())
}

/// Every request that was answered was recorded with its use of the secret.
pub(crate) async fn check_counts(
    proxy: &mut Proxy,
    id: &SandboxId,
    answered: &AtomicU64,
) -> anyhow::Result<()> {
    let expected = answered.load(Ordering::Relaxed);
    let deadline = Instant::now() + RECORDS_TIMEOUT;
    loop {
        let stats = proxy.stats(id).await?;
        // The two of `check`, and none besides.
        anyhow::ensure!(stats.denied == 2, "{} requests were denied", stats.denied);
        // Those that were broken off at the end of a measurement come on top.
        if stats.secret_uses >= expected && stats.attempts >= expected {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{expected} requests were answered, but {} have a record and {} a secret",
            stats.attempts,
            stats.secret_uses
        );
        sleep(LOOK_AGAIN).await;
    }
}
