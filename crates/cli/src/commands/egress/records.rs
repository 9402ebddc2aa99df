//! What sandboxes did: records as they are made, and sums of them.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tombolo_ids::SandboxId;

use super::{egress_of, overseer};
use crate::cli::{TailArgs, TopArgs};
use crate::context::Context;
use crate::failure::Outcome;
use crate::{output, wire};
use tombolo_client::{Client, HostSums, RecordEvent, RequestError};

/// How many sandboxes are asked at the same time.
const ASKED_AT_ONCE: usize = 8;
/// What a sandbox answers that cannot have sent anything, or that has just ended.
const NOTHING_SENT: [&str; 3] = [
    "NO_NETWORK",
    "SANDBOX_ALREADY_TERMINATED",
    "SANDBOX_NOT_READY",
];

/// A record, as far as a line shows it.
#[derive(Debug, Deserialize)]
struct Record {
    ts: String,
    sandbox: String,
    proto: String,
    orig_dst: String,
    name: Option<String>,
    port: u16,
    method: Option<String>,
    path: Option<String>,
    status: Option<u16>,
    decision: String,
    rule: Option<String>,
    reason: String,
    #[serde(default)]
    secrets: Vec<SecretUse>,
    #[serde(default)]
    scrubbed: u64,
    err: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SecretUse {
    name: String,
}

/// To the millisecond, which is enough to read.
fn moment(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(
        |_| text.to_owned(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
    )
}

impl Record {
    /// In one line: when, whose, what became of it, what it was, and why.
    fn line(&self, with_sandbox: bool) -> String {
        let host = match &self.name {
            Some(name) if self.proto == "dns" => name.clone(),
            Some(name) => format!("{name}:{}", self.port),
            None => self.orig_dst.clone(),
        };
        let path = self.path.as_deref().unwrap_or_default();
        let mut words = vec![moment(&self.ts)];
        words.extend(with_sandbox.then(|| self.sandbox.clone()));
        words.push(format!("{:<5}", self.decision));
        words.push(format!("{:<8}", self.proto));
        words.extend(self.method.clone());
        words.push(format!("{host}{path}"));
        words.extend(self.status.map(|status| status.to_string()));
        words.push(self.err.clone().unwrap_or_else(|| self.reason.clone()));
        words.extend(self.rule.as_ref().map(|rule| format!("({rule})")));
        for used in &self.secrets {
            words.push(format!("secret={}", used.name));
        }
        if self.scrubbed > 0 {
            words.push(format!("scrubbed={}", self.scrubbed));
        }
        output::printable(&words.join(" "))
    }
}

pub(super) async fn tail(context: &Context, args: &TailArgs) -> Outcome {
    let id = args.id.as_deref().map(wire::sandbox_id).transpose()?;
    let client = overseer(context, &args.server).await?;
    let records = client.egress_records(id.as_ref()).await;
    let mut records = records.map_err(wire::refused)?;
    while let Some(event) = records.next().await.map_err(wire::refused)? {
        if let Some(line) = shown(&event, args)
            && !output::line(&line)?
        {
            break;
        }
    }
    Ok(())
}

/// What to print of an event. What is not a record is told to the person.
fn shown(event: &RecordEvent, args: &TailArgs) -> Option<String> {
    let data = match event {
        RecordEvent::Record(data) => data,
        RecordEvent::Skipped(count) => {
            let told = format!("tombolo: some records came too fast and are not shown: {count}");
            output::tell(&output::printable(&told));
            return None;
        }
        RecordEvent::Interrupted => {
            output::tell("tombolo: the egress proxy was away; records may be missing");
            return None;
        }
        _ => return None,
    };
    // A form that this version does not know is shown as it is rather than not at all.
    let record = serde_json::from_str::<Record>(data).ok();
    if args.denied
        && record
            .as_ref()
            .is_some_and(|record| record.decision != "deny")
    {
        return None;
    }
    Some(match record {
        Some(record) if !args.json => record.line(args.id.is_none()),
        _ => output::printable(data),
    })
}

pub(super) async fn top(context: &Context, args: &TopArgs) -> Outcome {
    let client = overseer(context, &args.server).await?;
    let sums = match &args.id {
        Some(id) => {
            let egress = egress_of(context, &args.server, id).await?;
            egress.stats().await.map_err(wire::refused)?
        }
        None => sums_of_all(&client).await?,
    };
    let sums = busiest_first(sums);
    if args.json {
        return output::json(&sums);
    }
    let head = [
        "HOST", "ATTEMPTS", "DENIED", "FAILED", "SENT", "RECEIVED", "SECRETS", "SCRUBBED",
    ];
    output::table(&head, sums.iter().map(cells).collect())
}

async fn sums_of_all(client: &Client) -> Outcome<Vec<HostSums>> {
    let rows = client.sandboxes().running().all().await;
    let rows = rows.map_err(wire::refused)?;
    let asked = stream::iter(rows.into_iter().map(|row| stats(client, row.id)));
    let answers: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut all = Vec::new();
    for answer in answers {
        match answer {
            Ok(sums) => all.extend(sums),
            Err(error) if has_sent_nothing(&error) => {}
            Err(error) => return Err(wire::refused(error)),
        }
    }
    Ok(all)
}

async fn stats(client: &Client, id: SandboxId) -> Result<Vec<HostSums>, RequestError> {
    client.sandbox(&id).egress().stats().await
}

fn has_sent_nothing(error: &RequestError) -> bool {
    error
        .refusal()
        .is_some_and(|refusal| NOTHING_SENT.contains(&refusal.code.as_str()))
}

/// One row for each host, whichever sandboxes it belongs to.
fn busiest_first(sums: Vec<HostSums>) -> Vec<HostSums> {
    let mut by_host: BTreeMap<String, HostSums> = BTreeMap::new();
    for one in sums {
        match by_host.get_mut(&one.host) {
            Some(sum) => {
                sum.attempts += one.attempts;
                sum.denied += one.denied;
                sum.failed += one.failed;
                sum.request_bytes += one.request_bytes;
                sum.response_bytes += one.response_bytes;
                sum.secret_uses += one.secret_uses;
                sum.scrubbed += one.scrubbed;
            }
            None => {
                by_host.insert(one.host.clone(), one);
            }
        }
    }
    let mut rows: Vec<_> = by_host.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.attempts));
    rows
}

