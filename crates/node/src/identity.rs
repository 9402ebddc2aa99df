//! Makes a restored guest its own: two of one template must share no random
//! stream, no clock and no name.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use tombolo_guest_proto::agent_client;
use tombolo_guest_proto::v1::PersonalizeRequest;
use tombolo_host::Machine;

const ENTROPY_LEN: usize = 64;

/// Why a guest has no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GiveIdentityError {
    #[error("the host gives no random numbers")]
    Random(#[from] getrandom::Error),
    #[error("the guest did not take its identity")]
    Agent(#[from] Box<tonic::Status>),
}

/// Gives the guest new randomness, the time, a host name and a machine id, and
/// adds to its environment. May be repeated; the last one counts.
pub(crate) async fn give<M: Machine>(
    machine: &M,
    hostname: &str,
    env: HashMap<String, String>,
) -> Result<(), GiveIdentityError> {
    let mut entropy = vec![0; ENTROPY_LEN];
    getrandom::fill(&mut entropy)?;
    let machine_id = format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let request = PersonalizeRequest {
        entropy: entropy.into(),
        unix_time_nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        hostname: hostname.to_owned(),
        machine_id,
        env,
    };
    agent_client(machine.agent())
        .personalize(request)
        .await
        .map_err(Box::new)?;
    Ok(())
}
