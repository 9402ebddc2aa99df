//! The proxy of a machine: every byte that a sandbox sends out arrives here, and nowhere
//! else does a secret have its value.
mod audit;
mod authority;
mod clock;
mod counters;
mod dns;
mod flow;
mod http;
mod identity;
mod rules;
mod sandbox;
mod sniff;
mod stream;
mod upstream;

#[cfg(test)]
mod tests;
