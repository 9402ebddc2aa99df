//! Every attack of the plan that is tried from inside a real sandbox. `ONLY=NET-01,DNS-`
//! in the environment takes those alone whose ids begin so.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

mod leaks;
mod special;
mod values;

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;
use tombolo_attacks::network::Network;
use tombolo_attacks::rig::{self, Rig};
use tombolo_attacks::table::{Sources, rows, workspace};
use tombolo_e2e::with_world_of;

const LIMIT: Duration = Duration::from_mins(8);

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_succeeds() {
    let network = Network::start().await.unwrap();
    let options = rig::options(&network).unwrap();
    with_world_of(options, LIMIT, async move |world| {
        let rig = Rig::new(world, network).await?;
        let sources = Sources::read(workspace())?;
        let sandbox = rig.create(rig.usual()).await?;
        let only = std::env::var_os("ONLY").unwrap_or_default();
        let only = only.to_string_lossy();
        let mut failed = Vec::new();
        for row in rows() {
            let is_wanted = only.split(',').any(|id| row.id.starts_with(id));
            if !is_wanted {
                continue;
            }
            let begun = Instant::now();
            let wrong = match special::attack(&rig, &sandbox, row.id).await? {
                Some(wrong) => wrong,
                None if sources.is_in_guest(row.id) => rig.attack(&sandbox, row.id).await?,
                None => continue,
            };
            println!("{} {:.1?} {wrong:#?}", row.id, begun.elapsed());
            if !wrong.is_empty() {
                failed.push((row.id, wrong));
            }
        }
        ensure!(failed.is_empty(), "{failed:#?}");
        Ok(())
    })
    .await;
}
