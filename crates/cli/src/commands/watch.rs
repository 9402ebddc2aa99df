//! `tombolo sandbox watch`.

use tombolo_api::watch::{FileChange, FileChangeKind, MissedReason};
use url::form_urlencoded;

use super::sandbox::overseer;
use crate::cli::WatchArgs;
use crate::context::Context;
use crate::failure::Outcome;
use crate::{output, wire};

pub(super) async fn watch(context: &Context, args: &WatchArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let client = overseer(context, &args.server).await?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("path", &args.path)
        .append_pair("recursive", if args.recursive { "true" } else { "false" })
        .finish();
    let path = format!("/api/v3/sandbox/{id}/files/watch?{query}");
    let mut events = client.events(&path).await.map_err(wire::refused)?;
    while let Some(event) = events.next().await.map_err(wire::refused)? {
        if let Some(line) = shown(&event.data, args.json)
            && !output::line(&line)?
        {
            break;
        }
    }
    Ok(())
}

/// What to print of an event. That something is missing is told to the person.
fn shown(data: &str, json: bool) -> Option<String> {
    // A form that this version does not know is shown as it is rather than not at all.
    let change = serde_json::from_str::<FileChange>(data).ok();
    let Some(change) = change.filter(|_| !json) else {
        return Some(output::printable(data));
    };
    if change.kind == FileChangeKind::Missed {
        let why = match change.reason {
            Some(MissedReason::Interrupted) => "the way to the sandbox was lost for a while",
            Some(MissedReason::Overflow) => "changes came too fast",
            _ => "something may be missing",
        };
        let told = format!(
            "tombolo: {why}; anything below {} may have changed",
            change.path
        );
        output::tell(&output::printable(&told));
        return None;
    }
    let slash = if change.is_directory && !change.path.ends_with('/') {
        "/"
    } else {
        ""
    };
    let from = change.from.map(|from| format!(" (was {from})"));
    Some(output::printable(&format!(
        "{:<9} {}{slash}{}",
        change.kind.as_str(),
        change.path,
        from.unwrap_or_default()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_that_a_terminal_obeys_nothing_of() {
        let cases = [
            (
                r#"{"kind":"created","path":"a\u001b[2J\nb","is_directory":false}"#,
                Some("created   a\\u{1b}[2J\\nb"),
            ),
            (
                r#"{"kind":"renamed","path":"new","from":"old","is_directory":true}"#,
                Some("renamed   new/ (was old)"),
            ),
            (
                r#"{"kind":"missed","path":"a","is_directory":true,"reason":"overflow"}"#,
                None,
            ),
            (r#"{"kind":"melted"}"#, Some(r#"{"kind":"melted"}"#)),
        ];
        for (data, expected) in cases {
            assert_eq!(shown(data, false).as_deref(), expected, "{data}");
            assert_eq!(shown(data, true).as_deref(), Some(data), "{data}");
        }
    }
}
