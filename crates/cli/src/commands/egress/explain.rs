//! What a policy makes of a request that is not sent.

use std::io::Read as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tombolo_api::native::{ExplainHeader, ExplainRequest};
use tombolo_diag::ExitCode;

use super::egress_of;
use crate::cli::ExplainArgs;
use crate::commands::OK;
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::{output, wire};

/// The longest body that is read from a file; the server takes no more.
const BODY_LEN_MAX: u64 = 512 * 1024;

/// The server's answer, as far as it is told.
#[derive(Debug, Serialize, Deserialize)]
struct Explained {
    /// Absent for an address.
    dns: Option<Decision>,
    connect: Decision,
    terminated: bool,
    secrets: Vec<String>,
    /// Absent for what is no HTTP.
    request: Option<Request>,
    /// Whether what is neither TLS nor HTTP passes.
    raw: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Decision {
    verdict: String,
    rule: String,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    #[serde(flatten)]
    decision: Decision,
    enforced: bool,
    guidance: Option<String>,
    rules: Vec<Rule>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Rule {
    #[serde(rename = "rule")]
    id: String,
    action: String,
    outcome: String,
    condition: Option<Value>,
    within_rate: bool,
}

impl Decision {
    fn is_allowed(&self) -> bool {
        self.verdict == "allow"
    }

    fn words(&self) -> String {
        format!("{} ({}, by {})", self.verdict, self.reason, self.rule)
    }
}

impl Explained {
    fn is_allowed(&self) -> bool {
        let name = self.dns.as_ref().is_none_or(Decision::is_allowed);
        let request = self.request.as_ref().map_or(self.raw, |request| {
            request.decision.is_allowed() || !request.enforced
        });
        name && self.connect.is_allowed() && request
    }

    fn lines(&self, is_https: bool) -> Vec<String> {
        let verdict = if self.is_allowed() {
            "allowed"
        } else {
            "refused"
        };
        let mut lines = vec![verdict.to_owned()];
        let mut tell = |what: &str, words: String| lines.push(format!("  {what}: {words}"));
        if let Some(dns) = &self.dns {
            tell("name", dns.words());
        }
        tell("connection", self.connect.words());
        if is_https {
            let tls = if self.terminated {
                "ends in the egress proxy, which reads the requests"
            } else {
                "is passed through unread"
            };
            tell("TLS", tls.to_owned());
        }
        if !self.secrets.is_empty() {
            tell("secrets", self.secrets.join(", "));
        }
        let Some(request) = &self.request else {
            let raw = if self.raw { "pass" } else { "do not pass" };
            tell("bytes that are neither TLS nor HTTP", raw.to_owned());
            return lines;
        };
        tell("request", request.decision.words());
        for rule in &request.rules {
            let mut words = rule.outcome.clone();
            if let Some(condition) = &rule.condition {
                let condition = condition
                    .as_str()
                    .map_or_else(|| condition.to_string(), str::to_owned);
                words = format!("{words}, by its {condition}");
            }
            if !rule.within_rate {
                words.push_str(", and its rate is used up");
            }
            tell(&format!("rule {} ({})", rule.id, rule.action), words);
        }
        if let Some(guidance) = &request.guidance {
            tell("guidance", guidance.clone());
        }
        lines
    }
}

pub(super) async fn explain(context: &Context, args: ExplainArgs) -> Outcome<u8> {
    let id = args.id.clone();
    let is_https = args.url.starts_with("https:");
    let headers = args.headers.iter().map(|text| header(text));
    let asked = ExplainRequest {
        headers: headers.collect::<Outcome<_>>()?,
        body: args.data.as_deref().map(body).transpose()?,
        method: args.method,
        url: args.url,
    };
    let egress = egress_of(context, &args.server, &id).await?;
    let answer: Value = egress.explain(&asked).await.map_err(wire::refused)?;
    let explained = Explained::deserialize(&answer)?;
    if args.json {
        output::json(&answer)?;
    } else {
        let lines = explained.lines(is_https);
        let lines: Vec<_> = lines.iter().map(|line| output::printable(line)).collect();
        output::data(&lines.join("\n"))?;
    }
    Ok(if explained.is_allowed() {
        OK
    } else {
        ExitCode::Failure.code()
    })
}

fn header(text: &str) -> Outcome<ExplainHeader> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok(ExplainHeader {
            name: name.to_owned(),
            value: value.trim().to_owned(),
        }),
        _ => Err(
            Failure::message(ExitCode::Usage, format!("--header {text} is no header"))
                .hint("write -H 'NAME: VALUE'"),
        ),
    }
}

