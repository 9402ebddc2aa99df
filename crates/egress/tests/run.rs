//! The whole process: it starts, answers to its user alone, and shares its state with nobody.

#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test is a module of its own"
)]

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroU64},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use tombolo_egress::{AuditBounds, EgressConfig, EgressError, EgressListeners, RootFile, run};

fn config(directory: &Path) -> EgressConfig {
    EgressConfig {
        state_dir: directory.join("state"),
        hosts: BTreeMap::new(),
        private_networks: Vec::new(),
        root_files: Vec::new(),
        client_certificates: Vec::new(),
        audit: AuditBounds {
            file_bytes_max: NonZeroU64::MIN,
            files_kept: NonZeroU32::MIN,
        },
    }
}

fn listeners(directory: &Path) -> EgressListeners {
    let [control, descriptors] = ["egress.sock", "descriptors.sock"];
    EgressListeners::bind(&directory.join(control), &directory.join(descriptors), None)
        .expect("the sockets are free")
}

#[tokio::test]
async fn it_starts_hardened_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let (ready, is_ready) = oneshot::channel();
    let process = tokio::spawn(run(
        config(directory.path()),
        listeners(directory.path()),
        move || ready.send(()).unwrap(),
    ));
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
    // Where memory may be locked, all of it is.
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let field = |text: &str, name: &str, at: usize| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(at).unwrap().to_owned()
    };
    let is_unlimited = field(&limits, "Max locked memory", 3) == "unlimited";
    let locked_kib: u64 = field(&status, "VmLck:", 1).parse().unwrap();
    assert_eq!(locked_kib > 0, is_unlimited, "{status}");
    let second = run(config(directory.path()), listeners(directory.path()), || {}).await;
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
    let ended = run(wrong, listeners(directory.path()), || {}).await;
    assert!(matches!(ended, Err(EgressError::Operator(_))), "{ended:?}");
}

#[tokio::test]
async fn it_does_not_start_with_authorities_it_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.pem");
    assert!(RootFile::read(&path).is_err());
    for text in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        fs_err::write(&path, text).unwrap();
        let mut wrong = config(directory.path());
        wrong.root_files = vec![RootFile::read(&path).unwrap()];
        let ended = run(wrong, listeners(directory.path()), || {}).await;
        assert!(
            matches!(ended, Err(EgressError::Roots(_))),
            "{text:?}: {ended:?}"
        );
    }
}
