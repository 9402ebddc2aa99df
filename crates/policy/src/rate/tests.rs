//! Rates against a model: no window of one period sees more than twice the burst, and an
//! even stream at the rate always passes.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn all_at_once_and_then_evenly() {
    let rate = Rate::per(3, SECOND * 3).expect("a rate");
    let mut state = RateState::default();
    let mut take = |at: u64| rate.take(&mut state, Duration::from_millis(at));
    assert_eq!(
        [take(0), take(0), take(0), take(0)],
        [true, true, true, false]
    );
    assert_eq!([take(999), take(1000), take(1000)], [false, true, false]);
    assert_eq!(
        [take(60_000), take(60_000), take(60_000), take(60_000)],
        [true, true, true, false]
    );
}

#[test]
fn a_clock_that_goes_back_gives_nothing() {
    let rate = Rate::per(1, SECOND).expect("a rate");
    let mut state = RateState::default();
    assert!(rate.take(&mut state, SECOND * 10));
    assert!(!rate.take(&mut state, SECOND * 5));
    assert!(!rate.has(state, Duration::ZERO));
    assert!(rate.has(state, SECOND * 11));
    assert!(state.is_idle(SECOND * 11) && !state.is_idle(SECOND * 10));
}

#[test]
fn a_rate_of_nothing_is_none() {
    assert_eq!(Rate::per(0, SECOND), None);
    assert_eq!(Rate::per(5, Duration::ZERO), None);
    assert_eq!(Rate::per(u32::MAX, Duration::from_nanos(1)), None);
    let fastest = Rate::per(u32::MAX, SECOND * 86_400).expect("a rate");
    assert!(fastest.take(&mut RateState::default(), Duration::MAX / 2));
    assert!(!fastest.take(&mut RateState::default(), Duration::MAX));
}

proptest! {
    #[test]
    fn never_more_than_burst_and_what_came_back(
        count in 1..20_u32,
        steps in prop::collection::vec(0..500_u64, 1..200),
    ) {
        let rate = Rate::per(count, SECOND).expect("a rate");
        let mut state = RateState::default();
        let mut now = Duration::ZERO;
        let mut taken = 0_u128;
        for step in steps {
            now += Duration::from_millis(step);
            taken += u128::from(rate.take(&mut state, now));
            let interval = (SECOND / count).as_nanos();
            prop_assert!(taken <= u128::from(count) + now.as_nanos() / interval);
        }
    }
}
