//! Values of secrets are nowhere but in the egress process.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::harness::{World, base64};

/// What was logged.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

const VALUES: [&str; 6] = [
    "canary-of-the-create-1",
    "canary-of-a-rotation-2",
    "canary-of-a-new-one-3",
    "canary-that-is-refused-4",
    "canary-in-a-wrong-place-5",
    "canary-that-failed-6",
];

/// A value as it may be written: itself, and the middle of it in base64 at each
/// of three offsets, because the create configuration travels in base64.
fn needles(value: &str) -> Vec<String> {
    let encoded = (0..3).map(|offset| {
        let padded = format!("{}{value}", "x".repeat(offset));
        let encoded = base64(padded.as_bytes());
        let whole = encoded.trim_end_matches('=');
        whole[4..whole.len() - 4].to_owned()
    });
    std::iter::once(value.to_owned()).chain(encoded).collect()
}

#[tokio::test]
async fn leak_values_are_in_no_log_no_file_and_no_answer() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(captured.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let mut world = World::networked().await;
    let config = json!({ "timeout": "5m", "secrets": secret(VALUES[0]) });
    let socket = world.create(&config.to_string()).await.unwrap();
    let id = socket.id();
    let secrets = format!("/api/tombolo/v1/sandboxes/{id}/egress/secrets");
    let (key, new) = (format!("{secrets}/K"), format!("{secrets}/NEW"));
    let mut said = Vec::new();
    for (path, body, status) in [
        (&key, json!({ "value": VALUES[1] }), 200),
        (&new, json!({ "value": VALUES[2], "hosts": ["b.com"] }), 200),
        (&new, json!({ "value": format!("{}\n", VALUES[3]) }), 400),
        (&new, json!({ "hosts": VALUES[4] }), 400),
        (&new, json!({ "value": [VALUES[4]] }), 400),
        (&new, json!({ "on_ineligible": VALUES[4] }), 400),
        (&new, json!({ "in": [VALUES[4]] }), 400),
    ] {
        let answer = world.put(path, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        said.push(answer.text);
    }
    for spec in [
        json!(VALUES[4]),
        json!({ "hosts": VALUES[4], "value": "x" }),
    ] {
        let config = json!({ "secrets": { "K": spec } });
        said.push(world.create(&config.to_string()).await.unwrap_err().text);
    }
    let policy = format!("/api/tombolo/v1/sandboxes/{id}/egress/policy");
    let body = json!({ "version": 1, "secrets": { "K": VALUES[4] } });
    said.push(world.put(&policy, body).await.text);
    // Failures have causes, which go to the log.
    let failing = Some((tonic::Code::Internal, "by the test"));
    world.egress().refuse(failing);
    let config = json!({ "secrets": secret(VALUES[5]) });
    said.push(world.create(&config.to_string()).await.unwrap_err().text);
    let answer = world.put(&key, json!({ "value": VALUES[5] })).await;
    assert_eq!(answer.status, 500);
    said.push(answer.text);
    world.egress().refuse(None);
    for path in [&secrets, &policy] {
        said.push(world.get(path).await.text);
    }
    let deleted = world.send(Method::DELETE, &new, &world.token, None).await;
    assert_eq!(deleted.status, 204);
    world.stop_server().await;
    said.extend(files_in(world.node.directory()));
    let logged = captured.0.lock().unwrap();
    let logged = String::from_utf8_lossy(&logged).into_owned();
    assert!(
        logged.contains("TRACE") && logged.contains(&id),
        "nothing was captured"
    );
    said.push(logged);
    search(&said);
}

/// The secret `K` as a client gives it.
fn secret(value: &str) -> serde_json::Value {
    json!({ "K": { "hosts": ["a.com"], "value": value } })
}

/// What is in the files of a directory, of which there is at least one.
fn files_in(directory: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files: Vec<String> = paths
        .filter(|path| path.is_file())
        .map(|path| String::from_utf8_lossy(&fs_err::read(path).unwrap()).into_owned())
        .collect();
    assert!(!files.is_empty());
    files
}

/// Looks for every form of every value in all that was said.
fn search(said: &[String]) {
    // The search finds what is there.
    let header = base64(
        json!({ "secrets": secret(VALUES[0]) })
            .to_string()
            .as_bytes(),
    );
    let forms = needles(VALUES[0]);
    assert!(forms.iter().any(|form| header.contains(form)));
    for value in VALUES {
        for needle in needles(value) {
            let found = said
                .iter()
                .find_map(|text| Some((text, text.find(&needle)?)));
            if let Some((text, at)) = found {
                let before = text.get(at.saturating_sub(200)..at).unwrap_or_default();
                panic!("{value} is in: {before}");
            }
        }
    }
}
