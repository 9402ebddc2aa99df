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
    let directory = tempfile::tempdir()?;
    let known_hosts = directory.path().join("known_hosts");
    fs::write(&known_hosts, format!("tombolo {}\n", exposed.host_key))?;
    let status = Command::new("ssh")
        .inherit_env()
        .args([
            "-o",
            "HostKeyAlias=tombolo",
            "-o",
            "StrictHostKeyChecking=yes",
        ])
        .args(["-o", "GlobalKnownHostsFile=none", "-o"])
        .arg(format!("UserKnownHostsFile=\"{}\"", known_hosts.display()))
        .args(["-p", &exposed.port.to_string(), "-l", user])
        .args(command_line(host, &args.arguments))
        .status_blocking()
        .map_err(|error| {
            Failure::new(ExitCode::Unavailable, anyhow::Error::new(error))
                .hint("install OpenSSH's client: apt-get install openssh-client")
        })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(SIGNALLED))
}

/// ssh takes options before its host and a command after it. Options end at the first
/// argument that is none.
fn command_line(host: &str, arguments: &[String]) -> Vec<String> {
    let mut line = Vec::with_capacity(arguments.len() + 2);
    let mut rest = arguments.iter().peekable();
    while let Some(option) = rest.next_if(|argument| argument.starts_with('-')) {
        line.push(option.clone());
        // The options of ssh that take a value, as its manual lists them.
        let takes_value = option.len() == 2
            && option
                .chars()
                .nth(1)
                .is_some_and(|letter| "BbcDEeFIiJLlmOoPpQRSWw".contains(letter));
        if takes_value && let Some(value) = rest.next() {
            line.push(value.clone());
        }
    }
    line.push(host.to_owned());
    line.extend(rest.cloned());
    line
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
    fn options_go_before_the_host_and_the_command_after_it() {
        let cases = [
            ("", "host"),
            ("uname -a", "host uname -a"),
            ("-N -L 1:localhost:1", "-N -L 1:localhost:1 host"),
            ("-p22 -v ls -l", "-p22 -v host ls -l"),
            ("-o", "-o host"),
        ];
        for (arguments, expected) in cases {
            let arguments: Vec<String> = arguments.split_whitespace().map(String::from).collect();
            assert_eq!(command_line("host", &arguments).join(" "), expected);
        }
    }
}
