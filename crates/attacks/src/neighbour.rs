//! A sandbox that does all the time what it may, beside those under attack: what
//! an attack takes from others is seen in what the proxy records of it.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::rig::{GUEST_PLACE, Rig};

/// How long the proxy may take for one of its requests. It is some milliseconds
/// where a guest and its host do not share their processors with the attacks.
const REQUEST_MAX: Duration = Duration::from_secs(2);
/// How soon after an attack a request must have been answered.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A sandbox whose program goes on until it ends.
#[derive(Debug)]
pub struct Neighbour {
    sandbox: String,
}

impl Neighbour {
    /// Makes one and waits until it has what it asks for.
    pub async fn start(rig: &Rig) -> anyhow::Result<Self> {
        let sandbox = rig.create(rig.usual()).await?;
        let program = Path::new(GUEST_PLACE).join("attack.py");
        let script = format!(
            "setsid python3 {} neighbour >/dev/null 2>&1 </dev/null &",
            program.display()
        );
        rig.world.shell_text(&sandbox, &script).await?;
        let neighbour = Self { sandbox };
        let wrong = neighbour.after(rig, 0).await?;
        ensure!(wrong.is_empty(), "it cannot do what it may: {wrong:?}");
        Ok(neighbour)
    }

    /// How many records there are of it.
    pub fn count(&self, rig: &Rig) -> anyhow::Result<usize> {
        Ok(rig.records(&self.sandbox)?.len())
    }

    /// G4: what of it went wrong since there were so many records, and whether it
    /// still goes on.
    pub async fn after(&self, rig: &Rig, since: usize) -> anyhow::Result<Vec<String>> {
        let at_end = self.count(rig)?;
        let give_up = Instant::now() + ANSWER_MAX;
        loop {
            let records = rig.records(&self.sandbox)?;
            let goes_on = records.iter().skip(at_end).any(is_answered);
            if !goes_on && Instant::now() < give_up {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            let spoilt = records
                .iter()
                .skip(since)
                .filter(|record| is_spoilt(record));
            let mut wrong: Vec<String> = spoilt
                .map(|record| format!("G4: the neighbour had {record}"))
                .collect();
            if !goes_on {
                wrong.push("G4: the neighbour has no answers any more".to_owned());
            }
            return Ok(wrong);
        }
    }
}

fn is_answered(record: &Value) -> bool {
    record["status"] == 200
}

fn is_spoilt(record: &Value) -> bool {
    let took = record["total_us"].as_u64().unwrap_or_default();
    record["decision"] != "allow"
        || record["err"].is_string()
        || Duration::from_micros(took) > REQUEST_MAX
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_refused_broken_or_slow_is_seen() {
        for (record, expected) in [
            (json!({ "decision": "allow", "total_us": 900 }), false),
            (json!({ "decision": "deny", "total_us": 900 }), true),
            (
                json!({ "decision": "allow", "total_us": 900, "err": "upstream" }),
                true,
            ),
            (json!({ "decision": "allow", "total_us": 2_000_001 }), true),
        ] {
            assert_eq!(is_spoilt(&record), expected, "{record}");
        }
    }
}
