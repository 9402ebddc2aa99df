//! Attacks that need more than a program in one sandbox: a second sandbox, a
//! change of policy, the death of a process.

use std::time::Duration;

use anyhow::ensure;
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tombolo_attacks::rig::Rig;
use tombolo_e2e::host;

use crate::{leaks, values};

/// Sandboxes that are made while others look at the network.
const CREATE_COUNT: usize = 15;
const CREATE_LANE_COUNT: usize = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a connection must end that is no longer allowed, and how long it may
/// take to hear that a program in a sandbox ended.
const SEVERED_MAX: Duration = Duration::from_millis(1000 + 500);
/// How many times longer a neighbour of a flood may wait for one request: emulated
/// guests share the processors with it.
const SLOWDOWN_MAX: u32 = 5;

/// Does what is special about an attack; none if nothing is.
pub(super) async fn attack(
    rig: &Rig,
    sandbox: &str,
    id: &str,
) -> anyhow::Result<Option<Vec<String>>> {
    Ok(Some(match id {
        "NET-12" | "DNS-09" | "DNS-12" => own_sandbox(rig, id, rig.usual()).await?,
        "DNS-05" => own_sandbox(rig, id, without_dns_over_https(rig)).await?,
        "DNS-06" => rebound(rig).await?,
        "DNS-13" => unrestricted(rig).await?,
        "NET-14" => early(rig).await?,
        "NET-15" => tightened(rig).await?,
        "NET-16" => killed(rig).await?,
        "NET-18" => flooded(rig).await?,
        _ => {
            let special = values::attack(rig, id).await?;
            return match special {
                Some(wrong) => Ok(Some(wrong)),
                None => leaks::attack(rig, sandbox, id).await,
            };
        }
    }))
}

/// In a sandbox that is different, or that nobody needs afterwards.
pub(super) async fn own_sandbox(rig: &Rig, id: &str, config: Value) -> anyhow::Result<Vec<String>> {
    let sandbox = rig.create(config).await?;
    let wrong = rig.attack(&sandbox, id).await?;
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}

/// The usual list, with a rule that its author has to write.
fn without_dns_over_https(rig: &Rig) -> Value {
    let host = "good.test";
    let rules = json!([
        { "id": "doh-type", "host": host, "action": "deny", "content_type": "application/dns-message" },
        { "id": "doh-path", "host": host, "action": "deny", "path": "/dns-query" },
    ]);
    let list = rig.usual()["allow_net"].take();
    let policy = json!({ "version": 1, "allow_net": list, "net": { "rules": rules } });
    json!({ "timeout": "600s", "egress_policy": policy })
}

/// DNS-06: what a name leads to changes while it has an address here.
async fn rebound(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let sandbox = rig.create(rig.usual()).await?;
    let mut wrong = Vec::new();
    for (address, reason, port) in [
        ("20.0.1.2", "public", "80"),
        ("10.77.0.1", "resolved_private", "8000"),
        ("169.254.169.254", "metadata", "81"),
        ("127.0.0.1", "resolved_private", "22"),
    ] {
        rig.network
            .names
            .tell(&rig.zone_with("rebind.test", address))
            .await?;
        let before = rig.before(&sandbox)?;
        let report = rig.run(&sandbox, "DNS-06", &[reason, port]).await?;
        wrong.extend(rig.after(&before, report).await?);
    }
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}

/// DNS-13: what is public may be reached, and what is not stays closed.
async fn unrestricted(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let sandbox = rig.create(json!({ "timeout": "600s" })).await?;
    let before = rig.before(&sandbox)?;
    let mut report = rig.run(&sandbox, "DNS-13", &[]).await?;
    // Of a flood some is lost on the way; what arrived is recorded.
    report.attempts += rig.records_of_flood(&before).await?;
    let wrong = rig.after(&before, report).await?;
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}

/// NET-14: as many sandboxes as fit into a test, each trying as soon as it can.
async fn early(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let first = rig
        .create(json!({ "timeout": "600s", "allow_net": [] }))
        .await?;
    let mut wrong = rig.attack(&first, "NET-14").await?;
    let before = rig.before(&first)?;
    let lanes = (0..CREATE_LANE_COUNT).map(|_| early_lane(rig));
    for done in futures_util::future::join_all(lanes).await {
        done?;
    }
    let nothing = rig.nothing();
    wrong.extend(rig.after(&before, nothing).await?);
    let is_early = |line: &Value| line["bytes"] == "b3V0Cg==" || line["partial"] == "b3V0Cg==";
    if rig.network.origin.since(0).iter().any(is_early) {
        wrong.push("the origin saw what was sent early".to_owned());
    }
    rig.world.kill(&first).await?;
    Ok(wrong)
}

