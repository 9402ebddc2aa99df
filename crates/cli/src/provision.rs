//! Getting what sandboxes need before a server starts: the artefacts of
//! set-up, and the template of the default size.

use std::pin::pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tombolo_setup::{Artefacts, Progress, SetupOptions, for_terminal};

use crate::children::node_program;
use crate::commands;
use crate::config::Settings;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output;
use crate::state::PrepareLock;

/// A step that takes less is not worth a word.
const QUIET_FOR: Duration = Duration::from_millis(300);

/// A machine on which a node can start. As long as this is kept, nobody else
/// starts one or gets in its way.
#[derive(Debug)]
pub(crate) struct Provisioned {
    pub(crate) artefacts: Artefacts,
    _lock: PrepareLock,
}

/// Makes what is missing, with progress on standard error. Does nothing and
/// takes no time when everything is there.
pub(crate) fn provision(context: &Context, settings: &Settings) -> Outcome<Provisioned> {
    provision_with(context, settings, &SetupOptions::new(context.state.root()))
}

/// The same with something else than what everybody gets.
pub(crate) fn provision_with(
    context: &Context,
    settings: &Settings,
    options: &SetupOptions,
) -> Outcome<Provisioned> {
    let progress = for_terminal();
    let artefacts = tombolo_setup::ensure(options, &*progress)?;
    let lock = PrepareLock::wait(&context.state, || {
        output::tell("waiting for another command that prepares this machine ...");
    })?;
    commands::block_on(prepare(context, settings, &*progress))?;
    Ok(Provisioned {
        artefacts,
        _lock: lock,
    })
}

async fn prepare(context: &Context, settings: &Settings, progress: &dyn Progress) -> Outcome {
    let steps = Steps::new(progress);
    let on_step = |step: &str| steps.enter(step);
    let mut work = pin!(node_program::prepare(&context.state, settings, &on_step));
    let prepared = tokio::select! {
        prepared = &mut work => prepared,
        () = tokio::time::sleep(QUIET_FOR) => {
            steps.speak();
            work.await
        }
    };
    steps.finish();
    prepared.map_err(|failure| failure.context("the virtual machines cannot be prepared"))
}

/// The node names its steps as it enters them. They are passed on to set-up's
/// progress, which also wants to know when each is over, once it is clear
/// that there is something to wait for.
struct Steps<'a> {
    progress: &'a dyn Progress,
    state: Mutex<StepsState>,
}

#[derive(Default)]
struct StepsState {
    is_spoken: bool,
    current: Option<(String, Instant)>,
}

impl<'a> Steps<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        Self {
            progress,
            state: Mutex::default(),
        }
    }

    fn enter(&self, step: &str) {
        let mut state = self.state.lock();
        self.end(&mut state);
        state.current = Some((step.to_owned(), Instant::now()));
        if state.is_spoken {
            self.progress.begin(step);
        }
    }

    fn speak(&self) {
        let mut state = self.state.lock();
        state.is_spoken = true;
        if let Some((step, _)) = &state.current {
            self.progress.begin(step);
        }
    }

    fn finish(&self) {
        self.end(&mut self.state.lock());
    }

    fn end(&self, state: &mut StepsState) {
        if let Some((step, begun)) = state.current.take()
            && state.is_spoken
        {
            self.progress.end(&step, begun.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Progress for Heard {
        fn begin(&self, step: &str) {
            self.0.lock().push(format!("begin {step}"));
        }

        fn detail(&self, line: &str) {
            self.0.lock().push(line.to_owned());
        }

        fn end(&self, step: &str, _took: Duration) {
            self.0.lock().push(format!("end {step}"));
        }
    }

    #[test]
    fn steps_are_told_once_there_is_something_to_wait_for() {
        let heard = Heard::default();
        let steps = Steps::new(&heard);
        steps.enter("quick");
        steps.enter("slow");
        steps.speak();
        steps.enter("next");
        steps.finish();
        steps.finish();
        let expected = ["begin slow", "end slow", "begin next", "end next"];
        assert_eq!(*heard.0.lock(), expected);
    }
}
