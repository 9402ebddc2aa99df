//! Tests of a whole server against a fake node, through its sockets, as
//! clients use it.

mod accounts;
mod creating;
mod harness;
mod hostile;
mod lifetimes;
mod listing;
mod recovery;
mod routing;
