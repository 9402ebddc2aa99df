//! `tombolo ingress …`: what lets clients trust the addresses of exposed ports.

use std::path::Path;

use tombolo_diag::ExitCode;
use tombolo_proc::Command;

use super::block_on;
use crate::cli::RootArgs;
use crate::config::{Flags, Settings};
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::{ingress, output, state};

/// Where Debian and what is made from it keep what the machine trusts besides the rest.
const TRUSTED_DIRECTORY: &str = "/usr/local/share/ca-certificates";
const UPDATE_TRUSTED: &str = "update-ca-certificates";

pub(super) fn root(context: &Context, args: &RootArgs) -> Outcome {
    let settings = running_settings(context)?;
    if let Some(file) = &settings.ingress.certificate_file {
        return Err(Failure::message(
            ExitCode::Failure,
            "the ingress has a certificate that is not by Tombolo's authority",
        )
        .hint(format!("clients trust whoever signed {}", file.display())));
    }
    let path = ingress::root_file(&context.state, &settings.ingress);
    let Some(root) = state::read_if_there(&path)? else {
        return Err(Failure::message(
            ExitCode::Unavailable,
            format!("{} is not there yet", path.display()),
        )
        .hint("\"tombolo up\" makes it when it starts"));
    };
    if args.install {
        return install(&settings, &root);
    }
    output::data(root.trim_end())
}

/// Those of the server that runs, or those that one would run with.
fn running_settings(context: &Context) -> Outcome<Settings> {
    let running = context
        .state
        .running()?
        .and_then(|running| running.settings);
    match running {
        Some(settings) => Ok(settings),
        None => context.settings(&Flags::new()),
    }
}

fn install(settings: &Settings, root: &str) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::message(
            ExitCode::NoPermission,
            "only root changes what this machine trusts",
        )
        .hint("run it as root, or give the certificate to the program that is to trust it"));
    }
    let place = Path::new(TRUSTED_DIRECTORY);
    if !place.is_dir() {
        return Err(Failure::message(
            ExitCode::System,
            format!("there is no {TRUSTED_DIRECTORY}, which this command knows alone"),
        )
        .hint("add what \"tombolo ingress root\" prints in the way of this system"));
    }
    let file = place.join(format!("tombolo-{}.crt", settings.ingress.base));
    state::write_public(&file, root)?;
    let update = Command::new(UPDATE_TRUSTED).inherit_env();
    block_on(async { update.run().await.or_fail(ExitCode::System) })?;
    output::tell(&format!("{} is trusted now", file.display()));
    Ok(())
}
