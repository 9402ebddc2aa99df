//! The proxy between a guest and origins that the tests write themselves, all on loopback.
//! Each case is named after the attack that it is; the rig checks after each that no value
//! of a secret came to the guest or into a record, and that every attempt has one record.

mod attacks_http;
mod certificates;
mod changes;
mod control;
mod dns;
mod fuzz;
mod hello;
mod hosts;
mod http2;
mod limits;
mod origin;
mod reflections;
mod refusals;
mod rig;
mod slots;
mod tls;
mod traffic;
