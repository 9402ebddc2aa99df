//! Secrets and destinations for tests.

use std::sync::Arc;

use tombolo_secret::{Placeholder, SecretName, SecretValue};

use crate::{
    Destination, Flow, Plaintext, RequestSubstitution, Requirement, Scheme, SecretRule,
    SecretTable, Slot, Slots,
};

pub(crate) const HOST: &str = "api.example.com";
pub(crate) const VALUE: &str = "sk-canary/0123+456789\"=abc";

pub(crate) fn placeholder(number: u8) -> Placeholder {
    Placeholder::from_bytes([number; 32])
}

/// The placeholder as a text.
pub(crate) fn ph(number: u8) -> String {
    placeholder(number).to_string()
}

/// A secret for [`HOST`] with every slot.
pub(crate) fn rule(number: u8, value: &str) -> SecretRule {
    SecretRule {
        name: SecretName::parse(&format!("KEY{number}")).unwrap(),
        placeholder: placeholder(number),
        value: SecretValue::new(value.to_owned()).unwrap(),
        hosts: vec![HOST.parse().unwrap()],
        slots: Slots::from_iter(Slot::ALL),
        plaintext: Plaintext::Refused,
        requirement: Requirement::Optional,
        injection: None,
    }
}

pub(crate) fn table(rules: impl IntoIterator<Item = SecretRule>) -> Arc<SecretTable> {
    Arc::new(SecretTable::new(rules.into_iter().collect()).unwrap())
}

pub(crate) fn destination(host: &str) -> Destination<'_> {
    Destination {
        host,
        port: 443,
        scheme: Scheme::Https,
        flow: Flow::Terminated,
    }
}

/// A request to [`HOST`].
pub(crate) fn request(rules: impl IntoIterator<Item = SecretRule>) -> RequestSubstitution {
    request_to(HOST, rules)
}

pub(crate) fn request_to(
    host: &str,
    rules: impl IntoIterator<Item = SecretRule>,
) -> RequestSubstitution {
    let table = table(rules);
    let eligibility = table.eligibility(&destination(host));
    RequestSubstitution::new(&table, eligibility)
}

/// Every way to cut a text in two, and one byte at a time.
pub(crate) fn chunkings(text: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all: Vec<Vec<&[u8]>> = (0..=text.len())
        .map(|at| {
            let (start, end) = text.split_at(at);
            vec![start, end]
        })
        .collect();
    all.push(text.chunks(1).collect());
    all.push(vec![text]);
    all
}
