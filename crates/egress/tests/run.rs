//! The whole process: it starts, answers to its user alone, and shares its state with nobody.

#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a module of its own"
)]

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tokio::{sync::oneshot, time::timeout};
use tombolo_egress::{EgressConfig, EgressError, run};

fn config(directory: &Path) -> EgressConfig {
    EgressConfig {
        state_dir: directory.join("state"),
        socket: directory.join("egress.sock"),
        descriptor_socket: directory.join("descriptors.sock"),
        hosts: BTreeMap::new(),
        private_networks: Vec::new(),
        root_files: Vec::new(),
    }
}

#[tokio::test]
async fn it_starts_hardened_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let (ready, is_ready) = oneshot::channel();
    let process = tokio::spawn(run(config(directory.path()), move || {
        ready.send(()).unwrap();
    }));
    timeout(Duration::from_secs(10), is_ready)
        .await
        .expect("not ready in time")
        .expect("it ended before it was ready");
    for (name, mode) in [
        ("egress.sock", 0o600),
        ("descriptors.sock", 0o600),
        ("state", 0o700),
        ("state/opening.key", 0o600),
        ("state/storage.key", 0o600),
    ] {
        let found = fs_err::metadata(directory.path().join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
    }
    let limits = fs_err::read_to_string("/proc/self/limits").unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let second = run(config(directory.path()), || {}).await;
    assert!(
        matches!(second, Err(EgressError::Busy { .. })),
        "{second:?}"
    );
    process.abort();
}

#[tokio::test]
async fn it_does_not_start_with_tables_it_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = config(directory.path());
    wrong.private_networks = vec!["everything".to_owned()];
    let ended = run(wrong, || {}).await;
    assert!(matches!(ended, Err(EgressError::Operator(_))), "{ended:?}");
}
