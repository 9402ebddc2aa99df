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
    /// Of all steps together.
    verdict: String,
    /// Absent for an address.
    dns: Option<Decision>,
    /// Absent where it would pass and the name before it does not.
    connect: Option<Decision>,
    terminated: bool,
    secrets: Vec<String>,
    /// Absent for what is no HTTP, and after a step that refuses.
    request: Option<Request>,
    /// Absent where requests are not read, and after a step that refuses.
    credentials: Option<Credentials>,
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
struct Credentials {
    verdict: String,
    reason: Option<String>,
    message: Option<String>,
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
    fn words(&self) -> String {
        format!("{} ({}, by {})", self.verdict, self.reason, self.rule)
    }
}

impl Explained {
    fn is_allowed(&self) -> bool {
        self.verdict == "allow"
    }

    fn lines(&self, scheme: &str) -> Vec<String> {
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
        if let Some(connect) = &self.connect {
            tell("connection", connect.words());
        }
        if scheme == "https" {
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
        if scheme == "tcp" {
            let raw = if self.raw { "pass" } else { "do not pass" };
            tell("bytes that are neither TLS nor HTTP", raw.to_owned());
        }
        let Some(request) = &self.request else {
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
        if let Some(Credentials {
            verdict,
            reason: Some(reason),
            message,
        }) = &self.credentials
        {
            let message = message.as_deref().unwrap_or_default();
            tell("credentials", format!("{verdict} ({reason}): {message}"));
        }
        lines
    }
}

pub(super) async fn explain(context: &Context, args: ExplainArgs) -> Outcome<u8> {
    let id = args.id.clone();
    let scheme = args
        .url
        .split(':')
        .next()
        .unwrap_or_default()
        .to_lowercase();
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
        let lines = explained.lines(&scheme);
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

    fn decision(verdict: &str) -> Value {
        json!({"verdict": verdict, "rule": "default", "reason": "x"})
    }

    /// A request to which the rules say this, and then the secrets.
    fn explained(request: &str, credentials: Option<&str>) -> Explained {
        let mut asked = decision(request);
        asked["enforced"] = json!(true);
        asked["guidance"] = json!(null);
        asked["rules"] = json!([{
            "rule": "ro", "action": "allow", "mode": "enforce", "outcome": "not_matched",
            "condition": "method", "within_rate": false,
        }]);
        let credentials = credentials
            .map(|reason| json!({"verdict": "deny", "reason": reason, "message": "Use KEY."}));
        let answer = json!({
            "verdict": "deny", "refused_by": "request", "name": "a.com", "port": 443,
            "policy_gen": 1, "dns": decision("allow"), "connect": decision("allow"),
            "terminated": true, "secrets": ["KEY"], "request": asked, "raw": false,
            "credentials": credentials,
        });
        Explained::deserialize(&answer).unwrap()
    }

    #[test]
    fn what_is_no_http_has_a_connection_and_nothing_else() {
        for (raw, verdict, words) in [(true, "allowed", "pass"), (false, "refused", "do not pass")]
        {
            let answer = json!({
                "verdict": if raw { "allow" } else { "deny" }, "dns": null,
                "connect": decision("allow"), "terminated": false, "secrets": [],
                "request": null, "credentials": null, "raw": raw,
            });
            let lines = Explained::deserialize(&answer).unwrap().lines("tcp");
            let last = format!("  bytes that are neither TLS nor HTTP: {words}");
            assert_eq!(
                lines,
                [verdict, "  connection: allow (x, by default)", &last]
            );
        }
    }

    #[test]
    fn what_every_part_says_is_told() {
        let lines = |request, credentials| explained(request, credentials).lines("https");
        let expected = [
            "refused",
            "  name: allow (x, by default)",
            "  connection: allow (x, by default)",
            "  TLS: ends in the egress proxy, which reads the requests",
            "  secrets: KEY",
            "  request: deny (x, by default)",
            "  rule ro (allow): not_matched, by its method, and its rate is used up",
        ];
        assert_eq!(lines("deny", None), expected);
        let missing = lines("allow", Some("credential_missing"));
        let last = "  credentials: deny (credential_missing): Use KEY.";
        assert_eq!(missing.last().map(String::as_str), Some(last));
    }

    #[test]
    fn nothing_is_told_of_what_comes_after_a_refusal() {
        let answer = json!({
            "verdict": "deny", "refused_by": "dns", "dns": decision("deny"), "connect": null,
            "terminated": true, "secrets": [], "request": null, "credentials": null, "raw": false,
        });
        let lines = Explained::deserialize(&answer).unwrap().lines("http");
        assert_eq!(lines, ["refused", "  name: deny (x, by default)"]);
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
