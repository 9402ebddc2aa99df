//! What a person typed about a sandbox's network and its secrets, checked
//! before anything is made. Values of secrets are read here, from a variable, a
//! file or standard input; they are wiped when they are dropped, and are never in
//! an argument or a message.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tombolo_api::config::NewSecret;
use tombolo_diag::ExitCode;
use tombolo_policy::{AllowEntry, HostPattern, PolicyDocument};
use tombolo_secret::{SECRET_LEN_MAX, SecretName, SecretValue};
use zeroize::Zeroizing;

use crate::cli::NetworkArgs;
use crate::environment::Environment;
use crate::failure::{Failure, OrFail as _, Outcome};

/// The longest policy document that is read: what the server takes.
const DOCUMENT_LEN_MAX: u64 = 1 << 20;
/// What asks for every public host.
const EVERYTHING: &str = "*";
/// What a path is for standard input.
const STDIN: &str = "-";

/// The network of a new sandbox.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// As on the wire: absent is every public host, or what the document says.
    pub(crate) allow_net: Option<Vec<String>>,
    pub(crate) secrets: BTreeMap<String, NewSecret>,
    pub(crate) egress_policy: Option<Value>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The variable of the secret's own name.
    Variable,
    File(PathBuf),
    Stdin,
}

/// A secret as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) name: SecretName,
    pub(crate) source: Source,
    pub(crate) hosts: Vec<AllowEntry>,
}

impl Network {
    /// Reads the arguments, and the files that they name. `variables` are those
    /// that the sandbox gets besides.
    pub(crate) fn read(
        args: &NetworkArgs,
        variables: &BTreeMap<String, String>,
        environment: &Environment,
    ) -> Outcome<Self> {
        let typed = typed_secrets(args, variables)?;
        let document = args.egress_policy.as_deref().map(read_document);
        let document = document.transpose()?;
        let policy = document.as_ref().map(|(_, policy)| policy);
        let allow_net = allow_net(&args.allow_net, policy)?;
        check_hosts(&typed, allow_net.as_deref(), policy)?;
        check_values(&typed, policy)?;
        check_stdin(&typed, args.egress_policy.as_deref())?;
        let mut secrets = BTreeMap::new();
        for Typed {
            name,
            source,
            hosts,
        } in &typed
        {
            let value = read_value(name, source, environment)?;
            let hosts = hosts.iter().map(ToString::to_string).collect();
            secrets.insert(name.to_string(), NewSecret { hosts, value });
        }
        Ok(Self {
            allow_net,
            secrets,
            egress_policy: document.map(|(value, _)| value),
        })
    }
}

/// The list of hosts as on the wire: absent for every public host, or where the
/// document has it.
fn allow_net(typed: &[String], policy: Option<&PolicyDocument>) -> Outcome<Option<Vec<String>>> {
    match policy {
        Some(policy) if policy.allow_net.is_some() => {
            if typed.is_empty() {
                return Ok(None);
            }
            let what = "--allow-net is given, and --egress-policy has an allow_net too";
            Err(usage(what, "leave one of them out"))
        }
        Some(_) if typed.is_empty() => {
            let what = "--egress-policy has no allow_net, which would mean every public host";
            let hint = "add \"allow_net\" to the document, or give --allow-net; --allow-net '*' if \
                        every public host is meant";
            Err(usage(what, hint))
        }
        _ => hosts(typed),
    }
}

/// Reads `--allow-net`: absent for everything, empty for nothing.
pub(crate) fn hosts(typed: &[String]) -> Outcome<Option<Vec<String>>> {
    if typed.iter().any(|entry| entry == EVERYTHING) {
        return match typed {
            [_] => Ok(None),
            _ => Err(usage(
                "--allow-net '*' means every public host, and there are others beside it",
                "leave the others out, or '*'",
            )),
        };
    }
    for text in typed {
        entry(text).map_err(|failure| failure.context(format!("--allow-net {text}")))?;
    }
    Ok(Some(typed.to_vec()))
}

fn entry(text: &str) -> Outcome<AllowEntry> {
    AllowEntry::parse(text).or_fail(ExitCode::Usage)
}

fn usage(what: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure::message(ExitCode::Usage, what).hint(hint)
}

