//! Every fuzzing harness, for a moment: what `examples/fuzz.rs` runs for hours.
#![cfg(test)]

#[path = "../examples/fuzz/harness.rs"]
mod harness;

use std::time::Duration;

/// Enough for some hundred inputs each on a slow machine.
const BUDGET: Duration = Duration::from_millis(500);

#[test]
fn every_harness_holds() {
    for (name, harness) in harness::HARNESSES {
        let runs = harness::run(harness, BUDGET, None);
        assert!(runs > 10, "{name} had only {runs} inputs");
    }
}
