//! Getting what sandboxes need before a server starts: the artefacts of
//! set-up, and the template of the default size.

use parking_lot::Mutex;

use tokio::time::Instant;
use tombolo_setup::{Artefacts, Progress, SetupOptions, for_terminal};

use crate::children::node_program;
use crate::commands;
use crate::config::Settings;
use crate::context::Context;
use crate::failure::Outcome;

/// Makes what is missing, with progress on standard error. Does nothing and
/// takes no time when everything is there.
pub(crate) fn provision(context: &Context, settings: &Settings) -> Outcome<Artefacts> {
    let progress = for_terminal();
    let options = SetupOptions::new(context.state.root());
    let artefacts = tombolo_setup::ensure(&options, &*progress)?;
    commands::block_on(prepare(context, settings, &*progress))?;
    Ok(artefacts)
}

async fn prepare(context: &Context, settings: &Settings, progress: &dyn Progress) -> Outcome {
    let steps = Steps {
        progress,
        current: Mutex::new(None),
    };
    let prepared = node_program::prepare(&context.state, settings, &|step| steps.begin(step)).await;
    steps.end();
    prepared.map_err(|failure| failure.context("the virtual machines cannot be prepared"))
}

/// The node names its steps as it begins them; set-up's progress also wants
/// to know when each is over.
struct Steps<'a> {
    progress: &'a dyn Progress,
    current: Mutex<Option<(String, Instant)>>,
}

impl Steps<'_> {
    fn begin(&self, step: &str) {
        self.end();
        self.progress.begin(step);
        *self.current.lock() = Some((step.to_owned(), Instant::now()));
    }

    fn end(&self) {
        if let Some((step, begun)) = self.current.lock().take() {
            self.progress.end(&step, begun.elapsed());
        }
    }
}
