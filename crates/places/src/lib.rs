//! Shares a gateway out among who comes, so that nobody holds all of it. The ingress and the
//! SSH gateway count the same way.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// One host has a whole IPv6 network of 64 bits (RFC 4291, section 2.5.4) to call from.
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Counts places that are taken, by who has them. Clones are one.
#[derive(Debug)]
pub struct Places<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// A place until it is dropped; nothing when that one has `max` already.
    pub fn take(&self, owner: K, max: usize) -> Option<Place<K>> {
        let mut taken = self.0.lock();
        let count = taken.get(&owner).copied().unwrap_or_default();
        if count >= max {
            return None;
        }
        taken.insert(owner.clone(), count + 1);
        Some(Place {
            owner,
            all: Arc::clone(&self.0),
        })
    }
}

/// One place that is taken, until this is dropped.
#[derive(Debug)]
pub struct Place<K: Clone + Eq + Hash> {
    owner: K,
    all: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.all.lock();
        match taken.get_mut(&self.owner) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.owner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_for_each_and_given_back() {
        let places = Places::default();
        let first = places.take("one", 2).unwrap();
        let second = places.take("one", 2).unwrap();
        assert!(places.take("one", 2).is_none());
        let other = places.take("other", 2).unwrap();
        drop(first);
        let third = places.take("one", 2).unwrap();
        assert!(places.take("one", 2).is_none());
        drop((second, third, other));
        assert!(places.0.lock().is_empty());
    }

    #[test]
    fn a_client_has_so_many_places_and_others_have_theirs() {
        let places = Places::default();
        let [one, beside, other] = ["2001:db8::1", "2001:db8::2", "2001:db8:1::1"]
            .map(|address| origin(address.parse().unwrap()));
        let first = places.take(one, 2).unwrap();
        let _second = places.take(beside, 2).unwrap();
        assert!(places.take(one, 2).is_none());
        let _third = places.take(other, 2).unwrap();
        drop(first);
        let _fourth = places.take(one, 2).unwrap();
        assert_eq!(places.0.lock().len(), 2);
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let cases = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ];
        for (address, expected) in cases {
            let found = origin(address.parse().unwrap());
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
