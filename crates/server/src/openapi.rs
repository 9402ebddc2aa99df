//! The `OpenAPI` document. Operations are described where they are handled, and
//! routed by that description (`routes.rs`), so that the document can neither
//! forget an address nor invent one. Here is what they share.

use tombolo_api::config::NewSandbox;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi};

pub(crate) const SANDBOXES_TAG: &str = "sandboxes";
pub(crate) const EGRESS_TAG: &str = "egress";
pub(crate) const INGRESS_TAG: &str = "ingress";
pub(crate) const SSH_TAG: &str = "ssh";
pub(crate) const TOKENS_TAG: &str = "tokens";
pub(crate) const SERVER_TAG: &str = "server";
/// What every answer that is no success means.
pub(crate) const REFUSED: &str = "Refused: the code is for programs, the message for people";

/// What holds for the whole document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tombolo",
        description = "Sandboxes over REST: what the official SDKs use, and Tombolo's own \
                       addresses. Every answer carries `x-deno-trace-id`. What happens inside a \
                       sandbox is JSON-RPC on a WebSocket and not part of this document.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(NewSandbox)),
    tags(
        (name = SANDBOXES_TAG, description = "Create, list, extend and end sandboxes"),
        (name = EGRESS_TAG, description = "What sandboxes may reach, their secrets, and what they sent"),
        (name = INGRESS_TAG, description = "Ports of sandboxes that are reached over HTTP"),
        (name = SSH_TAG, description = "Sandboxes reached over SSH"),
        (name = TOKENS_TAG, description = "Tokens of organisations"),
        (name = SERVER_TAG, description = "The server itself"),
    ),
    security(("token" = [])),
    modifiers(&BearerToken),
)]
pub(crate) struct Document;

/// How requests prove whose they are.
struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token of an organisation (`ddo_…`, `ddp_…`), or the admin token",
            ))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The query of the listings that the official clients use.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `tombolo_api::query` reads")]
pub(crate) struct ListParameters {
    /// At most so many rows; more than 1000 are never given at once.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before this one ended, out of its `Link` header.
    cursor: Option<String>,
    /// Rows must have all of these labels, as `labels[KEY]=VALUE`; at most 16.
    #[param(style = DeepObject, explode, value_type = Option<std::collections::BTreeMap<String, String>>)]
    labels: Option<std::collections::BTreeMap<String, String>>,
}

/// The query of Tombolo's own listing.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `tombolo_api::query` reads")]
pub(crate) struct RowsParameters {
    /// At most so many rows, 100 unless asked; more than 1000 are never given
    /// at once.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before this one ended, out of its `Link` header.
    cursor: Option<String>,
    /// Rows must have all of these labels, as `labels[KEY]=VALUE`; at most 16.
    #[param(style = DeepObject, explode, value_type = Option<std::collections::BTreeMap<String, String>>)]
    labels: Option<std::collections::BTreeMap<String, String>>,
    /// Rows must be in one of these states: repeated, or with commas.
    #[param(inline, explode)]
    state: Option<Vec<tombolo_api::native::SandboxPhase>>,
    /// `fresh` measures those that run before it answers.
    #[param(inline)]
    usage: Option<Usage>,
}

/// The query of the records.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `native::records` reads")]
pub(crate) struct RecordsParameters {
    /// Records of this sandbox only.
    sandbox: Option<String>,
}

/// The query of a watch.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `native::watch` reads")]
pub(crate) struct WatchParameters {
    /// What to watch: a file, or a directory and what is in it. A relative path starts
    /// in `/home/app`; a link is followed.
    path: String,
    /// What is in directories below, too. Links there are not followed.
    recursive: Option<bool>,
}

/// Whether to measure first.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes what `tombolo_api::query` reads")]
pub(crate) enum Usage {
    /// The figures that were taken last.
    Latest,
    /// Figures of now.
    Fresh,
}

/// The document as it is checked in.
#[must_use]
pub fn document() -> String {
    let document = crate::routes::described().into_openapi();
    document
        .to_pretty_json()
        .unwrap_or_else(|error| format!("the document cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    /// Every value below this one.
    fn walk<'a>(value: &'a Value, seen: &mut dyn FnMut(&'a Value)) {
        seen(value);
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, seen)),
            Value::Object(members) => members.values().for_each(|member| walk(member, seen)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let mut references = 0;
        walk(&document, &mut |value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let place = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(place).is_some(), "{reference}");
                references += 1;
            }
        });
        assert!(references > 20, "{references}");
    }

    #[test]
    fn operations_have_names_of_their_own_and_say_how_they_refuse() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let mut names = HashSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name), "{method} {path}: {name}");
                let is_open = operation["security"] == serde_json::json!([{}]);
                let refuses = operation["responses"].get("default").is_some();
                assert_eq!(refuses, !is_open, "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
            }
        }
        assert_eq!(names.len(), 36);
    }
}
