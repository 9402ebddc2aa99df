//! Makes a restored guest its own: two of one template must share no random
//! stream, no clock and no name.

use bytes::Bytes;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use tombolo_guest_proto::agent_client;
use tombolo_guest_proto::v1::{HelloRequest, PersonalizeRequest};
use tombolo_host::Machine;
use tonic::transport::Channel;

const ENTROPY_LEN: usize = 64;

/// New randomness, the time, a host name, a machine id, what is added to the
/// guest's environment, and whom it is to trust besides those that all trust.
pub(crate) fn new(
    hostname: &str,
    env: HashMap<String, String>,
    trusted_certificates_pem: Bytes,
) -> Result<PersonalizeRequest, getrandom::Error> {
    let mut entropy = vec![0; ENTROPY_LEN];
    getrandom::fill(&mut entropy)?;
    let machine_id = format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(PersonalizeRequest {
        entropy: entropy.into(),
        unix_time_nanos: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        hostname: hostname.to_owned(),
        machine_id,
        env,
        trusted_certificates_pem,
    })
}

/// Gives a machine that runs another identity.
pub(crate) async fn give<M: Machine>(
    machine: &M,
    identity: PersonalizeRequest,
) -> Result<(), Box<tonic::Status>> {
    let mut agent = agent_client(machine.agent());
    agent.personalize(identity).await.map_err(Box::new)?;
    Ok(())
}

/// Makes the first call to a restored machine, so that its emulator translates
/// the way there while the sandbox's owner is still being told of it.
pub(crate) async fn greet(agent: Channel) {
    let greeted = agent_client(agent).hello(HelloRequest {}).await;
    if let Err(status) = greeted {
        tracing::debug!(%status, "a new machine was not greeted");
    }
}
