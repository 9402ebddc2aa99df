//! Attacks on values and requests that need a policy of their own, a second
//! sandbox, or a look at what the host saw.

use serde_json::{Value, json};
use tombolo_attacks::rig::Rig;

use crate::special::own_sandbox;

/// Does what is special about an attack; none if nothing is.
pub(super) async fn attack(rig: &Rig, id: &str) -> anyhow::Result<Option<Vec<String>>> {
    let reading = json!([
        { "id": "read", "host": "good.test", "method": ["GET", "HEAD"], "path": "/pub/**" },
    ]);
    let ours = json!([{ "id": "ours", "host": "origin.test", "path": "/ours/**" }]);
    Ok(Some(match id {
        "SUB-18" => another_sandbox(rig).await?,
        "TLS-12" => own_sandbox(rig, id, policy(rig, "passthrough", &json!(["good.test"]))).await?,
        "TLS-14" => another_authority(rig).await?,
        "HTTP-16" | "HTTP-17" => own_sandbox(rig, id, policy(rig, "rules", &reading)).await?,
        "HTTP-21" => required(rig).await?,
        "HTTP-22" => own_sandbox(rig, id, policy(rig, "rules", &ours)).await?,
        "HTTP-27" => not_shared(rig).await?,
        "SUB-01" | "SUB-02" => with_value(rig, id).await?,
        "SUB-23" => changed(rig).await?,
        _ => return Ok(None),
    }))
}

/// The usual list and secret in a policy document, with one part of `net`.
fn policy(rig: &Rig, part: &str, value: &Value) -> Value {
    let mut usual = rig.usual();
    let secret = json!({ "hosts": ["origin.test"] });
    let document = json!({
        "version": 1,
        "allow_net": usual["allow_net"].take(),
        "secrets": { "KEY": secret },
        "net": { part: value },
    });
    json!({
        "timeout": "600s",
        "egress_policy": document,
        "secrets": { "KEY": { "value": rig.canary.value() } },
    })
}

/// SUB-01, SUB-02: the host saw what the guest only named.
async fn with_value(rig: &Rig, id: &str) -> anyhow::Result<Vec<String>> {
    let since = rig.network.origin.count();
    let mut wrong = own_sandbox(rig, id, rig.usual()).await?;
    let path = format!("GET /{}", id.to_lowercase());
    if !rig.origin_saw(since, &path) {
        wrong.push("the host did not see the value".to_owned());
    }
    Ok(wrong)
}

/// NET-17, SUB-18: a sandbox restored from the same template is another one.
async fn another_sandbox(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let (one, other) = (
        rig.create(rig.usual()).await?,
        rig.create(rig.usual()).await?,
    );
    let placeholder = rig.world.shell_text(&one, "printf %s \"$KEY\"").await?;
    let since = rig.network.origin.count();
    let before = rig.before(&other)?;
    let report = rig.run(&other, "SUB-18", &[&placeholder]).await?;
    let mut wrong = rig.after(&before, report).await?;
    if rig.origin_saw(since, "GET /sub-18") {
        wrong.push("another sandbox's placeholder became the value".to_owned());
    }
    let records = rig.records(&other)?;
    let is_foreign = |record: &Value| record["ineligible"][0]["reason"] == "foreign_placeholder";
    if !records.iter().any(is_foreign) {
        wrong.push("nothing is recorded of another sandbox's placeholder".to_owned());
    }
    for sandbox in [one, other] {
        rig.world.kill(&sandbox).await?;
    }
    Ok(wrong)
}

/// TLS-14: each sandbox has an authority of its own, and no sandbox its key.
async fn another_authority(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let (one, other) = (
        rig.create(rig.usual()).await?,
        rig.create(rig.usual()).await?,
    );
    let before = rig.before(&one)?;
    let report = rig.run(&one, "TLS-14", &[]).await?;
    let leaf = report.facts["leaf"].as_str().unwrap_or_default().to_owned();
    let mut wrong = rig.after(&before, report).await?;
    let before = rig.before(&other)?;
    let report = rig.run(&other, "TLS-14", &[&leaf]).await?;
    wrong.extend(rig.after(&before, report).await?);
    for sandbox in [one, other] {
        rig.world.kill(&sandbox).await?;
    }
    Ok(wrong)
}

/// HTTP-21: only the sandbox's own credential goes to a host that requires it.
async fn required(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let mut config = policy(rig, "rules", &json!([]));
    config["egress_policy"]["secrets"]["KEY"]["require"] = json!(true);
    let since = rig.network.origin.count();
    let mut wrong = own_sandbox(rig, "HTTP-21", config).await?;
    for line in rig.network.origin.since(since) {
        let asked = line["request"].as_str().unwrap_or_default();
        if asked.starts_with("POST") || asked.contains("attacker") {
            wrong.push(format!("the host got {asked}"));
        }
    }
    if !rig.origin_saw(since, "GET /files") {
        wrong.push("the own credential did not arrive".to_owned());
    }
    Ok(wrong)
}

/// HTTP-27: what the host sees of two sandboxes are two connections.
async fn not_shared(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let (one, other) = (
        rig.create(rig.usual()).await?,
        rig.create(rig.usual()).await?,
    );
    let since = rig.network.cdn.count();
    let mut wrong = Vec::new();
    for (sandbox, word) in [
        (&one, "one"),
        (&other, "other"),
        (&one, "again"),
        (&other, "too"),
    ] {
        let before = rig.before(sandbox)?;
        let report = rig.run(sandbox, "HTTP-27", &[word]).await?;
        wrong.extend(rig.after(&before, report).await?);
    }
    let lines = rig.network.cdn.since(since);
    let from = |path: &str| {
        let path = format!("GET /{path}");
        let line = lines.iter().find(|line| line["request"] == *path);
        line.map(|line| line["peer_port"].clone())
    };
    let (first, second) = ([from("one"), from("again")], [from("other"), from("too")]);
    let is_seen = first.iter().chain(&second).all(Option::is_some);
    if !is_seen || first.iter().any(|port| second.contains(port)) {
        wrong.push(format!("connections: {first:?} and {second:?}"));
    }
    for sandbox in [one, other] {
        rig.world.kill(&sandbox).await?;
    }
    Ok(wrong)
}

/// SUB-23: a secret that is rotated, then revoked.
async fn changed(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let sandbox = rig.create(rig.usual()).await?;
    let path = format!("/api/tombolo/v1/sandboxes/{sandbox}/egress/secrets/KEY");
    let since = rig.network.origin.count();
    let mut wrong = Vec::new();
    let new = json!({ "value": "a new value of the same secret" });
    for (word, change) in [
        ("before", None),
        ("rotated", Some(("PUT", Some(new)))),
        ("revoked", Some(("DELETE", None))),
    ] {
        if let Some((method, body)) = change {
            let path = path.clone();
            rig.api(move |client| client.must(method, &path, body.as_ref()))
                .await?;
        }
        let before = rig.before(&sandbox)?;
        let report = rig.run(&sandbox, "SUB-23", &[word]).await?;
        wrong.extend(rig.after(&before, report).await?);
        let saw = rig.origin_saw(since, &format!("GET /sub-23-{word}"));
        if saw != (word == "before") {
            wrong.push(format!("{word}: the host saw the first value: {saw}"));
        }
    }
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}
