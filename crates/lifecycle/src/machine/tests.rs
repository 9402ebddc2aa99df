//! The paths of the diagram one by one, then random ones against a model.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::lifetime::LifetimeRequest;

const START: UnixMillis = UnixMillis(1_000_000);
const LIMITS: LifetimeLimits = LifetimeLimits {
    lifetime_max: Duration::from_secs(100),
    extension_max: Duration::from_secs(40),
    grace: Duration::from_secs(10),
};
const PRIMARY_LOST: Event = Event::ConnectionClosed {
    role: Role::Primary,
    closing: Closing::Lost,
};
const PRIMARY_CLOSED: Event = Event::ConnectionClosed {
    role: Role::Primary,
    closing: Closing::Clean,
};
const NEVER_OPENED: Event = Event::ConnectionClosed {
    role: Role::Primary,
    closing: Closing::NeverOpened,
};
const SECONDARY_CLOSED: Event = Event::ConnectionClosed {
    role: Role::Secondary,
    closing: Closing::Clean,
};

fn at(second: u64) -> UnixMillis {
    START.plus(Duration::from_secs(second))
}

fn machine(request: LifetimeRequest) -> SandboxMachine {
    SandboxMachine::new(Lifetime::grant(request, &LIMITS, START).unwrap(), LIMITS)
}

fn session() -> LifetimeRequest {
    LifetimeRequest::Session
}

fn duration() -> LifetimeRequest {
    LifetimeRequest::For(Duration::from_secs(50))
}

fn check(request: LifetimeRequest, events: &[(u64, Event)], expected: Phase) {
    let mut machine = machine(request);
    for (second, event) in events {
        machine.apply(at(*second), *event);
    }
    assert_eq!(machine.phase(), expected, "{request:?} {events:?}");
}

fn stopping(reason: StopReason) -> Phase {
    Phase::Stopping { reason }
}

#[test]
fn sessions_end_with_their_primary_connection() {
    use Event::{Created, Destroyed, Tick};
    check(session(), &[(0, Created)], Phase::Running);
    check(
        session(),
        &[(0, Created), (1, PRIMARY_CLOSED)],
        stopping(StopReason::SessionClosed),
    );
    check(
        session(),
        &[(0, Created), (1, PRIMARY_LOST)],
        Phase::Grace { until: at(11) },
    );
    check(
        session(),
        &[(0, Created), (1, PRIMARY_LOST), (11, Tick)],
        stopping(StopReason::ConnectionLost),
    );
    check(
        session(),
        &[(0, Created), (1, PRIMARY_LOST), (12, Destroyed)],
        Phase::Stopped {
            reason: StopReason::ConnectionLost,
        },
    );
    check(
        session(),
        &[(0, Created), (1, SECONDARY_CLOSED)],
        Phase::Running,
    );
    check(
        session(),
        &[(0, Created), (95, PRIMARY_LOST), (103, Tick)],
        stopping(StopReason::Deadline),
    );
}

#[test]
fn durations_end_at_their_deadline_whoever_is_connected() {
    use Event::{Created, Tick};
    check(
        duration(),
        &[(0, Created), (1, PRIMARY_CLOSED)],
        Phase::Running,
    );
    check(
        duration(),
        &[(0, Created), (1, PRIMARY_LOST)],
        Phase::Running,
    );
    check(duration(), &[(0, Created), (49, Tick)], Phase::Running);
    check(
        duration(),
        &[(0, Created), (50, Tick)],
        stopping(StopReason::Deadline),
    );
}

#[test]
fn an_end_before_the_beginning_waits_for_it() {
    use Event::{CreateFailed, Created, Kill};
    check(duration(), &[(0, Kill)], Phase::Creating);
    check(
        duration(),
        &[(0, Kill), (1, Created)],
        stopping(StopReason::Killed),
    );
    check(
        duration(),
        &[(0, NEVER_OPENED), (1, Kill), (2, Created)],
        stopping(StopReason::Abandoned),
    );
    check(duration(), &[(60, Created)], stopping(StopReason::Deadline));
    for (events, reason) in [
        (vec![(1, CreateFailed)], StopReason::CreateFailed),
        (vec![(0, Kill), (1, CreateFailed)], StopReason::Killed),
    ] {
        check(duration(), &events, Phase::Stopped { reason });
    }
}

