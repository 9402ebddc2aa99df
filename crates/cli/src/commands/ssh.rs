//! `tombolo sandbox ssh` and `tombolo ssh-key …`.

use fs_err as fs;
use http::Method;
use tombolo_api::native::SSH_KEYS_PATH;
use tombolo_api::ssh::{AddSshKey, SshKeyRow};
use tombolo_diag::ExitCode;
use tombolo_proc::Command;

use super::OK;
use super::sandbox::{client, moment, overseer};
use crate::cli::{AddSshKeyArgs, ListSshKeysArgs, RemoveSshKeyArgs, SshArgs, SshKeyCommand};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::{output, wire};

/// What a shell answers of a program that a signal ended.
const SIGNALLED: u8 = 128;

pub(super) async fn ssh(context: &Context, args: &SshArgs) -> Outcome<u8> {
    let id = wire::sandbox_id(&args.id)?;
    let client = overseer(context, &args.server).await?;
    let exposed = client.sandbox(&id).expose_ssh().await;
    let exposed = exposed.map_err(wire::refused)?;
    if args.json {
        return output::json(&exposed).map(|()| OK);
    }
    let (host, user) = (&exposed.hostname, &exposed.username);
    if args.print {
        return output::data(&format!("ssh -p {} {user}@{host}", exposed.port)).map(|()| OK);
    }
    let (line, own) = command_line(host, &args.arguments);
    let directory = tempfile::tempdir()?;
    let known_hosts = directory.path().join("known_hosts");
    fs::write(&known_hosts, format!("tombolo {}\n", exposed.host_key))?;
    let config = directory.path().join("config");
    fs::write(&config, configuration(host, user, own.as_deref())?)?;
    let status = Command::new("ssh")
        .inherit_env()
        .arg("-F")
        .arg(&config)
        .args([
            "-o",
            "HostKeyAlias=tombolo",
            "-o",
            "StrictHostKeyChecking=yes",
        ])
        .args(["-o", "GlobalKnownHostsFile=none", "-o"])
        .arg(format!("UserKnownHostsFile=\"{}\"", known_hosts.display()))
        .args(["-p", &exposed.port.to_string()])
        .args(line)
        .status_blocking()
        .map_err(|error| {
            Failure::new(ExitCode::Unavailable, anyhow::Error::new(error))
                .hint("install OpenSSH's client: apt-get install openssh-client")
        })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(SIGNALLED))
}

/// What ssh reads of `ssh_config(5)`: the user name, which lets in whoever knows it and so
/// must not be an argument that every user of this machine can see; then what it would
/// have read anyway, or the file that `-F` names. The name is for that host alone, or
/// ssh would tell it to a host that it jumps over.
fn configuration(host: &str, user: &str, own: Option<&str>) -> Outcome<String> {
    for (what, text) in [("host", host), ("user name", user)] {
        let is_plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
        if !is_plain || text.is_empty() || text.starts_with('-') {
            let told = format!("the server tells a {what} that is none: {text:?}");
            return Err(Failure::message(ExitCode::Unavailable, told));
        }
    }
    let included = match own {
        None => "Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\n".to_owned(),
        Some("none") => String::new(),
        Some(path) if path.contains(['"', '\n']) => {
            let told = format!("ssh cannot include {path:?}");
            return Err(Failure::message(ExitCode::Usage, told));
        }
        Some(path) => {
            let path = std::path::absolute(path)?;
            format!("Include \"{}\"\n", path.display())
        }
    };
    Ok(format!("Host {host}\nUser {user}\nMatch all\n{included}"))
}

/// ssh takes options before its host and a command after it. Options end at the first
/// argument that is none. The file of `-F` is answered apart.
fn command_line(host: &str, arguments: &[String]) -> (Vec<String>, Option<String>) {
    let mut line = Vec::with_capacity(arguments.len() + 2);
    let mut own = None;
    let mut rest = arguments.iter().peekable();
    while let Some(option) = rest.next_if(|argument| argument.starts_with('-')) {
        if let Some(path) = option.strip_prefix("-F") {
            own = if path.is_empty() {
                rest.next().cloned()
            } else {
                Some(path.to_owned())
            };
            continue;
        }
        line.push(option.clone());
        // The options of ssh that take a value, as its manual lists them.
        let takes_value = option.len() == 2
            && option
                .chars()
                .nth(1)
                .is_some_and(|letter| "BbcDEeIiJLlmOoPpQRSWw".contains(letter));
        if takes_value && let Some(value) = rest.next() {
            line.push(value.clone());
        }
    }
    line.push(host.to_owned());
    line.extend(rest.cloned());
    (line, own)
}

