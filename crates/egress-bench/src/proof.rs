//! That what is measured does what it is measured at: without these a proxy
//! that did nothing would be the fastest.

use http::{StatusCode, Version};
use http_body_util::BodyExt as _;
use tombolo_node_proto::egress::HostStats;

use crate::machine::Cores;
use crate::origin::{ITEM, ITEM_BYTES, REFLECT, VALUE};
use crate::route::Route;

/// Denied by a rule of the policy.
const DENIED: &str = "/v1/keys/1";

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

/// Every request was recorded, and used the secret.
pub(crate) fn check_counts(stats: &HostStats) -> anyhow::Result<()> {
    // The two of `check`, and none besides.
    anyhow::ensure!(stats.denied == 2, "{} requests were denied", stats.denied);
    let allowed = stats.attempts - stats.denied;
    anyhow::ensure!(
        stats.secret_uses > 0 && stats.secret_uses <= allowed,
        "the secret was used {} times in {allowed} requests",
        stats.secret_uses
    );
    Ok(())
}