#[test]
fn a_connection_in_the_grace_period_is_the_new_primary() {
    let mut machine = machine(session());
    assert_eq!(machine.connect(at(0)), Err(ConnectRefusal::NotReady));
    machine.apply(at(0), Event::Created);
    assert_eq!(machine.connect(at(1)), Ok(Role::Secondary));
    machine.apply(at(2), PRIMARY_LOST);
    assert_eq!(machine.connect(at(11)), Ok(Role::Primary));
    assert_eq!(machine.connect(at(11)), Ok(Role::Secondary));
    machine.apply(at(30), Event::Tick);
    assert_eq!(machine.phase(), Phase::Running);
    machine.apply(at(30), PRIMARY_LOST);
    assert_eq!(machine.connect(at(40)), Err(ConnectRefusal::Ended));
    assert_eq!(machine.phase(), stopping(StopReason::ConnectionLost));
}

#[test]
fn a_restored_session_waits_for_somebody() {
    for (request, expected) in [
        (session(), Phase::Grace { until: at(15) }),
        (duration(), Phase::Running),
    ] {
        let lifetime = Lifetime::grant(request, &LIMITS, START).unwrap();
        let mut machine = SandboxMachine::restored(lifetime, LIMITS, at(5));
        machine.apply(at(5), Event::Tick);
        assert_eq!(machine.phase(), expected);
        let mut late = SandboxMachine::restored(lifetime, LIMITS, at(500));
        late.apply(at(500), Event::Tick);
        assert_eq!(late.phase(), stopping(StopReason::Deadline));
    }
}

#[test]
fn extensions_move_the_end() {
    let mut machine = machine(duration());
    machine.apply(at(0), Event::Created);
    assert_eq!(machine.extend(at(20), at(60)), Ok(at(60)));
    assert_eq!(machine.extend(at(20), at(70)), Ok(at(60)));
    assert_eq!(machine.extend(at(20), at(20)), Err(ExtendRefusal::Past));
    machine.apply(at(55), Event::Tick);
    assert_eq!(machine.phase(), Phase::Running);
    machine.apply(at(60), Event::Tick);
    assert_eq!(machine.extend(at(60), at(90)), Err(ExtendRefusal::Ended));
}

#[test]
fn reasons_have_distinct_names() {
    let names: std::collections::BTreeSet<_> = StopReason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .collect();
    assert_eq!(names.len(), StopReason::ALL.len());
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Event),
    Connect,
    Extend(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let closing = prop_oneof![
        Just(Closing::Clean),
        Just(Closing::Lost),
        Just(Closing::NeverOpened)
    ];
    let role = prop_oneof![Just(Role::Primary), Just(Role::Secondary)];
    prop_oneof![
        1 => Just(Step::Apply(Event::Created)),
        1 => Just(Step::Apply(Event::CreateFailed)),
        1 => Just(Step::Apply(Event::Kill)),
        1 => Just(Step::Apply(Event::Destroyed)),
        4 => Just(Step::Apply(Event::Tick)),
        1 => Just(Step::Apply(Event::NodeEnded(NodeEnd::VmExited))),
        6 => (role, closing)
            .prop_map(|(role, closing)| Step::Apply(Event::ConnectionClosed { role, closing })),
        4 => Just(Step::Connect),
        2 => (0..120_u64).prop_map(Step::Extend),
    ]
}

/// What must be true, said as facts about the past instead of as phases.
#[derive(Debug, Default)]
struct Model {
    session: bool,
    exists: Option<bool>,
    asked_to_end: Option<StopReason>,
    gone: bool,
    lost_at: Option<UnixMillis>,
    deadline: i64,
}

