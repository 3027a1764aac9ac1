//! The daemon's log in the systemd journal, with a socket of the test's own in the journal's place.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use husk_tests::wait::DEADLINE;
use husk_tests::{Node, NodeOptions, cri, settings, wait_for};

/// The fields of one entry.
type Entry = Vec<(String, String)>;

/// Takes an entry apart: `NAME=value`, or `NAME`, the value's length in eight bytes and the value
/// (systemd's `JOURNAL_NATIVE_PROTOCOL`).
fn parse(mut rest: &[u8]) -> Option<Entry> {
    let mut fields = Entry::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.push((text(&line[..equals]), text(&line[equals + 1..])));
            rest = after;
            continue;
        }
        let (length, after) = after.split_at_checked(8)?;
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (value, after) = after.split_at_checked(length)?;
        fields.push((text(line), text(value)));
        rest = after.strip_prefix(b"\n")?;
    }
    Some(fields)
}

/// Takes what is sent to the journal, as long as it lives.
struct Journal {
    entries: Arc<Mutex<Vec<Entry>>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Journal {
    /// A thread reads, because the daemon waits where nobody does.
    fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (entries, over) = (
            Arc::<Mutex<Vec<Entry>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (to, ended) = (entries.clone(), over.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while !ended.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        let entry = parse(&buffer[..length]);
                        to.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend(entry);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self {
            entries,
            over,
            reader: Some(reader),
        })
    }

    /// Whether there is an entry that has all of these fields; a field without a name may have any.
    fn has(&self, wanted: &[(&str, &str)]) -> Option<()> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |entry: &Entry| {
            wanted.iter().all(|(name, value)| {
                let mut fields = entry.iter();
                fields.any(|(n, v)| (name.is_empty() || n == name) && v.contains(value))
            })
        };
        entries.iter().any(fits).then_some(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

#[tokio::test]
async fn entries_have_the_programs_name_a_priority_and_the_requests_id() -> Result<()> {
    if settings::skips("it needs a node of the harness's own") {
        return Ok(());
    }
    let place = tempfile::tempdir()?;
    let journal = Journal::listen(&place.path().join("socket"))?;
    let prepare = format!(
        "mount -t tmpfs husk-test /run && mkdir -p /run/systemd/journal && mount --bind {} /run/systemd/journal",
        place.path().display()
    );
    let configuration = "[log]\nformat = \"journald\"\n".to_owned();
    let node = Node::start(NodeOptions {
        configuration,
        prepare,
        ..Default::default()
    })
    .await?;
    let serving = [
        ("SYSLOG_IDENTIFIER", "husk"),
        ("MESSAGE", "serving the CRI"),
        ("PRIORITY", "5"),
    ];
    wait_for("an entry in the journal", DEADLINE, async || {
        journal.has(&serving)
    })
    .await?;

    let mut request = tonic::Request::new(cri::ContainerStatusRequest {
        container_id: "nowhere".to_owned(),
        verbose: false,
    });
    request
        .metadata_mut()
        .insert("x-request-id", "journal-e2e".parse()?);
    let refused = node.client().await?.runtime.container_status(request).await;
    assert!(refused.is_err());
    let entry = [
        ("PRIORITY", "4"),
        ("MESSAGE", "nowhere"),
        ("", "ContainerStatus"),
        ("", "journal-e2e"),
    ];
    wait_for("the refusal in the journal", DEADLINE, async || {
        journal.has(&entry)
    })
    .await?;
    assert!(
        !node.log_tail(100).contains("nowhere"),
        "it is on standard error as well"
    );
    Ok(())
}
