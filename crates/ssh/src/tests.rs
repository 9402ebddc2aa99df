//! The stock OpenSSH client against a gateway whose sandbox lives in memory.

mod clients;
mod hostile;
mod rig;
