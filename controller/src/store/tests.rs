use super::database::META;
use super::*;
use crate::store::v1::{ContainerState, Exited, Running};

fn pod(id: &str) -> PodRecord {
    PodRecord {
        id: id.into(),
        ready: true,
        addresses: vec!["10.0.0.2".into(), "fd00::2".into()],
        ..PodRecord::default()
    }
}

fn container(id: &str, state: ContainerState) -> ContainerRecord {
    ContainerRecord {
        id: id.into(),
        pod_id: "p".into(),
        state: Some(state),
        ..ContainerRecord::default()
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let running = container(
        "c1",
        ContainerState::Running(Running {
            pid: 7,
            started_at: 5,
        }),
    );
    {
        let (store, loaded) = Store::open(&path).unwrap();
        assert!(loaded.pods.is_empty());
        store.put_pod(&pod("a")).await.unwrap();
        store.put_pod(&pod("b")).await.unwrap();
        store.put_container(&running).await.unwrap();
        store.delete_pod("b").await.unwrap();
        store.delete_pod("never there").await.unwrap();
        store.put_boot_id("boot").await.unwrap();
    }
    let (_store, loaded) = reopen(&path);
    assert_eq!(loaded.pods, [pod("a")]);
    assert_eq!(loaded.containers, [running]);
    assert_eq!(loaded.boot_id.as_deref(), Some("boot"));
}

/// The writing thread lets go of the file a moment after its last handle is dropped.
fn reopen(path: &Path) -> (Store, Loaded) {
    loop {
        match Store::open(path) {
            Err(StoreError::InUse(_)) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_second_controller_is_refused_with_the_file_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let _first = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("state.redb"), "{error}");
}

#[test]
fn a_newer_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(META)
        .unwrap()
        .insert("version", "9")
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::Version { ref found, .. } if found == "9"),
        "{error}"
    );
}

#[test]
fn records_of_this_version_keep_their_bytes() {
    // Bytes that outlive a process: a changed tag would lose pods at the next upgrade.
    let record = container(
        "c",
        ContainerState::Exited(Exited {
            started_at: 1,
            finished_at: 2,
            code: 137,
            reason: "OOMKilled".into(),
            message: String::new(),
        }),
    );
    let golden = "0a016312017 01a005a12080110021889012209".replace(' ', "");
    let bytes = hex::encode(record.encode_to_vec());
    assert!(bytes.starts_with(&golden), "{bytes}");
    let back = ContainerRecord::decode(record.encode_to_vec().as_slice()).unwrap();
    assert_eq!(back, record);
}

#[test]
fn a_record_without_a_state_counts_as_ended() {
    let record = ContainerRecord::default();
    assert!(record.is_exited());
    assert!(matches!(
        record.state(),
        ContainerState::Exited(Exited { code: 255, .. })
    ));
}

#[test]
fn a_writer_that_failed_opens_its_database_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("away/state.redb");
    let mut writer = Writer {
        database: None,
        path: path.clone(),
        fault: Fault::default(),
    };
    let change = Change::PutMeta("boot_id", "boot".into());
    let error = writer.write([&change].into_iter()).unwrap_err();
    let kind = Some(io::ErrorKind::NotFound);
    assert!(
        matches!(error, StoreError::Database { kind: k, .. } if k == kind),
        "{error:?}"
    );
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    writer.write([&change].into_iter()).unwrap();
    assert!(writer.database.is_some());
}

#[tokio::test]
async fn a_fault_is_told_of_until_a_write_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&directory.path().join("state.redb")).unwrap();
    assert!(store.fault().is_none());
    let fault = StoreError::InUse("somewhere".into());
    *store.fault.write().unwrap() = Some(fault);
    assert!(store.fault().is_some(), "asking has something be written");
    store.put_pod(&pod("a")).await.unwrap();
    assert!(store.fault().is_none());
}