/// The body as it was typed, or that of a file.
fn body(typed: &str) -> Outcome<String> {
    let Some(path) = typed.strip_prefix('@') else {
        return Ok(typed.to_owned());
    };
    let mut text = String::new();
    let read = if path == "-" {
        let stdin = std::io::stdin().lock();
        stdin.take(BODY_LEN_MAX + 1).read_to_string(&mut text)
    } else {
        fs_err::File::open(path)
            .and_then(|file| file.take(BODY_LEN_MAX + 1).read_to_string(&mut text))
    };
    read.while_doing("the body cannot be read")?;
    if text.len() as u64 > BODY_LEN_MAX {
        let what = format!("the body is longer than {BODY_LEN_MAX} bytes");
        return Err(Failure::message(ExitCode::Usage, what));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn explained(connect: &str, request: &str, enforced: bool) -> Explained {
        let decision =
            |verdict: &str| json!({"verdict": verdict, "rule": "default", "reason": "x"});
        let mut asked = decision(request);
        asked["enforced"] = json!(enforced);
        asked["guidance"] = json!(null);
        asked["rules"] = json!([{
            "rule": "ro", "action": "allow", "mode": "enforce", "outcome": "not_matched",
            "condition": "method", "within_rate": false,
        }]);
        let answer = json!({
            "name": "a.com", "port": 443, "policy_gen": 1, "dns": decision("allow"),
            "connect": decision(connect), "terminated": true, "secrets": ["KEY"], "request": asked, "raw": false,
        });
        Explained::deserialize(&answer).unwrap()
    }

    #[test]
    fn a_request_is_allowed_when_every_part_is_or_the_rules_are_on_trial() {
        let cases = [
            ("allow", "allow", true, true),
            ("deny", "allow", true, false),
            ("allow", "deny", true, false),
            ("allow", "deny", false, true),
        ];
        for (connect, request, enforced, expected) in cases {
            let explained = explained(connect, request, enforced);
            assert_eq!(
                explained.is_allowed(),
                expected,
                "{connect} {request} {enforced}"
            );
        }
    }

    #[test]
    fn what_is_no_http_has_a_connection_and_nothing_else() {
        for (raw, verdict, words) in [(true, "allowed", "pass"), (false, "refused", "do not pass")]
        {
            let connect = json!({"verdict": "allow", "rule": "default", "reason": "x"});
            let answer = json!({
                "dns": null, "connect": connect, "terminated": false, "secrets": [],
                "request": null, "raw": raw,
            });
            let lines = Explained::deserialize(&answer).unwrap().lines(false);
            let last = format!("  bytes that are neither TLS nor HTTP: {words}");
            assert_eq!(
                lines,
                [verdict, "  connection: allow (x, by default)", &last]
            );
        }
    }

    #[test]
    fn what_every_part_says_is_told() {
        let lines = explained("allow", "deny", true).lines(true);
        let expected = [
            "refused",
            "  name: allow (x, by default)",
            "  connection: allow (x, by default)",
            "  TLS: ends in the egress proxy, which reads the requests",
            "  secrets: KEY",
            "  request: deny (x, by default)",
            "  rule ro (allow): not_matched, by its method, and its rate is used up",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let read = |text| header(text).map(|header| (header.name, header.value));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("accept: a/b").unwrap(), pair("accept", "a/b"));
        assert_eq!(read("x:a:b").unwrap(), pair("x", "a:b"));
        for wrong in ["", "accept", ": a"] {
            assert!(
                read(wrong)
                    .unwrap_err()
                    .report()
                    .contains("-H 'NAME: VALUE'"),
                "{wrong}"
            );
        }
    }
}
