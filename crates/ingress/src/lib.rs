//! HTTP from the world to programs that listen in sandboxes.
//!
//! Each exposure has a name of its own, `<32 hexadecimal digits>.<base>`. TLS ends
//! here; the name leads to an exposure, the exposure to a stream of bytes that the
//! [`Backend`] opens, and on it HTTP/1.1 is spoken to the program. Of sandboxes this
//! crate knows no more than that.
//!
//! Both sides are untrusted: clients are anybody, programs are unreviewed code. What
//! they can make this process hold is bounded for each connection and each owner
//! ([`Limits`]), bodies pass unbuffered both ways, and what goes wrong is told by a
//! status and a page that say what to do next.

mod access;
mod acme;
mod backend;
mod body;
mod connector;
mod forward;
mod headers;
mod host;
mod identity;
mod limits;
mod page;
mod plain;
mod relay;
mod serve;
#[cfg(test)]
mod tests;
mod under_way;
mod validity;

pub use access::{ACCESS_COOKIE, ACCESS_HEADER, ACCESS_PARAMETER};
pub use acme::{Acme, AcmeConfig, AcmeOpenError};
pub use backend::{Backend, ConnectError, Exposure, Found, Meter, Target, Traffic};
pub use host::{Base, ParseBaseError};
pub use identity::{Identity, IdentityError};
pub use limits::Limits;
pub use serve::{Ingress, IngressConfig, ListenError, Listening};
