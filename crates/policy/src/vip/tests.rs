//! The table against a model, and the limits by the ids of the attacks they decide.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 1, 0, 0, 0, 0);

fn table() -> VipTable {
    VipTable::new(PREFIX, 0).expect("a table")
}

fn name(index: usize) -> HostName {
    HostName::parse(&format!("n{index}.good.test")).expect("a name")
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// DNS-12: a table begins anywhere, and goes round.
#[test]
fn dns_12_a_table_begins_where_it_is_told() {
    let first = u32::from(VIP_V4_FIRST);
    for (start, expected) in [
        (0, [0, 1]),
        (70_000, [70_000, 70_001]),
        (VIP_PLACES - 1, [VIP_PLACES - 1, 0]),
        (VIP_PLACES, [0, 1]),
        (u32::MAX, [u32::MAX % VIP_PLACES, u32::MAX % VIP_PLACES + 1]),
    ] {
        let mut table = VipTable::new(PREFIX, start).expect("a table");
        for (index, place) in expected.into_iter().enumerate() {
            let addresses = table.assign(&name(index), None, seconds(0));
            let v4 = addresses.expect("addresses").v4;
            assert_eq!(u32::from(v4), first + place, "{start}");
            assert_eq!(table.lookup(v4.into()), Lookup::Name(&name(index)));
        }
    }
}

#[test]
fn a_name_has_one_pair_of_addresses_and_they_lead_back() {
    let mut table = table();
    let first = table.assign(&name(1), None, seconds(0)).expect("addresses");
    let second = table.assign(&name(2), None, seconds(1)).expect("addresses");
    assert_eq!(first.v4, VIP_V4_FIRST);
    assert_eq!(first.v6.to_string(), "fd12:3456:789a:1::100");
    assert_eq!(table.assign(&name(1), None, seconds(9)), Ok(first));
    for (address, expected) in [
        (IpAddr::V4(first.v4), Lookup::Name(&name(1))),
        (IpAddr::V6(first.v6), Lookup::Name(&name(1))),
        (
            IpAddr::V6(first.v4.to_ipv6_mapped()),
            Lookup::Name(&name(1)),
        ),
        (IpAddr::V4(second.v4), Lookup::Name(&name(2))),
        ("198.18.9.9".parse().expect("an address"), Lookup::Vacant),
        ("198.18.0.1".parse().expect("an address"), Lookup::Refusal),
        ("198.18.0.2".parse().expect("an address"), Lookup::Foreign),
        (
            "198.19.255.255".parse().expect("an address"),
            Lookup::Foreign,
        ),
        (
            "198.19.255.254".parse().expect("an address"),
            Lookup::Vacant,
        ),
        ("8.8.8.8".parse().expect("an address"), Lookup::Foreign),
        (
            "fd12:3456:789a:1::1".parse().expect("an address"),
            Lookup::Refusal,
        ),
        (
            "::ffff:198.18.0.1".parse().expect("an address"),
            Lookup::Refusal,
        ),
        (
            "fd12:3456:789a:1::2".parse().expect("an address"),
            Lookup::Foreign,
        ),
        (
            "fd12:3456:789a:2::100".parse().expect("an address"),
            Lookup::Foreign,
        ),
        (
            "fd12:3456:789a:1:1::100".parse().expect("an address"),
            Lookup::Foreign,
        ),
    ] {
        assert_eq!(table.lookup(address), expected, "{address}");
    }
}

#[test]
fn the_prefix_is_a_unique_local_64() {
    for prefix in ["2001:db8::", "fc00::", "fd12::1", "fd12:0:0:0:1::", "::"] {
        assert!(
            VipTable::new(prefix.parse().expect("an address"), 0).is_err(),
            "{prefix}"
        );
    }
}

fn full(now: Duration) -> VipTable {
    let mut table = table();
    for index in 0..VIP_NAMES_MAX {
        table.assign(&name(index), None, now).expect("addresses");
    }
    table
}

/// DNS-12: a full table refuses until a name is old.
#[test]
fn dns_12_a_full_table_refuses_until_a_name_is_old() {
    let mut table = full(seconds(0));
    let late = VIP_RETIRE_AFTER;
    let early = late.saturating_sub(seconds(1));
    assert_eq!(
        table.assign(&name(9999), None, early),
        Err(AssignError::Full)
    );
    table.assign(&name(0), None, early).expect("addresses");
    let old = table.assign(&name(1), None, seconds(0)).expect("addresses");
    let new = table.assign(&name(9999), None, late).expect("addresses");
    assert_eq!(table.len(), VIP_NAMES_MAX);
    assert_eq!(table.lookup(IpAddr::V4(old.v4)), Lookup::Vacant);
    assert!(matches!(table.lookup(IpAddr::V4(new.v4)), Lookup::Name(_)));
    assert_ne!(old, new);
}

/// DNS-12: an address with a flow keeps its name.
#[test]
fn dns_12_an_address_with_a_flow_keeps_its_name() {
    let mut table = full(seconds(0));
    let kept = table.assign(&name(0), None, seconds(0)).expect("addresses");
    assert_eq!(
        table.open_flow(IpAddr::V4(kept.v4), seconds(1)),
        Some(name(0))
    );
    assert_eq!(
        table.open_flow(IpAddr::V6(kept.v6), seconds(1)),
        Some(name(0))
    );
    table.close_flow(IpAddr::V4(kept.v4), seconds(2));
    let late = VIP_RETIRE_AFTER * 9;
    for index in 1..VIP_NAMES_MAX {
        table
            .assign(&name(10_000 + index), None, late)
            .expect("addresses");
    }
    assert_eq!(table.lookup(IpAddr::V4(kept.v4)), Lookup::Name(&name(0)));
    assert_eq!(
        table.assign(&name(99_999), None, late),
        Err(AssignError::Full)
    );
    table.close_flow(IpAddr::V4(kept.v4), late);
    let later = late + VIP_RETIRE_AFTER;
    table.assign(&name(99_999), None, later).expect("addresses");
}

/// DNS-12: every address busy refuses.
#[test]
fn dns_12_every_address_busy_refuses() {
    let mut table = full(seconds(0));
    for index in 0..VIP_NAMES_MAX {
        let addresses = table
            .assign(&name(index), None, seconds(0))
            .expect("addresses");
        table.open_flow(IpAddr::V4(addresses.v4), seconds(0));
    }
    let late = VIP_RETIRE_AFTER * 100;
    assert_eq!(
        table.assign(&name(9999), None, late),
        Err(AssignError::Full)
    );
}

/// DNS-09: new names below a wildcard are counted.
#[test]
fn dns_09_new_names_below_a_wildcard_are_counted() {
    let mut table = table();
    let good = HostName::parse("good.test").expect("a name");
    let other = HostName::parse("other.test").expect("a name");
    let burst = WILDCARD_NAMES_BURST as usize;
    for index in 0..burst {
        table
            .assign(&name(index), Some(&good), seconds(0))
            .expect("addresses");
    }
    let refused = table.assign(&name(burst), Some(&good), seconds(0));
    assert_eq!(refused, Err(AssignError::WildcardRate));
    table
        .assign(&name(0), Some(&good), seconds(0))
        .expect("a name that is known");
    table
        .assign(&name(burst), Some(&other), seconds(0))
        .expect("another wildcard");
    table
        .assign(&name(burst + 1), None, seconds(0))
        .expect("no wildcard");
    let back = WILDCARD_NAMES_PERIOD / WILDCARD_NAMES_BURST + seconds(1);
    table
        .assign(&name(burst + 2), Some(&good), back)
        .expect("one came back");
    let refused = table.assign(&name(burst + 3), Some(&good), back);
    assert_eq!(refused, Err(AssignError::WildcardRate));
}

#[derive(Clone, Debug)]
enum Step {
    Assign(usize),
    Open(usize),
    Close(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..VIP_NAMES_MAX * 2).prop_map(Step::Assign),
        2 => (0..VIP_NAMES_MAX * 2).prop_map(Step::Open),
        1 => (0..VIP_NAMES_MAX * 2).prop_map(Step::Close),
        2 => (0..900_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The model remembers when each address last had a name, and which flows are open.
    #[test]
    fn an_address_is_never_led_elsewhere(steps in steps()) {
        let mut now = seconds(0);
        let mut table = full(now);
        let mut last: HashMap<Ipv4Addr, (HostName, Duration)> = HashMap::new();
        let mut flows: HashMap<usize, (Ipv4Addr, u32)> = HashMap::new();
        for index in 0..VIP_NAMES_MAX {
            let addresses = table.assign(&name(index), None, now).expect("addresses");
            last.insert(addresses.v4, (name(index), now));
        }
        for step in steps {
            match step {
                Step::Wait(count) => now += seconds(count),
                Step::Assign(index) => if let Ok(addresses) = table.assign(&name(index), None, now) {
                    if let Some((before, at)) = last.get(&addresses.v4) {
                        prop_assert!(*before == name(index) || now.saturating_sub(*at) >= VIP_RETIRE_AFTER.min(VIP_REUSE_AFTER));
                    }
                    last.insert(addresses.v4, (name(index), now));
                },
                Step::Open(index) => if let Some(place) = table.by_name.get(&name(index)).copied() {
                    let v4 = table.addresses(place).v4;
                    prop_assert_eq!(table.open_flow(IpAddr::V4(v4), now), Some(name(index)));
                    flows.entry(index).or_insert((v4, 0)).1 += 1;
                },
                Step::Close(index) => if let Some((v4, count)) = flows.get_mut(&index) {
                    table.close_flow(IpAddr::V4(*v4), now);
                    *count -= 1;
                    if *count == 0 { flows.remove(&index); }
                },
            }
            for (index, (v4, _)) in &flows {
                prop_assert_eq!(table.lookup(IpAddr::V4(*v4)), Lookup::Name(&name(*index)));
            }
        }
        check_invariants(&table, flows.len())?;
    }
}

fn check_invariants(table: &VipTable, busy: usize) -> Result<(), TestCaseError> {
    prop_assert!(table.len() <= VIP_NAMES_MAX);
    prop_assert_eq!(table.by_name.len(), table.places.len());
    prop_assert_eq!(table.idle.len() + busy, table.places.len());
    let idle: HashSet<u32> = table.idle.iter().map(|(_, index)| *index).collect();
    for (index, place) in &table.places {
        prop_assert_eq!(idle.contains(index), place.flows == 0);
        prop_assert!(!table.retired.contains_key(index));
    }
    Ok(())
}
