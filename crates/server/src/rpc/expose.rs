//! Ports that are reached over HTTP.

use tombolo_api::rpc::{ErrorObject, ExposeHttpParams};

use super::call::Call;
use super::fault::CallError;
use super::reply::Reply;
use crate::exposures::ExposeError;
use crate::guest::Target;

/// Lets a domain that was given out for this sandbox lead to a port or a process.
/// Nothing needs to listen there yet.
pub(super) async fn http(call: &Call) -> Result<Reply, CallError> {
    let ExposeHttpParams { domain, port, pid } = call.params()?;
    let target = match (port, pid) {
        (Some(port), None) => Target::Port(port),
        (None, Some(pid)) => Target::Process(pid),
        _ => {
            let words = "exposeHttp takes a port or a pid, one of them";
            return Err(ErrorObject::new("TypeError", words).into());
        }
    };
    let connection = &call.connection;
    let bound = match &connection.exposures {
        Some(exposures) => exposures.bind(&connection.sandbox, &domain, target).await,
        None => Err(ExposeError::NoIngress),
    };
    match bound {
        Ok(()) => call.null(),
        Err(error) => Err(fault(&error).into()),
    }
}

fn fault(error: &ExposeError) -> ErrorObject {
    match error {
        ExposeError::NotFound => {
            ErrorObject::new("NotFound", error.to_string()).with_code("ENOENT")
        }
        ExposeError::NoIngress | ExposeError::TooMany => {
            ErrorObject::new("Error", error.to_string())
        }
        ExposeError::Entropy(_) | ExposeError::Database(_) => {
            tracing::error!(error = %tombolo_diag::Report::new(error), "an exposure was not bound");
            ErrorObject::new("Error", "the server failed; its log tells more")
        }
    }
}
