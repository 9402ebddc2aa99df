//! `tombolo egress …`: what sandboxes may send out, the secrets they may use,
//! and what they did. `records` shows what happened, `explain` what would.

mod explain;
mod records;

use tombolo_client::{Egress, PutSecret, SecretRow};
use tombolo_diag::ExitCode;
use tombolo_policy::{OnIneligible, Slot};
use tombolo_secret::SecretName;

use super::OK;
use super::sandbox::{moment, overseer, warn};
use crate::cli::{
    EgressCommand, ListSecretsArgs, NewPolicy, PolicyCommand, PutSecretArgs, RevokeSecretArgs,
    SecretCommand, ServerArgs, SetPolicyArgs,
};
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::network::{self, Typed};
use crate::{output, wire};

pub(super) async fn egress(context: &Context, command: EgressCommand) -> Outcome<u8> {
    match command {
        EgressCommand::Policy(PolicyCommand::Get(args)) => {
            let egress = egress_of(context, &args.server, &args.id).await?;
            let policy = egress.policy().await.map_err(wire::refused)?;
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

/// A sandbox's network, of its server.
async fn egress_of(context: &Context, server: &ServerArgs, id: &str) -> Outcome<Egress> {
    let id = wire::sandbox_id(id)?;
    let client = overseer(context, server).await?;
    Ok(client.sandbox(&id).egress())
}

async fn set_policy(context: &Context, args: &SetPolicyArgs) -> Outcome {
    let NewPolicy {
        file,
        allow_net,
        no_net: _,
    } = &args.what;
    let change = if let Some(file) = file {
        let policy = network::read_document(file)?.0;
        let egress = egress_of(context, &args.server, &args.id).await?;
        egress.set_policy(&policy).await
    } else {
        // Without hosts, `--no-net` was given: clap insists on one of the three.
        let allow_net = network::hosts(allow_net)?;
        let egress = egress_of(context, &args.server, &args.id).await?;
        egress.set_allow_net(allow_net).await
    };
    let change = change.map_err(wire::refused)?;
    if args.json {
        return output::json(&change);
    }
    warn(&change.warnings);
    output::data(&format!("generation {}", change.generation))
}

async fn list_secrets(context: &Context, args: &ListSecretsArgs) -> Outcome {
    let egress = egress_of(context, &args.server, &args.id).await?;
    let rows = egress.secrets().await.map_err(wire::refused)?;
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
    let egress = egress_of(context, &args.server, &args.id).await?;
    let change = egress.put_secret(name.as_str(), &put).await;
    let change = change.map_err(wire::refused)?;
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
    let egress = egress_of(context, &args.server, &args.id).await?;
    let revoked = egress.revoke_secret(name.as_str()).await;
    revoked.map_err(wire::refused)
}