fn typed_secrets(args: &NetworkArgs, variables: &BTreeMap<String, String>) -> Outcome<Vec<Typed>> {
    let of_variables = args.secret.iter().map(|text| from_variable(text));
    let of_files = args.secret_file.iter().map(|text| from_file(text));
    let typed: Vec<Typed> = of_variables.chain(of_files).collect::<Outcome<_>>()?;
    let mut names = BTreeSet::new();
    for Typed { name, .. } in &typed {
        if !names.insert(name) {
            let hint = "give it once, with all its hosts";
            return Err(usage(format!("the secret {name} is given twice"), hint));
        }
        if variables.contains_key(name.as_str()) {
            let what = format!("{name} is both a secret and a variable by --env");
            return Err(usage(what, "leave one of them out"));
        }
    }
    Ok(typed)
}

/// `NAME@host[,host…]`, or `NAME` where the hosts are said elsewhere.
pub(crate) fn from_variable(text: &str) -> Outcome<Typed> {
    let (name, hosts) = match text.split_once('@') {
        Some((name, hosts)) => (name, Some(hosts)),
        None => (text, None),
    };
    if let Some((name, _)) = name.split_once('=') {
        // Not quoted: what follows is most likely the value.
        return Err(usage(
            format!("the secret {name} is not given by its value, which others would see"),
            format!("export {name} and give its name and hosts: {name}@api.example.com"),
        ));
    }
    read_typed(name, Source::Variable, hosts)
}

/// `NAME=PATH@host[,host…]`. Hosts have no `@`, so the last one ends the path.
fn from_file(text: &str) -> Outcome<Typed> {
    let Some((name, rest)) = text.split_once('=') else {
        return Err(usage(
            format!("--secret-file {text} names no file"),
            "write --secret-file NAME=PATH@HOST",
        ));
    };
    let (path, hosts) = match rest.rsplit_once('@') {
        Some((path, hosts)) => (path, Some(hosts)),
        None => (rest, None),
    };
    read_typed(name, source(Path::new(path)), hosts)
}

/// Where a path leads.
pub(crate) fn source(path: &Path) -> Source {
    if path == Path::new(STDIN) {
        Source::Stdin
    } else {
        Source::File(path.to_owned())
    }
}

fn read_typed(name: &str, source: Source, hosts: Option<&str>) -> Outcome<Typed> {
    let name = SecretName::parse(name)
        .or_fail(ExitCode::Usage)
        .map_err(|failure| failure.hint("write NAME@HOST[,HOST...]"))?;
    let texts = hosts.into_iter().flat_map(|hosts| hosts.split(','));
    let hosts = texts.map(|text| secret_host(&name, text));
    Ok(Typed {
        hosts: hosts.collect::<Outcome<_>>()?,
        name,
        source,
    })
}

fn secret_host(name: &SecretName, text: &str) -> Outcome<AllowEntry> {
    let place = format!("the secret {name} for \"{text}\"");
    let entry = entry(text).map_err(|failure| failure.context(place.clone()))?;
    if matches!(entry.host(), HostPattern::Range(_)) {
        return Err(usage(
            format!(
                "{place}: a secret is sent to names only, because a certificate must prove the host"
            ),
            "give the host's name; the configuration's egress.hosts can say where it is",
        ));
    }
    Ok(entry)
}

/// Every secret has hosts in one place, and they can be reached.
fn check_hosts(
    typed: &[Typed],
    allow_net: Option<&[String]>,
    policy: Option<&PolicyDocument>,
) -> Outcome {
    let of_document = policy.and_then(|policy| policy.allow_net.as_deref());
    let allowed: Option<Vec<AllowEntry>> = allow_net.or(of_document).map(|list| {
        // What is no entry in a document is told by the server, with its place.
        let entries = list.iter().map(|text| AllowEntry::parse(text));
        entries.filter_map(Result::ok).collect()
    });
    for Typed { name, hosts, .. } in typed {
        let is_in_document =
            policy.is_some_and(|policy| policy.secrets.contains_key(name.as_str()));
        if hosts.is_empty() && !is_in_document {
            let hint = format!("write {name}@HOST, such as {name}@api.example.com");
            return Err(usage(format!("the secret {name} has no host"), hint));
        }
        if !hosts.is_empty() && is_in_document {
            let what = format!("--egress-policy says already where the secret {name} may go");
            return Err(usage(what, "leave the hosts out here"));
        }
        if let Some(allowed) = &allowed
            && let Some(host) = hosts.iter().find(|host| !host.of_secret().meets(allowed))
        {
            let what = format!("the secret {name} is for {host}, which the sandbox may not reach");
            let hint = match of_document {
                Some(_) => format!("add \"{host}\" to allow_net in the document"),
                None => format!("add --allow-net {host}"),
            };
            return Err(usage(what, hint));
        }
    }
    Ok(())
}

