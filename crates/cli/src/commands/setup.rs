//! `tombolo setup`.

use tombolo_setup::SetupOptions;

use crate::cli::SetupArgs;
use crate::context::Context;
use crate::failure::Outcome;
use crate::{output, provision};

pub(super) fn setup(context: &Context, args: &SetupArgs) -> Outcome {
    let settings = context.settings(&args.settings.flags())?;
    crate::context::require_root("set-up")?;
    let options = SetupOptions {
        with_vscode: args.with_vscode,
        ..SetupOptions::new(context.state.root())
    };
    let had_all = tombolo_setup::find(&options).is_some();
    let provisioned = provision::provision_with(context, &settings, &options)?;
    if args.json {
        return output::json(&provisioned.artefacts);
    }
    if args.with_vscode && !had_all {
        output::tell(&format!(
            "sandboxes have VS Code once \"tombolo up\" is started anew; with it the root image is {} MiB",
            provisioned.artefacts.lengths.image >> 20
        ));
    }
    output::tell(&format!(
        "everything is there, under {}",
        context.state.root().display()
    ));
    Ok(())
}
