//! Where a value must not be found when everything was tried: files, memory,
//! logs and answers; and what timing and words tell.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use tombolo_attacks::memory;
use tombolo_attacks::rig::Rig;
use tombolo_e2e::host;

use crate::special::{self, own_sandbox};

/// The only process that may hold values.
const PROXY: &str = "egress-proxy";
/// The process that values go through, sealed.
const SERVER: &str = "server";

/// Does what is special about an attack; none if nothing is.
pub(super) async fn attack(
    rig: &Rig,
    sandbox: &str,
    id: &str,
) -> anyhow::Result<Option<Vec<String>>> {
    Ok(Some(match id {
        "LEAK-01" => written(rig, sandbox).await?,
        "LEAK-02" => in_path(rig).await?,
        "LEAK-04" => of_guests(rig, sandbox).await?,
        "LEAK-05" => of_processes(rig, sandbox).await?,
        "LEAK-06" => answered(rig, sandbox).await?,
        "LEAK-08" => at_rest(rig).await?,
        "TIM-02" => own_sandbox(rig, id, judged(rig)).await?,
        _ => return Ok(None),
    }))
}

/// Uses the secret, so that there is something to be left behind.
async fn use_secret(rig: &Rig, sandbox: &str) -> anyhow::Result<Vec<String>> {
    let since = rig.network.origin.count();
    let mut wrong = rig.attack(sandbox, "REF-01").await?;
    if !rig.origin_saw(since, "GET /ref-01") {
        wrong.push("the secret was not used".to_owned());
    }
    Ok(wrong)
}

