//! Every fuzzing harness, for a moment: what `cargo xtask fuzz` runs for as long as wanted.
#![cfg(test)]

mod harness;

#[test]
fn every_harness_holds() {
    tombolo_fuzz::hold(&harness::HARNESSES);
}