fn cells(sums: &HostSums) -> Vec<String> {
    let counts = [
        sums.attempts,
        sums.denied,
        sums.failed,
        sums.request_bytes,
        sums.response_bytes,
        sums.secret_uses,
        sums.scrubbed,
    ];
    let counts = counts.iter().map(ToString::to_string);
    std::iter::once(sums.host.clone()).chain(counts).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_one_line_that_a_terminal_obeys_nothing_of() {
        let record = json!({
            "ts": "2026-01-02T03:04:05Z", "sandbox": "sbx_a", "proto": "h2", "port": 443,
            "orig_dst": "198.18.1.0:443", "name": "api.example.com", "method": "GET",
            "path": "/\u{1b}[2J", "status": 200, "decision": "allow", "rule": "allow_net:api.example.com",
            "reason": "listed", "secrets": [{"name": "KEY", "slots": ["header"], "count": 1}],
            "scrubbed": 1,
        });
        let record: Record = serde_json::from_value(record).unwrap();
        assert_eq!(
            record.line(true),
            "2026-01-02T03:04:05.000Z sbx_a allow h2       GET api.example.com:443/\\u{1b}[2J 200 listed \
             (allow_net:api.example.com) secret=KEY scrubbed=1"
        );
        let denied = json!({
            "ts": "2026-01-02T03:04:05Z", "sandbox": "sbx_a", "proto": "tcp", "port": 22,
            "orig_dst": "192.0.2.1:22", "decision": "deny", "reason": "not_listed",
        });
        let denied: Record = serde_json::from_value(denied).unwrap();
        assert_eq!(
            denied.line(false),
            "2026-01-02T03:04:05.000Z deny  tcp      192.0.2.1:22 not_listed"
        );
    }

    #[test]
    fn hosts_of_several_sandboxes_are_summed_and_the_busiest_is_first() {
        let one = |host: &str, attempts: u64, denied: u64| HostSums {
            host: host.to_owned(),
            attempts,
            denied,
            failed: 0,
            request_bytes: 1,
            response_bytes: 2,
            secret_uses: 0,
            scrubbed: 0,
        };
        let rows = busiest_first(vec![one("a", 1, 0), one("b", 2, 1), one("a", 4, 2)]);
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.host.as_str(),
                    row.attempts,
                    row.denied,
                    row.request_bytes,
                )
            })
            .collect();
        assert_eq!(rows, [("a", 5, 2, 2), ("b", 2, 1, 1)]);
    }
}
