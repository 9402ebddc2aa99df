//! VS Code's `settings.json` in a sandbox: ours where there is none, and a client's keys
//! in the one that is there. What a person chose in VS Code stays.

use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt as _;
use tombolo_api::rpc::ErrorObject;
use tombolo_guest_proto::v1;

use super::super::call::Call;
use super::super::fault::CallError;
use super::super::write;
use super::merge::{MergeError, merge};
use super::{find, is_missing, real_path};

const DIRECTORY: &str = "/home/app/.local/share/code-server/User";
const PATH: &str = "/home/app/.local/share/code-server/User/settings.json";
/// What kind of file a mode is of, and a regular one.
const KIND_MASK: u32 = 0o170_000;
const KIND_FILE: u32 = 0o100_000;
/// Of a settings file that keys are changed in. A person's has a few kilobytes. Each key
/// that is added costs a walk through the file.
const LEN_MAX: usize = 128 * 1024;
/// Keys of one call, for the same reason.
const KEYS_MAX: usize = 100;

/// Makes `settings.json` say what is asked for.
pub(super) async fn settle(
    call: &Call,
    asked: Option<&Map<String, Value>>,
) -> Result<(), CallError> {
    if asked.is_some_and(|asked| asked.len() > KEYS_MAX) {
        let words = format!("\"editorSettings\" has more than {KEYS_MAX} keys");
        return Err(ErrorObject::new("TypeError", words).into());
    }
    let found = match find(call, PATH).await {
        Ok(found) => found,
        Err(status) if is_missing(&status) => return make(call, asked).await,
        Err(status) => return Err(status.into()),
    };
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Ok(());
    };
    if found.mode & KIND_MASK != KIND_FILE {
        return Err(unchanged("it is no file"));
    }
    // What a link points to is changed, and the link stays.
    let path = real_path(call, PATH).await?;
    let text = read(call, &path).await?;
    let asked = asked.clone();
    // The most there may be takes a second or two, which is not the runtime's to give.
    let merging = spawn_blocking(move || {
        let merged = merge(&text, &asked)?;
        Ok::<_, MergeError>((merged != text).then_some(merged))
    });
    let merged = merging
        .await
        .map_err(|error| unchanged(&error.to_string()))?;
    match merged.map_err(|error| unchanged(&error.to_string()))? {
        Some(merged) => replace(call, &path, &merged).await,
        None => Ok(()),
    }
}

/// What a person is told whose settings are not to be lost.
fn unchanged(why: &str) -> CallError {
    let words = format!(
        "The settings of VS Code in this sandbox were left as they are, because {PATH} cannot be \
         changed: {why}. Mend the file, or move it away, or leave \"editorSettings\" out"
    );
    ErrorObject::new("InvalidData", words).into()
}

async fn make(call: &Call, asked: Option<&Map<String, Value>>) -> Result<(), CallError> {
    let settings = defaults(asked);
    let text = serde_json::to_string_pretty(&settings).map_err(CallError::Unwritable)?;
    let request = v1::MkdirRequest {
        path: DIRECTORY.to_owned(),
        recursive: true,
        mode: None,
    };
    call.guest(request, |mut agent, request| async move {
        agent.mkdir(request).await
    })
    .await?;
    replace(call, PATH, &text).await
}

/// Ours and over them what a client wants. VS Code offers assistants that need an
/// account, and asks hosts that few policies allow.
fn defaults(asked: Option<&Map<String, Value>>) -> Map<String, Value> {
    let ours = [
        ("chat.disableAIFeatures", json!(true)),
        ("extensions.autoCheckUpdates", json!(false)),
        ("extensions.autoUpdate", json!("off")),
        ("telemetry.telemetryLevel", json!("off")),
        ("workbench.enableExperiments", json!(false)),
        (
            "workbench.secondarySideBar.defaultVisibility",
            json!("hidden"),
        ),
        ("workbench.startupEditor", json!("none")),
        ("workbench.tips.enabled", json!(false)),
    ];
    let ours = ours.map(|(name, value)| (name.to_owned(), value));
    let mut settings = Map::from_iter(ours);
    settings.extend(asked.cloned().unwrap_or_default());
    settings
}

async fn read(call: &Call, path: &str) -> Result<String, CallError> {
    let request = v1::PathRequest {
        path: path.to_owned(),
    };
    let mut client = call.connection.agent.client();
    let mut chunks = client.read_file(request).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.get_mut().next().await {
        bytes.extend_from_slice(&chunk?.data);
        if bytes.len() > LEN_MAX {
            return Err(unchanged("it is larger than 128 KiB"));
        }
    }
    String::from_utf8(bytes).map_err(|_error| unchanged("it is not UTF-8"))
}

/// Puts a file in the place of one that may be there, in one step: a disk that is full
/// costs nobody the settings there were.
async fn replace(call: &Call, path: &str, text: &str) -> Result<(), CallError> {
    let (directory, _) = path.rsplit_once('/').unwrap_or_default();
    let request = v1::MakeTempRequest {
        directory: false,
        dir: directory.to_owned(),
        prefix: "settings.".to_owned(),
        suffix: ".new".to_owned(),
    };
    let made = call.guest(request, |mut agent, request| async move {
        agent.make_temp(request).await
    });
    let from = made.await?.path;
    let done = fill(call, &from, path, text).await;
    if done.is_err() {
        let request = v1::RemoveRequest {
            path: from,
            recursive: false,
        };
        let removed = call.guest(request, |mut agent, request| async move {
            agent.remove(request).await
        });
        if let Err(error) = removed.await {
            tracing::debug!(%error, "half-written settings stay in a sandbox");
        }
    }
    done
}

async fn fill(call: &Call, from: &str, to: &str, text: &str) -> Result<(), CallError> {
    write::whole(call, from, text.as_bytes()).await?;
    let request = v1::TwoPathsRequest {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    call.guest(request, |mut agent, request| async move {
        agent.rename(request).await
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wants_wins_over_our_settings() {
        let asked = json!({"workbench.startupEditor": "readme", "editor.fontSize": 20});
        let settings = defaults(asked.as_object());
        assert_eq!(settings["workbench.startupEditor"], "readme");
        assert_eq!(settings["editor.fontSize"], 20);
        assert_eq!(settings["telemetry.telemetryLevel"], "off");
    }
}
