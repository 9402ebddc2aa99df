//! What a sandbox may send out, the secrets it may use, and what it did.

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tombolo_api::native::{AllowNet, EGRESS_RECORDS_PATH};
pub use tombolo_api::native::{
    ExplainHeader, ExplainRequest, HostSums, PolicyChange, PutSecret, SecretChange, SecretRow,
};
use tombolo_ids::SandboxId;

use crate::events::{Event, Events};
use crate::{Client, RequestError, SandboxRef};

/// The network of one sandbox.
#[derive(Debug, Clone)]
pub struct Egress {
    sandbox: SandboxRef,
}

impl SandboxRef {
    /// What it may send out, and the secrets it may use.
    #[must_use]
    pub fn egress(&self) -> Egress {
        Egress {
            sandbox: self.clone(),
        }
    }
}

impl Egress {
    fn client(&self) -> &Client {
        &self.sandbox.client
    }

    fn path(&self, rest: &str) -> String {
        format!("{}/egress/{rest}", self.sandbox.native_path())
    }

    /// The whole policy that is in force.
    ///
    /// # Errors
    /// As every request.
    pub async fn policy(&self) -> Result<Value, RequestError> {
        self.client().get(&self.path("policy")).await
    }

    /// Puts another policy in force, at once: what it does not allow ends. One
    /// that has the `generation` it was read with is refused if there has been
    /// another since.
    ///
    /// # Errors
    /// As every request; all that is wrong with it is told together.
    pub async fn set_policy(&self, policy: &Value) -> Result<PolicyChange, RequestError> {
        let path = self.path("policy");
        self.client().send(Method::PUT, &path, policy).await
    }

    /// Puts a list of hosts in force. None: all that are public. Empty: no
    /// host at all.
    ///
    /// # Errors
    /// As every request.
    pub async fn set_allow_net(
        &self,
        allow_net: Option<Vec<String>>,
    ) -> Result<PolicyChange, RequestError> {
        let path = self.path("allow_net");
        let body = AllowNet { allow_net };
        self.client().send(Method::PUT, &path, &body).await
    }

    /// Its secrets, without their values.
    ///
    /// # Errors
    /// As every request.
    pub async fn secrets(&self) -> Result<Vec<SecretRow>, RequestError> {
        self.client().get(&self.path("secrets")).await
    }

    /// Adds a secret or changes one; what is left out stays as it is.
    ///
    /// # Errors
    /// As every request.
    pub async fn put_secret(
        &self,
        name: &str,
        secret: &PutSecret,
    ) -> Result<SecretChange, RequestError> {
        let path = self.path(&format!("secrets/{}", segment(name)));
        self.client().send(Method::PUT, &path, secret).await
    }

    /// Revokes a secret: it is used no more, and answers are still searched
    /// for its value.
    ///
    /// # Errors
    /// As every request.
    pub async fn revoke_secret(&self, name: &str) -> Result<(), RequestError> {
        let path = self.path(&format!("secrets/{}", segment(name)));
        self.client().delete(&path).await
    }

    /// What would become of a request, without sending it. Ask for a
    /// [`serde_json::Value`], or for a type with the keys of interest.
    ///
    /// # Errors
    /// As every request.
    pub async fn explain<T: DeserializeOwned>(
        &self,
        request: &ExplainRequest,
    ) -> Result<T, RequestError> {
        let path = self.path("explain");
        self.client().send(Method::POST, &path, request).await
    }

    /// Sums of what it sent out, for each host.
    ///
    /// # Errors
    /// As every request.
    pub async fn stats(&self) -> Result<Vec<HostSums>, RequestError> {
        self.client().get(&self.path("stats")).await
    }

    /// What it sends out from now on, as it happens.
    ///
    /// # Errors
    /// As every request.
    pub async fn records(&self) -> Result<Records, RequestError> {
        self.client().egress_records(Some(&self.sandbox.id)).await
    }
}

/// Records of what was sent out, as they are made.
#[derive(Debug)]
pub struct Records {
    events: Events,
}

/// What is told of what was sent out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RecordEvent {
    /// A request, a flow or a question for a name: a JSON object as the
    /// server wrote it, whose keys its reference of the network tells.
    Record(String),
    /// Records came too fast; so many were left out, in the server's words.
    Skipped(String),
    /// The egress proxy was away; records may be missing.
    Interrupted,
}

impl Client {
    /// What one sandbox sends out from now on, or every one this token may
    /// see.
    ///
    /// # Errors
    /// As every request.
    pub async fn egress_records(
        &self,
        sandbox: Option<&SandboxId>,
    ) -> Result<Records, RequestError> {
        let path = match sandbox {
            Some(id) => format!("{EGRESS_RECORDS_PATH}?sandbox={id}"),
            None => EGRESS_RECORDS_PATH.to_owned(),
        };
        let events = self.events(&path).await?;
        Ok(Records { events })
    }
}

impl Records {
    /// The next, or none when the server ends.
    ///
    /// # Errors
    /// An answer that broke off, or a server that fell silent.
    pub async fn next(&mut self) -> Result<Option<RecordEvent>, RequestError> {
        while let Some(Event { kind, data }) = self.events.next().await? {
            let event = match kind.as_str() {
                "" => RecordEvent::Record(data),
                "skipped" => RecordEvent::Skipped(data),
                "interrupted" => RecordEvent::Interrupted,
                _ => continue,
            };
            return Ok(Some(event));
        }
        Ok(None)
    }
}

/// A part of an address, whatever is in it.
fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .flat_map(|piece| if piece == "+" { "%20" } else { piece }.chars())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_stays_one_part_of_the_address() {
        for (name, expected) in [("API_KEY", "API_KEY"), ("a/b?c d", "a%2Fb%3Fc%20d")] {
            assert_eq!(segment(name), expected);
        }
    }
}
