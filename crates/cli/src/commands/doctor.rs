//! `tombolo doctor`: what this machine can do, and the server if one runs.

use serde_json::json;
use tombolo_api::native::{INFO_PATH, ServerInfo};
use tombolo_setup::{Requirement, SetupOptions, State, examine};

use super::{OK, block_on};
use crate::cli::DoctorArgs;
use crate::context::Context;
use crate::failure::Outcome;
use crate::{local, output};

pub(super) fn doctor(context: &Context, args: &DoctorArgs) -> Outcome<u8> {
    let requirements = examine(&SetupOptions::new(context.state.root()));
    let server = block_on(server(context));
    let healthy = requirements.iter().all(|r| r.state != State::Missing);
    if args.json {
        let server = server.ok().flatten();
        output::json(&json!({
            "healthy": healthy,
            "requirements": requirements,
            "server": server,
        }))?;
    } else {
        let lines: Vec<_> = requirements.iter().map(describe).collect();
        output::data(&lines.join("\n"))?;
        output::data(&match server {
            Ok(Some(info)) => describe_server(&info),
            Ok(None) => "-        server: none runs on this state directory".to_owned(),
            Err(failure) => format!("warning  server: {}", failure.report()),
        })?;
    }
    Ok(if healthy {
        OK
    } else {
        tombolo_diag::ExitCode::Failure.code()
    })
}

async fn server(context: &Context) -> Outcome<Option<ServerInfo>> {
    match local::running(context).await? {
        Some((_, client)) => Ok(Some(client.get(INFO_PATH).await?)),
        None => Ok(None),
    }
}

fn describe(requirement: &Requirement) -> String {
    let state = match requirement.state {
        State::Ok => "ok",
        State::Missing => "missing",
        State::Warning => "warning",
    };
    let mut line = format!("{state:<8} {}: {}", requirement.title, requirement.detail);
    if let Some(mend) = &requirement.mend {
        line.push_str("\n         mend: ");
        line.push_str(mend);
    }
    line
}

fn describe_server(info: &ServerInfo) -> String {
    match &info.node {
        Some(node) => format!(
            "ok       server: version {}, isolation {} ({}), {} sandboxes, {} of {} ready",
            info.version,
            node.isolation,
            node.isolation_reason,
            node.sandbox_count,
            node.pool_ready,
            node.pool_target
        ),
        None => format!(
            "warning  server: version {}, without its node",
            info.version
        ),
    }
}
