//! Searching a stream for needles, in one pass, holding back only what may
//! still become one.
//!
//! An Aho-Corasick automaton (leftmost, longest) is driven by hand, because its
//! state tells how many bytes at the end of a chunk are the beginning of a
//! needle. Anything else leaves at once: an event of a server-sent stream ends
//! with a line feed, which no value has, and so is never late.

mod skip;

use std::{fmt, sync::Arc};

use aho_corasick::{
    Anchored, MatchKind, PatternID, Span,
    automaton::{Automaton as _, StateID},
    nfa::contiguous::NFA,
};

use crate::needle::Needle;

use skip::SkipTable;

/// What takes the place of a value in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubMode {
    /// The placeholder, or what the guest itself sent. Changes lengths.
    Placeholder,
    /// As many asterisks as the value has bytes. For what has a length that must
    /// stay, inside or outside: binary formats.
    Mask,
}

/// The library could not build a search.
#[derive(Debug, thiserror::Error)]
#[error("cannot build the automaton")]
pub struct BuildAutomatonError(#[from] aho_corasick::BuildError);

/// A set of needles, ready to be searched for.
pub(crate) struct Automaton {
    nfa: NFA,
    start: StateID,
    /// How many bytes of a needle each state stands for, sorted by state.
    depths: Vec<(StateID, u32)>,
    /// The states behind which no longer needle can follow, sorted.
    leaves: Vec<StateID>,
    needles: Vec<Needle>,
    /// The bytes that needles begin with.
    first: [bool; 256],
    longest: usize,
    /// For many needles, where the library has nothing faster than its steps.
    skip: Option<SkipTable>,
}

impl Automaton {
    /// `None` for no needles.
    pub(crate) fn build(mut needles: Vec<Needle>) -> Result<Option<Self>, BuildAutomatonError> {
        needles.sort_by(|one, other| one.real().cmp(other.real()));
        needles.dedup_by(|one, other| one.real() == other.real());
        needles.retain(|needle| !needle.real().is_empty());
        if needles.is_empty() {
            return Ok(None);
        }
        let nfa = NFA::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(needles.iter().map(Needle::real))?;
        let Ok(start) = nfa.start_state(Anchored::No) else {
            return Ok(None);
        };
        let mut first = [false; 256];
        let mut depths = vec![(start, 0)];
        let mut leaves = Vec::with_capacity(needles.len());
        let nexts = needles.iter().skip(1).map(Some).chain([None]);
        for (needle, next) in needles.iter().zip(nexts) {
            let mut state = start;
            for (byte, depth) in needle.real().iter().zip(1..) {
                state = nfa.next_state(Anchored::No, state, *byte);
                depths.push((state, depth));
            }
            // They are sorted: what begins with this one would be next.
            if next.is_none_or(|next| !next.real().starts_with(needle.real())) {
                leaves.push(state);
            }
            let begins = needle.real().first().copied().unwrap_or_default();
            if let Some(entry) = first.get_mut(usize::from(begins)) {
                *entry = true;
            }
        }
        depths.sort_unstable();
        depths.dedup();
        depths.shrink_to_fit();
        leaves.sort_unstable();
        let skip = match nfa.prefilter() {
            Some(_) => None,
            None => SkipTable::new(needles.iter().map(Needle::real)),
        };
        Ok(Some(Self {
            longest: needles
                .iter()
                .map(|needle| needle.real().len())
                .max()
                .unwrap_or(0),
            nfa,
            start,
            depths,
            leaves,
            needles,
            first,
            skip,
        }))
    }

    fn depth(&self, state: StateID) -> usize {
        let found = self
            .depths
            .binary_search_by_key(&state, |(known, _)| *known);
        let depth = found.ok().and_then(|at| self.depths.get(at));
        depth.map_or(0, |(_, depth)| usize::try_from(*depth).unwrap_or(0))
    }

    /// From the start state: the next place where a needle can begin.
    fn candidate(&self, text: &[u8], at: usize) -> usize {
        // Near the end a needle may begin that is not complete, which searches
        // for whole needles do not report.
        let tail = text
            .len()
            .saturating_sub(self.longest.saturating_sub(1))
            .max(at);
        let mut at = at;
        if at < tail {
            let whole = match (self.nfa.prefilter(), &self.skip) {
                (Some(prefilter), _) => prefilter
                    .find_in(text, Span::from(at..text.len()))
                    .into_option(),
                (None, Some(skip)) => skip.find(text, at),
                (None, None) => Some(at),
            };
            at = whole.unwrap_or(tail).min(tail);
        }
        let begins = |byte: &u8| self.first.get(usize::from(*byte)) == Some(&true);
        let rest = text.get(at..).unwrap_or_default();
        rest.iter()
            .position(begins)
            .map_or(text.len(), |found| at + found)
    }
}

impl fmt::Debug for Automaton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Automaton({} needles)", self.needles.len())
    }
}

#[derive(Clone, Copy, Debug)]
struct Found {
    start: usize,
    end: usize,
    needle: PatternID,
}

/// The search of one stream for one set of needles.
struct Stage {
    automaton: Arc<Automaton>,
    mode: ScrubMode,
    state: StateID,
    /// Bytes that may be the beginning of a needle.
    held: Vec<u8>,
    /// A needle inside what is held that a longer one may still replace.
    found: Option<Found>,
    scrubbed: u64,
}

/// Whether more can follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Final,
}

impl Stage {
    fn new(automaton: Arc<Automaton>, mode: ScrubMode) -> Self {
        Self {
            state: automaton.start,
            automaton,
            mode,
            held: Vec::new(),
            found: None,
            scrubbed: 0,
        }
    }

