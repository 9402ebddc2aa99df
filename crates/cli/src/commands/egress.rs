//! `tombolo egress …`: what sandboxes may send out, the secrets they may use,
//! and what they did. `records` shows what happened, `explain` what would.

mod explain;
mod records;

use http::Method;
use tombolo_api::native::{
    AllowNet, PolicyChange, PutSecret, SANDBOXES_PATH, SecretChange, SecretRow,
};
use tombolo_diag::ExitCode;
use tombolo_policy::{OnIneligible, Slot};
use tombolo_secret::SecretName;

use super::OK;
use super::sandbox::{moment, overseer, warn};
use crate::cli::{
    EgressCommand, ListSecretsArgs, NewPolicy, PolicyCommand, PutSecretArgs, RevokeSecretArgs,
    SecretCommand, SetPolicyArgs,
};
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::network::{self, Typed};
use crate::{output, wire};

pub(super) async fn egress(context: &Context, command: EgressCommand) -> Outcome<u8> {
    match command {
        EgressCommand::Policy(PolicyCommand::Get(args)) => {
            let path = path_of(&args.id, "policy")?;
            let client = overseer(context, &args.server).await?;
            let policy: serde_json::Value = client.get(&path).await.map_err(wire::refused)?;
            output::json(&policy).map(|()| OK)
        }
        EgressCommand::Policy(PolicyCommand::Set(args)) => {
            set_policy(context, &args).await.map(|()| OK)
        }
        EgressCommand::Secret(SecretCommand::List(args)) => {
            list_secrets(context, &args).await.map(|()| OK)
        }
        EgressCommand::Secret(SecretCommand::Put(args)) => {
            put_secret(context, args).await.map(|()| OK)
        }
        EgressCommand::Secret(SecretCommand::Revoke(args)) => {
            revoke_secret(context, &args).await.map(|()| OK)
        }
        EgressCommand::Tail(args) => records::tail(context, &args).await.map(|()| OK),
        EgressCommand::Top(args) => records::top(context, &args).await.map(|()| OK),
        EgressCommand::Explain(args) => explain::explain(context, args).await,
    }
}

/// The address of something about a sandbox's network.
fn path_of(id: &str, rest: &str) -> Outcome<String> {
    let id = wire::sandbox_id(id)?;
    Ok(format!("{SANDBOXES_PATH}/{id}/egress/{rest}"))
}

async fn set_policy(context: &Context, args: &SetPolicyArgs) -> Outcome {
    let NewPolicy {
        file,
        allow_net,
        no_net: _,
    } = &args.what;
    let (rest, body) = if let Some(file) = file {
        ("policy", network::read_document(file)?.0)
    } else {
        // Without hosts, `--no-net` was given: clap insists on one of the three.
        let allow_net = network::hosts(allow_net)?;
        ("allow_net", serde_json::to_value(AllowNet { allow_net })?)
    };
    let path = path_of(&args.id, rest)?;
    let client = overseer(context, &args.server).await?;
    let change: PolicyChange = client
        .send(Method::PUT, &path, &body)
        .await
        .map_err(wire::refused)?;
    if args.json {
        return output::json(&change);
    }
    warn(&change.warnings);
    output::data(&format!("generation {}", change.generation))
}

async fn list_secrets(context: &Context, args: &ListSecretsArgs) -> Outcome {
    let path = path_of(&args.id, "secrets")?;
    let client = overseer(context, &args.server).await?;
    let rows: Vec<SecretRow> = client.get(&path).await.map_err(wire::refused)?;
    if args.json {
        return output::json(&rows);
    }
    secret_table(&rows)
}

fn secret_table(rows: &[SecretRow]) -> Outcome {
    let head = ["NAME", "HOSTS", "IN", "SET", "REVOKED", "PLACEHOLDER"];
    let cells = rows.iter().map(|row| {
        let mut slots = row.slots.join(",");
        if row.require {
            slots.push_str(" (required)");
        }
        vec![
            row.name.clone(),
            row.hosts.join(","),
            slots,
            moment(row.set_at_ms),
            row.revoked_at_ms.map_or_else(|| "-".to_owned(), moment),
            row.placeholder.clone(),
        ]
    });
    output::table(&head, cells.collect())
}

/// A word of the policy, in the form that the server has for it.
fn known<T: serde::de::DeserializeOwned>(flag: &str, word: &str) -> Outcome {
    let text = serde_json::Value::String(word.to_owned());
    serde_json::from_value::<T>(text)
        .map(drop)
        .or_fail(ExitCode::Usage)
        .map_err(|failure| failure.context(format!("{flag} cannot be \"{word}\"")))
}

async fn put_secret(context: &Context, args: PutSecretArgs) -> Outcome {
    let Typed { name, hosts, .. } = network::from_variable(&args.secret)?;
    for slot in &args.slots {
        known::<Slot>("--in", slot)?;
    }
    if let Some(word) = &args.on_ineligible {
        known::<OnIneligible>("--on-ineligible", word)?;
    }
    let source = args.file.as_deref().map(network::source);
    let source = source.unwrap_or(network::Source::Variable);
    let value = if args.keep_value {
        None
    } else {
        Some(network::read_value(&name, &source, &context.environment)?)
    };
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let put = PutSecret {
        value,
        hosts: (!hosts.is_empty()).then_some(hosts),
        slots: (!args.slots.is_empty()).then_some(args.slots),
        require: args.require,
        on_ineligible: args.on_ineligible,
    };
    let path = path_of(&args.id, &format!("secrets/{name}"))?;
    let client = overseer(context, &args.server).await?;
    let change: SecretChange = client
        .send(Method::PUT, &path, &put)
        .await
        .map_err(wire::refused)?;
    if args.json {
        return output::json(&change);
    }
    warn(&change.warnings);
    secret_table(&[change.secret])
}

async fn revoke_secret(context: &Context, args: &RevokeSecretArgs) -> Outcome {
    let name = SecretName::parse(&args.name).map_err(|error| {
        Failure::new(ExitCode::Usage, error)
            .hint("\"tombolo egress secret list\" shows those that there are")
    })?;
    let path = path_of(&args.id, &format!("secrets/{name}"))?;
    let client = overseer(context, &args.server).await?;
    client.delete(&path).await.map_err(wire::refused)
}