pub(super) async fn keys(context: &Context, command: SshKeyCommand) -> Outcome {
    match command {
        SshKeyCommand::Add(args) => add(context, args).await,
        SshKeyCommand::List(args) => list(context, &args).await,
        SshKeyCommand::Remove(args) => remove(context, &args).await,
    }
}

async fn add(context: &Context, args: AddSshKeyArgs) -> Outcome {
    let key = fs::read_to_string(&args.file)
        .map_err(|error| Failure::new(ExitCode::Usage, anyhow::Error::new(error)))?;
    if is_private(&key) {
        return Err(Failure::message(
            ExitCode::Usage,
            format!("{} is a private key, and was not sent", args.file.display()),
        )
        .hint("name the public key, whose file ends in .pub"));
    }
    let asked = AddSshKey {
        key,
        name: args.name,
    };
    let client = client(context, &args.server).await?;
    let row: SshKeyRow = client
        .send(Method::POST, SSH_KEYS_PATH, &asked)
        .await
        .map_err(wire::refused)?;
    if args.json {
        return output::json(&row);
    }
    output::data(&row.fingerprint)
}

/// Whether this is the secret half of a key, in OpenSSH's format, in PEM (RFC
/// 7468) or in that of `PuTTY`.
fn is_private(key: &str) -> bool {
    key.contains("PRIVATE KEY-----") || key.trim_start().starts_with("PuTTY-User-Key-File-")
}

async fn list(context: &Context, args: &ListSshKeysArgs) -> Outcome {
    let client = client(context, &args.server).await?;
    let rows: Vec<SshKeyRow> = client.get(SSH_KEYS_PATH).await.map_err(wire::refused)?;
    if args.json {
        return output::json(&rows);
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.fingerprint.clone(),
            row.name.clone(),
            moment(row.created_at_ms),
        ]
    });
    output::table(&["FINGERPRINT", "NAME", "ADDED"], cells.collect())
}

async fn remove(context: &Context, args: &RemoveSshKeyArgs) -> Outcome {
    let client = client(context, &args.server).await?;
    // Base64 has two characters that an address reads otherwise.
    let fingerprint = args.fingerprint.replace('/', "%2F").replace('+', "%2B");
    let path = format!("{SSH_KEYS_PATH}/{fingerprint}");
    client.delete(&path).await.map_err(wire::refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_known_as_one() {
        let cases = [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", true),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", true),
            ("PuTTY-User-Key-File-3: ssh-ed25519", true),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 PRIVATE KEY", false),
        ];
        for (key, expected) in cases {
            assert_eq!(is_private(key), expected, "{key}");
        }
    }

    #[test]
    fn options_go_before_the_host_and_the_command_after_it() {
        let cases = [
            ("", "host", None),
            ("uname -a", "host uname -a", None),
            ("-N -L 1:localhost:1", "-N -L 1:localhost:1 host", None),
            ("-p22 -v ls -l", "-p22 -v host ls -l", None),
            ("-o", "-o host", None),
            ("-F own -v ls -F", "-v host ls -F", Some("own")),
            ("-Fown", "host", Some("own")),
        ];
        for (arguments, expected, own) in cases {
            let arguments: Vec<String> = arguments.split_whitespace().map(String::from).collect();
            let (line, found) = command_line("host", &arguments);
            assert_eq!(line.join(" "), expected);
            assert_eq!(found.as_deref(), own, "{arguments:?}");
        }
    }

    #[test]
    fn the_user_name_is_read_from_the_file_for_its_host_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        let own = directory.path().join("own file");
        fs::write(&own, "User other\nCompression yes\n").unwrap();
        let text = configuration("box.example", "f00d", own.to_str())
            .ok()
            .unwrap();
        fs::write(&file, text).unwrap();
        for (host, user) in [("box.example", "f00d"), ("jump.example", "other")] {
            let command = Command::new("ssh").arg("-G").arg("-F").arg(&file).arg(host);
            let output = command.output_blocking().unwrap();
            let told = output.stdout_text();
            assert!(
                told.lines().any(|line| line == format!("user {user}")),
                "{told}"
            );
            assert!(told.lines().any(|line| line == "compression yes"), "{told}");
        }
    }

    #[test]
    fn what_a_server_tells_adds_no_line_to_the_file_and_no_option() {
        for (host, user) in [
            ("host", "name\nProxyCommand x"),
            ("host", ""),
            ("ho st", "name"),
            ("-oProxyCommand=x", "name"),
            ("*", "name"),
        ] {
            assert!(configuration(host, user, None).is_err(), "{host} {user}");
        }
    }
}
