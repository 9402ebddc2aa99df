//! Passing over text in which no needle begins, when there are too many needles
//! for the vector searches of the library.
//!
//! The two bytes at the end of a window as long as the shortest needle tell how
//! far it can move (Wu and Manber, 1994). It reports places where a needle may
//! begin and misses none; whether one does is the automaton's business.

/// Longer windows gain nothing.
const WINDOW_MAX: usize = 32;
const WINDOW_MIN: usize = 4;

pub(super) struct SkipTable {
    window: usize,
    /// For each two bytes: how far the window may move. Zero: look here.
    shifts: Vec<u8>,
}

impl SkipTable {
    /// `None` if a needle is too short for this to help.
    pub(super) fn new<'a>(needles: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Self> {
        let shortest = needles.clone().map(<[u8]>::len).min()?;
        let window = shortest.min(WINDOW_MAX);
        if window < WINDOW_MIN {
            return None;
        }
        let widest = u8::try_from(window - 1).ok()?;
        let mut shifts = vec![widest; 1 << 16];
        for needle in needles {
            for (pair, at) in needle.windows(2).take(window - 1).zip(0_usize..) {
                let shift = u8::try_from(window - 2 - at).ok()?;
                let entry = shifts.get_mut(index(pair))?;
                *entry = shift.min(*entry);
            }
        }
        Some(Self { window, shifts })
    }

    /// The next place, from `at` on, where a whole needle may begin.
    pub(super) fn find(&self, text: &[u8], at: usize) -> Option<usize> {
        let mut at = at;
        loop {
            let pair = text.get(at + self.window - 2..at + self.window)?;
            match self.shifts.get(index(pair)) {
                Some(0) | None => return Some(at),
                Some(shift) => at += usize::from(*shift),
            }
        }
    }
}

fn index(pair: &[u8]) -> usize {
    match pair {
        [high, low] => usize::from(*high) << 8 | usize::from(*low),
        _ => 0,
    }
}