/// Some sandboxes that may reach nothing, one after the other.
async fn early_lane(rig: &Rig) -> anyhow::Result<()> {
    for _ in 0..CREATE_COUNT / CREATE_LANE_COUNT {
        let config = json!({ "timeout": "600s", "allow_net": [] });
        let id = rig.api(move |client| client.create(&config)).await?;
        let try_all = "for to in 9.9.9.9/443 20.0.1.2/443; do \
                       (echo out > /dev/tcp/$to; echo out > /dev/udp/${to%/*}/123) 2>/dev/null; done; true";
        rig.world.shell_text(&id, try_all).await?;
        rig.world.kill(&id).await?;
    }
    Ok(())
}

/// Waits for a file that a program in a sandbox makes.
async fn made(rig: &Rig, sandbox: &str, path: &str) -> anyhow::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !rig
        .world
        .shell(sandbox, &format!("test -e {path}"))
        .await?
        .status
        .success()
    {
        ensure!(Instant::now() < give_up, "{path} is not made");
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// NET-15: connections of every kind are open when the list becomes empty.
async fn tightened(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let sandbox = rig.create(rig.usual()).await?;
    let before = rig.before(&sandbox)?;
    let path = format!("/api/tombolo/v1/sandboxes/{sandbox}/egress/allow_net");
    let tighten = async {
        made(rig, &sandbox, "/tmp/held").await?;
        let begun = Instant::now();
        let body = json!({ "allow_net": [] });
        rig.api(move |client| client.must("PUT", &path, Some(&body)))
            .await?;
        anyhow::Ok(begun)
    };
    let (report, begun) = tokio::join!(rig.run(&sandbox, "NET-15", &[]), tighten);
    let took = begun?.elapsed();
    let mut wrong = rig.after(&before, report?).await?;
    if took > SEVERED_MAX {
        wrong.push(format!("connections stayed open for {took:?}"));
    }
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}

/// Waits until a part of the server that was killed is there again; its process.
pub(super) async fn another(rig: &Rig, name: &str, old: Pid) -> anyhow::Result<i32> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Ok(now) = host::part(&rig.world, name)
            && now != old
        {
            return Ok(now.as_raw_nonzero().get());
        }
        ensure!(Instant::now() < give_up, "no other {name} is started");
        sleep(LOOK_AGAIN).await;
    }
}

/// NET-16: nothing gets out while nobody carries it, and it works again after.
async fn killed(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let sandbox = rig.create(rig.usual()).await?;
    let old = host::part(&rig.world, "egress-proxy")?;
    let alive = rig.before(&sandbox)?;
    host::kill(old)?;
    // Nobody is there to record what is tried now.
    let report = rig.run(&sandbox, "NET-16", &[]).await?;
    let mut wrong = rig.reached_after(&alive, report).await?;
    another(rig, "egress-proxy", old).await?;
    let give_up = Instant::now() + PATIENCE;
    loop {
        let report = rig.run(&sandbox, "NET-16", &["works"]).await?;
        if report.failures.is_empty() {
            break;
        }
        ensure!(
            Instant::now() < give_up,
            "it does not come back: {:?}",
            report.failures
        );
    }
    let before = rig.before(&sandbox)?;
    let report = rig.run(&sandbox, "NET-16", &["works"]).await?;
    wrong.extend(rig.after(&before, report).await?);
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}

/// NET-18: a neighbour has its answers while another holds all it can get.
async fn flooded(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let (wild, quiet) = (
        rig.create(rig.usual()).await?,
        rig.create(rig.usual()).await?,
    );
    let begun = Instant::now();
    let calm = rig.run(&quiet, "NET-16", &["works"]).await?.failures;
    let longest = begun.elapsed() * SLOWDOWN_MAX;
    let before = rig.before(&wild)?;
    let beside = async {
        made(rig, &wild, "/tmp/held").await?;
        let begun = Instant::now();
        let report = rig.run(&quiet, "NET-16", &["works"]).await?;
        let took = begun.elapsed();
        rig.world.shell_text(&wild, "sudo rm /tmp/held").await?;
        anyhow::Ok((report, took))
    };
    let (report, beside) = tokio::join!(rig.run(&wild, "NET-18", &[]), beside);
    let (other, took) = beside?;
    let mut wrong = rig.after(&before, report?).await?;
    wrong.extend(other.failures);
    wrong.extend(calm);
    if took > longest {
        wrong.push(format!(
            "the neighbour waited {took:?}, longer than {longest:?}"
        ));
    }
    for sandbox in [wild, quiet] {
        rig.world.kill(&sandbox).await?;
    }
    Ok(wrong)
}
