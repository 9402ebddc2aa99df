//! The search of a response as it flows, for all values of the sandbox: those of when it
//! began, and those that came since.

use std::sync::Arc;

use tombolo_substitute::{ScrubMode, Scrubber};

use crate::{rules::Rules, sandbox::Sandbox};

/// Changes of secrets that one response, or one `WebSocket`, may see. Each adds a search.
pub(super) const STAGES_MAX: usize = 8;

/// A body is searched no further, so nothing more of it may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secrets changed while a response flowed")]
pub(super) struct SecretsChanged;

/// A search in progress.
#[derive(Debug)]
pub(super) struct Search {
    sandbox: Arc<Sandbox>,
    mode: ScrubMode,
    /// What one leaves the next one searches.
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    rules: Arc<Rules>,
    /// None where there is nothing to search for.
    scrubber: Option<Scrubber>,
}

impl Search {
    pub(super) fn new(sandbox: &Arc<Sandbox>, rules: &Arc<Rules>, mode: ScrubMode) -> Self {
        Self {
            sandbox: Arc::clone(sandbox),
            mode,
            stages: vec![Stage::new(sandbox, rules, mode)],
        }
    }

    /// Searches a piece. What may be the beginning of a value is held back.
    pub(super) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), SecretsChanged> {
        let now = self.sandbox.rules();
        let is_known = |stage: &Stage| Arc::ptr_eq(&stage.rules.secrets, &now.secrets);
        if !self.stages.last().is_some_and(is_known) {
            if self.stages.len() >= STAGES_MAX {
                return Err(SecretsChanged);
            }
            self.stages.push(Stage::new(&self.sandbox, &now, self.mode));
        }
        let Some((first, others)) = self.stages.split_first_mut() else {
            return Ok(());
        };
        if others.is_empty() {
            first.push(data, out);
            return Ok(());
        }
        let mut passed = Vec::with_capacity(data.len());
        first.push(data, &mut passed);
        for stage in others {
            let mut next = Vec::with_capacity(passed.len());
            stage.push(&passed, &mut next);
            passed = next;
        }
        out.append(&mut passed);
        Ok(())
    }

    /// Gives out what was held back.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let mut rest = Vec::new();
        for stage in &mut self.stages {
            let mut next = Vec::new();
            stage.push(&rest, &mut next);
            if let Some(scrubber) = &mut stage.scrubber {
                scrubber.finish(&mut next);
            }
            rest = next;
        }
        out.append(&mut rest);
    }

    /// Values found so far.
    pub(super) fn scrubbed(&self) -> u64 {
        let stages = self.stages.iter();
        stages
            .filter_map(|stage| stage.scrubber.as_ref())
            .map(Scrubber::scrubbed)
            .sum()
    }
}

impl Stage {
    fn new(sandbox: &Sandbox, rules: &Arc<Rules>, mode: ScrubMode) -> Self {
        Self {
            rules: Arc::clone(rules),
            scrubber: sandbox.scrubber(rules, mode),
        }
    }

    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match &mut self.scrubber {
            Some(scrubber) => scrubber.push(data, out),
            None => out.extend_from_slice(data),
        }
    }
}
