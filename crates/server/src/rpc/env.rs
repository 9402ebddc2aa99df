//! The sandbox's environment store.

use std::collections::BTreeMap;

use tombolo_api::rpc::{EnvKeyParams, EnvSetParams};
use tombolo_guest_proto::v1;

use super::call::Call;
use super::fault::CallError;
use super::reply::Reply;

pub(super) async fn get(call: &Call) -> Result<Reply, CallError> {
    let EnvKeyParams { key } = call.params()?;
    let found = call
        .guest_read(v1::EnvKey { key }, |mut agent, request| async move {
            agent.get_env(request).await
        })
        .await?;
    call.ok(&found.value)
}

pub(super) async fn set(call: &Call) -> Result<Reply, CallError> {
    let EnvSetParams { key, value } = call.params()?;
    call.guest(
        v1::EnvEntry { key, value },
        |mut agent, request| async move { agent.set_env(request).await },
    )
    .await?;
    call.null()
}

pub(super) async fn to_object(call: &Call) -> Result<Reply, CallError> {
    let all = call
        .guest_read(v1::Empty {}, |mut agent, request| async move {
            agent.all_env(request).await
        })
        .await?;
    call.ok(&all.env.into_iter().collect::<BTreeMap<_, _>>())
}

pub(super) async fn delete(call: &Call) -> Result<Reply, CallError> {
    let EnvKeyParams { key } = call.params()?;
    call.guest(v1::EnvKey { key }, |mut agent, request| async move {
        agent.delete_env(request).await
    })
    .await?;
    call.null()
}