    fn push(&mut self, chunk: &[u8], end: End, out: &mut Vec<u8>) {
        if self.held.is_empty() {
            let kept = self.run(chunk, 0, end, out);
            self.held
                .extend_from_slice(chunk.get(kept..).unwrap_or_default());
            return;
        }
        let mut text = std::mem::take(&mut self.held);
        let seen = text.len();
        text.extend_from_slice(chunk);
        let kept = self.run(&text, seen, end, out);
        text.drain(..kept);
        self.held = text;
    }

    /// Searches a text whose first bytes were searched before. Says from where
    /// it must be held back.
    fn run(&mut self, text: &[u8], seen: usize, end: End, out: &mut Vec<u8>) -> usize {
        let automaton = Arc::clone(&self.automaton);
        let (mut at, mut done) = (seen, 0);
        loop {
            if self.state == automaton.start && self.found.is_none() {
                at = automaton.candidate(text, at);
            }
            let Some(byte) = text.get(at) else {
                let last = if end == End::Final {
                    self.found.take()
                } else {
                    None
                };
                let Some(found) = last else { break };
                (at, done) = self.replace(text, done, found, out);
                continue;
            };
            self.state = automaton.nfa.next_state(Anchored::No, self.state, *byte);
            at += 1;
            if !automaton.nfa.is_special(self.state) {
                continue;
            }
            if automaton.nfa.is_dead(self.state) {
                match self.found.take() {
                    Some(found) => (at, done) = self.replace(text, done, found, out),
                    None => self.state = automaton.start,
                }
            } else if automaton.nfa.is_match(self.state) {
                let needle = automaton.nfa.match_pattern(self.state, 0);
                let start = at - automaton.nfa.pattern_len(needle).min(at);
                let found = Found {
                    start,
                    end: at,
                    needle,
                };
                if automaton.leaves.binary_search(&self.state).is_ok() {
                    self.found = None;
                    (at, done) = self.replace(text, done, found, out);
                } else {
                    self.found = Some(found);
                }
            }
        }
        let kept = match end {
            End::Final => text.len(),
            End::Open => (at - automaton.depth(self.state).min(at)).max(done),
        };
        out.extend_from_slice(text.get(done..kept).unwrap_or_default());
        if end == End::Final {
            self.state = automaton.start;
        }
        if let Some(found) = &mut self.found {
            found.start -= kept.min(found.start);
            found.end -= kept.min(found.end);
        }
        kept
    }

    /// Writes what is before a needle and what takes its place. The search goes
    /// on behind it.
    fn replace(
        &mut self,
        text: &[u8],
        done: usize,
        found: Found,
        out: &mut Vec<u8>,
    ) -> (usize, usize) {
        out.extend_from_slice(text.get(done..found.start).unwrap_or_default());
        match self.mode {
            ScrubMode::Mask => out.resize(out.len() + found.end - found.start, b'*'),
            ScrubMode::Placeholder => {
                let needle = self.automaton.needles.get(found.needle.as_usize());
                out.extend_from_slice(needle.map(Needle::shown).unwrap_or_default());
            }
        }
        self.scrubbed = self.scrubbed.saturating_add(1);
        self.state = self.automaton.start;
        (found.end, found.end)
    }
}

/// The search of one response, or of the messages of one direction of a
/// WebSocket, for everything that must not reach the guest.
///
/// ```
/// # use tombolo_substitute::{Composites, ScrubMode, SecretTable};
/// # let table = SecretTable::new(Vec::new()).unwrap();
/// let mut out = Vec::new();
/// if let Some(mut scrubber) = table.scrubber(&Composites::default(), ScrubMode::Mask) {
///     scrubber.push(b"a piece of the body", &mut out);
///     scrubber.finish(&mut out);
/// }
/// ```
pub struct Scrubber {
    /// Composites first: what is in them would otherwise be found before them.
    stages: Vec<Stage>,
}

impl Scrubber {
    pub(crate) fn new(
        composites: Option<Arc<Automaton>>,
        values: Option<Arc<Automaton>>,
        mode: ScrubMode,
    ) -> Option<Self> {
        let automata = [composites, values].into_iter().flatten();
        let stages: Vec<Stage> = automata
            .map(|automaton| Stage::new(automaton, mode))
            .collect();
        (!stages.is_empty()).then_some(Self { stages })
    }

    /// Takes the next piece and appends what may leave already.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        self.run(chunk, End::Open, out);
    }

    /// Appends what was held back. Afterwards the scrubber is as new, except for
    /// its count.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.run(&[], End::Final, out);
    }

    /// How many needles were replaced.
    #[must_use]
    pub fn scrubbed(&self) -> u64 {
        self.stages
            .iter()
            .map(|stage| stage.scrubbed)
            .fold(0, u64::saturating_add)
    }

    /// How many bytes are held back at the moment.
    #[must_use]
    pub fn held(&self) -> usize {
        self.stages.iter().map(|stage| stage.held.len()).sum()
    }

    fn run(&mut self, chunk: &[u8], end: End, out: &mut Vec<u8>) {
        match self.stages.as_mut_slice() {
            [only] => only.push(chunk, end, out),
            stages => {
                let mut text = chunk.to_vec();
                for stage in stages {
                    let mut searched = Vec::with_capacity(text.len());
                    stage.push(&text, end, &mut searched);
                    text = searched;
                }
                out.append(&mut text);
            }
        }
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrubber({} bytes held)", self.held())
    }
}

#[cfg(test)]
mod tests;
