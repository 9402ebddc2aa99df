//! The way out: names become vetted addresses, addresses connections, connections are
//! kept for the next request of the same sandbox.

mod dial;
mod identity;
mod pool;
mod resolve;
mod tls;

pub(crate) use dial::{DialError, Dialler};
pub(crate) use identity::Identities;
pub use identity::IdentitiesError;
pub(crate) use pool::{BodyError, Lease, Pool, PoolKey, RequestBody, SendError, Sent};
pub(crate) use resolve::Resolver;
pub use resolve::ResolverError;
pub use tls::RootsError;
pub(crate) use tls::{Alpn, read_roots};
