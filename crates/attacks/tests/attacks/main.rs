//! Every attack that is tried from inside a real sandbox. `ONLY=NET-01,DNS-`
//! in the environment takes those alone whose ids begin so.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

mod leaks;
mod special;
mod values;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_attacks::network::Network;
use tombolo_attacks::rig::{self, Rig};
use tombolo_attacks::table::{Row, Sources, rows, workspace};
use tombolo_e2e::with_world_of;

const LIMIT: Duration = Duration::from_mins(9);
/// Attacks under way at the same time, each in a sandbox of its own.
const LANE_COUNT: usize = 3;
/// What kills or changes something that all share, or measures: on its own, in
/// this order, after everything else.
const ALONE: [&str; 9] = [
    "DNS-06", "TIM-01", "NET-18", "NET-16", "LEAK-01", "LEAK-04", "LEAK-05", "LEAK-06", "LEAK-08",
];

/// Ids and everything that was not as it must be.
type Failures = Vec<(&'static str, Vec<String>)>;

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_succeeds() {
    let network = Network::start().await.unwrap();
    let options = rig::options(&network).unwrap();
    with_world_of(options, LIMIT, async move |world| {
        let rig = Rig::new(world, network).await?;
        let sources = Arc::new(Sources::read(workspace())?);
        let only = std::env::var_os("ONLY").unwrap_or_default();
        let only = only.to_string_lossy();
        let is_wanted = |row: &&Row| only.split(',').any(|id| row.id.starts_with(id));
        let wanted: Vec<&Row> = rows().filter(is_wanted).collect();
        ensure!(!wanted.is_empty(), "no attack's id begins with {only:?}");
        let beside = wanted.iter().map(|row| row.id);
        let mut beside: Vec<_> = beside.filter(|id| !ALONE.contains(id)).collect();
        beside.reverse();
        let open = rig.at_rest().await?;
        let rig = Arc::new(rig.with_neighbour().await?);
        let mut failures = in_lanes(&rig, &sources, beside).await?;

        let alone = ALONE
            .into_iter()
            .filter(|id| wanted.iter().any(|row| row.id == *id));
        let alone: Vec<_> = alone.rev().collect();
        let alone = lane(Arc::clone(&rig), sources, Arc::new(Mutex::new(alone)));
        failures.extend(alone.await?);
        rig.comes_to_rest(open).await?;
        ensure!(failures.is_empty(), "{failures:#?}");
        Ok(())
    })
    .await;
}

/// Does attacks side by side, the last of the list first.
async fn in_lanes(
    rig: &Arc<Rig>,
    sources: &Arc<Sources>,
    ids: Vec<&'static str>,
) -> anyhow::Result<Failures> {
    let ids = Arc::new(Mutex::new(ids));
    let mut lanes = JoinSet::new();
    for _ in 0..LANE_COUNT {
        lanes.spawn(lane(Arc::clone(rig), Arc::clone(sources), Arc::clone(&ids)));
    }
    let mut failures = Vec::new();
    while let Some(failed) = lanes.join_next().await {
        failures.extend(failed??);
    }
    Ok(failures)
}

/// Does one attack after the other, until none is left.
#[expect(
    clippy::print_stdout,
    reason = "whoever looks at a failure wants the times"
)]
async fn lane(
    rig: Arc<Rig>,
    sources: Arc<Sources>,
    ids: Arc<Mutex<Vec<&'static str>>>,
) -> anyhow::Result<Failures> {
    let sandbox = rig.create(rig.usual()).await?;
    let mut failures = Vec::new();
    loop {
        let next = ids.lock().pop();
        let Some(id) = next else {
            break;
        };
        let begun = Instant::now();
        let wrong = match special::attack(&rig, &sandbox, id).await.context(id)? {
            Some(wrong) => wrong,
            None if sources.is_in_guest(id) => rig.attack(&sandbox, id).await.context(id)?,
            None => continue,
        };
        println!("{id} {:.1?} {wrong:#?}", begun.elapsed());
        if !wrong.is_empty() {
            failures.push((id, wrong));
        }
    }
    rig.world.kill(&sandbox).await?;
    Ok(failures)
}
