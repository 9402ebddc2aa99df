//! Tests of a whole server against a fake node and egress process, through its sockets, as
//! clients use it.

mod accounts;
mod creating;
mod egress;
mod harness;
mod hostile;
mod ingress;
mod leaks;
mod lifetimes;
mod listing;
mod networks;
mod recovery;
mod retiring;
mod routing;
mod ssh;
mod watches;