impl Model {
    /// The earliest of the two moments that time alone brings about.
    fn pass_time(&mut self, now: UnixMillis) {
        let grace_over = self.lost_at.map(|lost| lost.0 + 10_000);
        let due = [
            (grace_over.unwrap_or(i64::MAX), StopReason::ConnectionLost),
            (self.deadline, StopReason::Deadline),
        ];
        let first = due.iter().min_by_key(|(moment, _)| *moment).unwrap();
        if now.0 >= first.0 && !self.gone {
            self.asked_to_end.get_or_insert(first.1);
        }
    }

    fn step(&mut self, now: UnixMillis, step: &Step) {
        self.pass_time(now);
        let alive = !self.gone && self.asked_to_end.is_none();
        match step {
            Step::Apply(Event::Created) if self.exists.is_none() => self.exists = Some(true),
            Step::Apply(Event::CreateFailed) if self.exists.is_none() => {
                self.exists = Some(false);
                self.gone = true;
                self.asked_to_end.get_or_insert(StopReason::CreateFailed);
            }
            Step::Apply(Event::Destroyed) if self.exists == Some(true) && !alive => {
                self.gone = true;
            }
            Step::Apply(Event::Kill) if alive => self.asked_to_end = Some(StopReason::Killed),
            Step::Apply(Event::NodeEnded(_)) if alive => {
                self.asked_to_end = Some(StopReason::VmExited);
            }
            Step::Apply(Event::ConnectionClosed {
                role: Role::Primary,
                closing,
            }) if alive => match closing {
                Closing::NeverOpened => self.asked_to_end = Some(StopReason::Abandoned),
                Closing::Clean if self.session => {
                    self.asked_to_end = Some(StopReason::SessionClosed);
                }
                Closing::Lost if self.session && self.exists == Some(true) => {
                    self.lost_at.get_or_insert(now);
                }
                Closing::Clean | Closing::Lost => {}
            },
            Step::Connect if alive && self.exists == Some(true) => self.lost_at = None,
            Step::Extend(second) if alive && at(*second) > now => {
                let granted = at(*second).0.min(now.0 + 40_000).min(at(100).0);
                self.deadline = self.deadline.max(granted);
            }
            _ => {}
        }
    }

    fn phase(&self) -> Phase {
        match (self.exists, self.asked_to_end, self.gone) {
            (_, Some(reason), true) => Phase::Stopped { reason },
            (None, _, _) => Phase::Creating,
            (_, Some(reason), _) => Phase::Stopping { reason },
            (_, None, _) => match self.lost_at {
                Some(lost) => Phase::Grace {
                    until: UnixMillis(lost.0 + 10_000),
                },
                None => Phase::Running,
            },
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_says(
        session_kind in any::<bool>(),
        steps in proptest::collection::vec((0..12_000_u64, step()), 1..40),
    ) {
        let mut machine = machine(if session_kind { session() } else { duration() });
        let mut model = Model {
            session: session_kind,
            deadline: machine.lifetime().deadline.0,
            ..Model::default()
        };
        let mut now = START;
        for (passed, step) in steps {
            now = now.plus(Duration::from_millis(passed));
            let before = machine.lifetime().deadline;
            match &step {
                Step::Apply(event) => machine.apply(now, *event),
                Step::Connect => {
                    let connected = machine.connect(now).is_ok();
                    prop_assert_eq!(connected, machine.phase() == Phase::Running);
                }
                Step::Extend(second) => {
                    let answer = machine.extend(now, at(*second));
                    prop_assert!(answer.map_or(true, |end| end > now && end <= at(100)));
                }
            }
            model.step(now, &step);
            prop_assert_eq!(machine.phase(), model.phase(), "{:?} at {}", step, now);
            prop_assert_eq!(machine.lifetime().deadline.0, model.deadline);
            prop_assert!(machine.lifetime().deadline >= before);
            let over = matches!(machine.phase(), Phase::Stopping { .. } | Phase::Stopped { .. });
            prop_assert_eq!(machine.next_wakeup().is_none(), over);
        }
    }
}