/// Every file below a directory that has the value in it.
fn search_files(rig: &Rig, directory: &Path) -> anyhow::Result<Vec<String>> {
    let (mut found, mut directories, mut count) = (Vec::new(), vec![directory.to_owned()], 0);
    while let Some(directory) = directories.pop() {
        for entry in fs_err::read_dir(&directory)?.flatten() {
            // Templates are borrowed from the tests' own state, by a link.
            let Ok(metadata) = fs_err::metadata(entry.path()) else {
                continue;
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file() {
                count += 1;
                if let Some(form) = memory::find_in_file(&rig.canary, &entry.path())? {
                    found.push(format!("{} has it ({form})", entry.path().display()));
                }
            }
        }
    }
    if count == 0 {
        found.push(format!("{} has no file", directory.display()));
    }
    Ok(found)
}

/// LEAK-01: records, sums, logs at their most talkative.
async fn written(rig: &Rig, sandbox: &str) -> anyhow::Result<Vec<String>> {
    let mut wrong = use_secret(rig, sandbox).await?;
    wrong.extend(search_files(rig, &rig.world.state().join("egress"))?);
    let log = fs_err::read(rig.network.log())?;
    if !log.windows(5).any(|word| word == b"DEBUG") {
        wrong.push("nothing is logged".to_owned());
    }
    if let Some(form) = rig.canary.find(&log) {
        wrong.push(format!("the log has it ({form})"));
    }
    for path in [
        "/api/tombolo/v1/egress/metrics".to_owned(),
        format!("/api/tombolo/v1/sandboxes/{sandbox}/egress/stats"),
    ] {
        let answer = rig
            .admin(move |client| client.must("GET", &path, None))
            .await?;
        if answer.body.is_empty() || rig.canary.find(&answer.body).is_some() {
            wrong.push(format!("{:?}", String::from_utf8_lossy(&answer.body)));
        }
    }
    Ok(wrong)
}

/// LEAK-02: a record shows what the guest wrote.
async fn in_path(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let mut config = rig.usual();
    let list = config["allow_net"].take();
    let secret = json!({ "hosts": ["origin.test"], "in": ["header", "path", "query"] });
    let config = json!({
        "timeout": "600s",
        "egress_policy": { "version": 1, "allow_net": list, "secrets": { "KEY": secret } },
        "secrets": { "KEY": { "value": rig.canary.value() } },
    });
    let since = rig.network.origin.count();
    let sandbox = rig.create(config).await?;
    let mut wrong = rig.attack(&sandbox, "LEAK-02").await?;
    let records = rig.records(&sandbox)?;
    let shows = |record: &Value| {
        let path = record["path"].as_str().unwrap_or_default();
        path.contains("/botDENO_SECRET_PLACEHOLDER_")
    };
    if !records.iter().any(shows) {
        wrong.push(format!("no record shows the placeholder: {records:?}"));
    }
    if !rig.origin_saw(since, "GET /bot") {
        wrong.push("the host did not see the value".to_owned());
    }
    rig.world.kill(&sandbox).await?;
    Ok(wrong)
}

/// LEAK-04: the memory of a guest that used the secret, its disk, and templates.
async fn of_guests(rig: &Rig, sandbox: &str) -> anyhow::Result<Vec<String>> {
    let mut wrong = use_secret(rig, sandbox).await?;
    let machine = host::machine(&rig.world, sandbox)?.as_raw_nonzero().get();
    if let Some(place) = memory::find(&rig.canary, machine)? {
        wrong.push(format!("the guest's memory has it ({place})"));
    }
    // What the guest does know is found, so the search is one.
    let placeholder = rig.world.shell_text(sandbox, "printf %s \"$KEY\"").await?;
    if !memory::contains(machine, placeholder.as_bytes())? {
        wrong.push("the placeholder is not found in the guest's memory".to_owned());
    }
    for directory in ["vms", "templates"] {
        wrong.extend(search_files(rig, &rig.world.state().join(directory))?);
    }
    Ok(wrong)
}

/// LEAK-05: memory, environment and arguments of every process but one.
async fn of_processes(rig: &Rig, sandbox: &str) -> anyhow::Result<Vec<String>> {
    let mut wrong = use_secret(rig, sandbox).await?;
    wrong.extend(rig.attack(sandbox, "LEAK-05").await?);
    // On connections of every kind: one that goes on, one that was put, one refused.
    let config = rig.usual();
    let (id, connection) = rig
        .api(move |client| client.create_and_stay(&config))
        .await?;
    let path = format!("/api/tombolo/v1/sandboxes/{id}/egress/secrets/KEY");
    let body = json!({ "value": rig.canary.value() });
    rig.api(move |client| client.must("PUT", &path, Some(&body)))
        .await?;
    let mut refused = rig.usual();
    refused["memory_mb"] = json!(1);
    if rig.api(move |client| client.create(&refused)).await.is_ok() {
        wrong.push("a configuration that cannot be is taken".to_owned());
    }
    let parts = host::parts(&rig.world);
    for part in &parts {
        let name = part.command.get(1).cloned().unwrap_or_default();
        let found = memory::find(&rig.canary, part.pid)?;
        if let Some(place) = found.filter(|_| name != PROXY) {
            wrong.push(format!("the memory of {name} has it ({place})"));
        }
        for file in ["environ", "cmdline"] {
            let bytes = fs_err::read(format!("/proc/{}/{file}", part.pid))?;
            if let Some(form) = rig.canary.find(&bytes) {
                wrong.push(format!("the {file} of {name} has it ({form})"));
            }
        }
    }
    // Where it has to be it is found, so the search is one.
    if memory::find(&rig.canary, rig.proxy()?)?.is_none() {
        wrong.push("not even the proxy has the value".to_owned());
    }
    drop(connection);
    rig.world.kill(&id).await?;
    Ok(wrong)
}

/// LEAK-06: a value goes in and never comes out.
async fn answered(rig: &Rig, sandbox: &str) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let base = format!("/api/tombolo/v1/sandboxes/{sandbox}/egress");
    for path in [
        format!("{base}/secrets"),
        format!("{base}/policy"),
        format!("{base}/stats"),
        "/api/tombolo/v1/sandboxes".to_owned(),
        "/api/v3/sandboxes".to_owned(),
        "/api/v2/sandboxes".to_owned(),
    ] {
        let asked = path.clone();
        let answer = rig
            .api(move |client| client.must("GET", &asked, None))
            .await?;
        if answer.body.is_empty() || rig.canary.find(&answer.body).is_some() {
            wrong.push(format!("{path}: {}", String::from_utf8_lossy(&answer.body)));
        }
    }
    // Also when what was sent is wrong.
    let path = format!("{base}/secrets/KEY");
    let body = json!({ "value": rig.canary.value(), "hosts": ["not a host"], "in": ["nowhere"] });
    let answer = rig
        .api(move |client| client.call("PUT", &path, Some(&body)))
        .await?;
    if answer.status < 400 || rig.canary.find(&answer.body).is_some() {
        wrong.push(format!(
            "{}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        ));
    }
    Ok(wrong)
}

/// LEAK-08: the database and the records of the proxy, also after a crash.
async fn at_rest(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let server = host::part(&rig.world, SERVER)?;
    host::kill(server)?;
    let pid = special::another(rig, SERVER, server).await?;
    for directory in ["server", "egress", "log"] {
        let directory = rig.world.state().join(directory);
        if directory.exists() {
            wrong.extend(search_files(rig, &directory)?);
        }
    }
    if let Some(place) = memory::find(&rig.canary, pid)? {
        wrong.push(format!("the new server has it ({place})"));
    }
    rig.world.list().await.context("the server answers again")?;
    Ok(wrong)
}

/// TIM-02: rules that look at headers and bodies.
fn judged(rig: &Rig) -> Value {
    let rules = json!([
        { "id": "by-header", "host": "good.test", "action": "deny", "headers": { "x-team": "looked-for" } },
        { "id": "by-body", "host": "good.test", "json": { "/account": { "equals": "nobody" } } },
        { "id": "by-words", "host": "good.test", "when": "json.account.size() > 1000" },
    ]);
    let list = rig.usual()["allow_net"].take();
    json!({ "timeout": "600s", "egress_policy": { "version": 1, "allow_net": list, "net": { "rules": rules } } })
}
