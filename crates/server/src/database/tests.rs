//! Tests of the database against a real file.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo_ids::{DiskBytes, Labels, MemoryMib, OrganisationId, Region, SandboxId, UnixMillis};
use tombolo_lifecycle::{Lifetime, LifetimeKind, SandboxPlan, StopReason};

use super::*;

const NOW: UnixMillis = UnixMillis(1_000_000);

struct Fixture {
    database: Database,
    organisation: OrganisationId,
    directory: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join("server.db"))
        .await
        .unwrap();
    let id = OrganisationId::random().unwrap();
    let slug = "default".parse().unwrap();
    let organisation = database.ensure_organisation(&id, &slug, NOW).await.unwrap();
    Fixture {
        database,
        organisation,
        directory,
    }
}

fn plan() -> SandboxPlan {
    let labels = BTreeMap::from([("job".to_owned(), "t".to_owned())]);
    SandboxPlan {
        memory: MemoryMib(1280),
        disk: DiskBytes(10),
        lifetime: Lifetime {
            kind: LifetimeKind::Duration,
            deadline: NOW.plus(Duration::from_secs(5)),
            latest: NOW.plus(Duration::from_secs(50)),
        },
        labels: Labels::try_from(labels).unwrap(),
        env: BTreeMap::new(),
        region: Region::DEFAULT,
    }
}

async fn add(fixture: &Fixture) -> SandboxId {
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    let record = NewRecord {
        id: &id,
        organisation: &fixture.organisation,
        plan: &plan(),
        network: None,
        created_at: NOW,
    };
    fixture.database.add_sandbox(&record).await.unwrap();
    id
}

#[tokio::test]
async fn a_record_keeps_everything_through_a_restart() {
    let mut fixture = fixture().await;
    let id = add(&fixture).await;
    let memory = MemoryMib(1536);
    let database = &fixture.database;
    database
        .sandbox_is_running(&id, "kvm", memory)
        .await
        .unwrap();
    database
        .set_sandbox_deadline(&id, UnixMillis(9))
        .await
        .unwrap();
    database.close().await;
    fixture.database = Database::open(&fixture.directory.path().join("server.db"))
        .await
        .unwrap();
    let record = fixture.database.sandbox(&id).await.unwrap().unwrap();
    assert_eq!(record.organisation, fixture.organisation);
    assert_eq!(record.slug.as_str(), "default");
    assert_eq!(record.state, StoredState::Running);
    assert_eq!(record.memory, memory);
    assert_eq!(record.isolation.as_deref(), Some("kvm"));
    assert_eq!(record.labels["job"], "t");
    assert_eq!(
        record.lifetime,
        Lifetime {
            deadline: UnixMillis(9),
            ..plan().lifetime
        }
    );
    assert_eq!((record.stop_reason, record.stopped_at), (None, None));
}

#[tokio::test]
async fn only_unfinished_sandboxes_are_taken_up_again() {
    let fixture = fixture().await;
    let database = &fixture.database;
    let [creating, running, stopping, stopped] = [
        add(&fixture).await,
        add(&fixture).await,
        add(&fixture).await,
        add(&fixture).await,
    ];
    let memory = MemoryMib(1);
    database
        .sandbox_is_running(&running, "kvm", memory)
        .await
        .unwrap();
    database
        .sandbox_is_stopping(&stopping, StopReason::Killed)
        .await
        .unwrap();
    database
        .sandbox_has_stopped(&stopped, StopReason::Deadline, NOW)
        .await
        .unwrap();
    let mut left: Vec<_> = database
        .unfinished_sandboxes()
        .await
        .unwrap()
        .into_iter()
        .map(|record| (record.id, record.state, record.stop_reason))
        .collect();
    left.sort_by_key(|(id, ..)| id.clone());
    let mut expected = vec![
        (creating, StoredState::Creating, None),
        (running, StoredState::Running, None),
        (stopping, StoredState::Stopping, Some(StopReason::Killed)),
    ];
    expected.sort_by_key(|(id, ..)| id.clone());
    assert_eq!(left, expected);
    let record = database.sandbox(&stopped).await.unwrap().unwrap();
    assert_eq!(record.stop_reason, Some(StopReason::Deadline));
    assert_eq!(record.stopped_at, Some(NOW));
}

#[tokio::test]
async fn an_organisation_keeps_its_id() {
    let fixture = fixture().await;
    let other = OrganisationId::random().unwrap();
    let slug = "default".parse().unwrap();
    let again = fixture
        .database
        .ensure_organisation(&other, &slug, NOW)
        .await;
    assert_eq!(again.unwrap(), fixture.organisation);
}

#[tokio::test]
async fn usage_adds_up() {
    let fixture = fixture().await;
    let id = add(&fixture).await;
    let database = &fixture.database;
    assert_eq!(database.usage_totals(&id).await.unwrap(), None);
    for sequence in 1..=3 {
        let sample = UsageSample {
            taken_at: UnixMillis(NOW.0 + i64::try_from(sequence).unwrap()),
            cpu_nanos: sequence * 100,
            memory_mib_millis: 1000,
            memory_private_bytes: sequence,
            disk_allocated_bytes: u64::MAX,
            ingress: tombolo_ingress::Traffic {
                requests: sequence,
                request_bytes: sequence * 10,
                response_bytes: sequence * 20,
            },
        };
        database
            .add_usage(&id, &fixture.organisation, sequence, &sample)
            .await
            .unwrap();
    }
    let totals = database.usage_totals(&id).await.unwrap().unwrap();
    assert_eq!(totals.last_sequence, 3);
    assert_eq!(totals.latest.cpu_nanos, 300);
    assert_eq!(totals.latest.memory_mib_millis, 3000);
    assert_eq!(totals.latest.taken_at, UnixMillis(NOW.0 + 3));
    let twice = database
        .add_usage(&id, &fixture.organisation, 3, &totals.latest)
        .await;
    assert!(twice.is_err(), "a row was written twice");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.db");
    fs_err::write(&path, "not a database, and long enough to be read as one").unwrap();
    let error = Database::open(&path).await.unwrap_err();
    assert!(error.to_string().contains("server.db"), "{error}");
}
