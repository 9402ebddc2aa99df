//! `tombolo setup`.

use crate::cli::SetupArgs;
use crate::context::Context;
use crate::failure::Outcome;
use crate::{output, provision};

pub(super) fn setup(context: &Context, args: &SetupArgs) -> Outcome {
    let settings = context.settings(&args.settings.flags())?;
    crate::context::require_root("set-up")?;
    let provisioned = provision::provision(context, &settings)?;
    if args.json {
        return output::json(&provisioned.artefacts);
    }
    output::tell(&format!(
        "everything is there, under {}",
        context.state.root().display()
    ));
    Ok(())
}