/// Every secret of the document has a value.
fn check_values(typed: &[Typed], policy: Option<&PolicyDocument>) -> Outcome {
    let mut named = policy.into_iter().flat_map(|policy| policy.secrets.keys());
    match named.find(|name| typed.iter().all(|typed| typed.name.as_str() != *name)) {
        Some(name) => Err(usage(
            format!("--egress-policy names the secret {name}, which has no value"),
            format!("add --secret {name}, or --secret-file {name}=PATH"),
        )),
        None => Ok(()),
    }
}

fn check_stdin(typed: &[Typed], document: Option<&Path>) -> Outcome {
    let values = typed.iter().filter(|typed| typed.source == Source::Stdin);
    let readers = values.count() + usize::from(document == Some(Path::new(STDIN)));
    if readers > 1 {
        let what = "standard input can be read once, and is given more than once";
        return Err(usage(what, "put all but one into files"));
    }
    Ok(())
}

/// A policy document: as it is, for the server, and as this side reads it.
pub(crate) fn read_document(path: &Path) -> Outcome<(Value, PolicyDocument)> {
    let shown = path.display();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        if path == Path::new(STDIN) {
            let stdin = std::io::stdin().lock();
            stdin.take(DOCUMENT_LEN_MAX + 1).read_to_end(&mut text)?;
        } else {
            let file = fs_err::File::open(path)?;
            file.take(DOCUMENT_LEN_MAX + 1).read_to_end(&mut text)?;
        }
        Ok(text)
    };
    let text = read().while_doing(format!("the policy {shown} cannot be read"))?;
    if text.len() as u64 > DOCUMENT_LEN_MAX {
        let what = format!("the policy {shown} is longer than {DOCUMENT_LEN_MAX} bytes");
        return Err(Failure::message(ExitCode::Usage, what));
    }
    let parsed = serde_json::from_slice::<PolicyDocument>(&text)
        .and_then(|policy| Ok((serde_json::from_slice(&text)?, policy)));
    parsed.map_err(|error| {
        Failure::new(ExitCode::Usage, error)
            .context(format!("{shown} is no policy document"))
            .hint("the smallest one is {\"version\": 1, \"allow_net\": []}")
    })
}

/// Reads a value. Whatever goes wrong, nothing of it is told.
pub(crate) fn read_value(
    name: &SecretName,
    source: &Source,
    environment: &Environment,
) -> Outcome<SecretValue> {
    let text = match source {
        Source::Variable => {
            let Some(value) = environment.get(name.as_str()) else {
                let what =
                    format!("the secret {name} is that of your variable {name}, which is not set");
                let hint = format!("export {name} first, or take the value from a file");
                return Err(usage(what, hint));
            };
            value.to_owned()
        }
        Source::File(path) => fs_err::File::open(path)
            .map_err(Failure::from)
            .and_then(read_text)
            .map_err(|failure| failure.context(format!("the secret {name} cannot be read")))?,
        Source::Stdin if std::io::stdin().is_terminal() => {
            let what =
                format!("the secret {name} is taken from standard input, which is a terminal");
            return Err(usage(what, "pipe the value in, or name a file"));
        }
        Source::Stdin => read_text(std::io::stdin().lock()).map_err(|failure| {
            failure.context(format!(
                "the secret {name} cannot be read from standard input"
            ))
        })?,
    };
    SecretValue::new(text)
        .or_fail(ExitCode::Usage)
        .map_err(|failure| failure.context(format!("the secret {name} cannot be used")))
}

/// A text that may be a value, without one line feed at its end. The buffer does
/// not grow, because growing leaves copies behind.
fn read_text(from: impl std::io::Read) -> Outcome<String> {
    const LEN_MAX: usize = SECRET_LEN_MAX + 2;
    let mut bytes = Zeroizing::new(vec![0; LEN_MAX + 1]);
    let mut len = 0;
    let mut from = from;
    while let Some(room) = bytes.get_mut(len..)
        && !room.is_empty()
    {
        match from.read(room) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let read = bytes.get(..len).unwrap_or_default();
    let line = read.strip_suffix(b"\n").unwrap_or(read);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(text) => Ok(text.to_owned()),
        Err(_quotes_nothing) => Err(Failure::message(ExitCode::Usage, "it is not UTF-8 text")),
    }
}

#[cfg(test)]
mod tests;
