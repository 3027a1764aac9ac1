//! Logs that the kubelet rotates and shows.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use husk_tests::kubelet::{Kubelet, container, full_name, pod, with};
use serde_json::json;

const LINES: usize = 40_000;

#[tokio::test]
async fn rotation_under_load_loses_no_line() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    // Less than what the files of one container may hold, slowly enough for several rotations.
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo \"$i 0123456789012345678901234567890123456789012345678901\"; \
         i=$((i+1)); [ $((i % 500)) != 0 ] || usleep 120000; done"
    );
    let spec = with(
        pod(json!([container("main", &script)])),
        json!({"restartPolicy": "Never"}),
    );
    kubelet.apply("rotated", &spec)?;
    kubelet
        .wait_pod("rotated", "succeeded", |it| it["phase"] == "Succeeded")
        .await?;
    let files = log_files(&kubelet, "rotated")?;
    let names: Vec<_> = files.keys().collect();
    assert!(files.len() >= 3, "rotated fewer than two times: {names:?}");
    let numbers: Vec<usize> = files
        .values()
        .flat_map(|text| text.lines())
        .map(|line| {
            let number = line.split(' ').nth(3).and_then(|word| word.parse().ok());
            number.with_context(|| format!("no number in {line:?}"))
        })
        .collect::<Result<_>>()?;
    let wrong = (0..LINES)
        .zip(&numbers)
        .find(|(expected, found)| expected != *found);
    assert!(
        wrong.is_none() && numbers.len() == LINES,
        "{} lines, the first wrong one (expected, found) {wrong:?}, in {names:?}",
        numbers.len()
    );
    kubelet.remove(&["rotated"]).await
}

/// The texts of the log files of a pod's only container, oldest first: the kubelet puts the time into their names,
/// and compresses all but the newest two.
fn log_files(kubelet: &Kubelet, pod: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let pods = kubelet.node.directory().join("pods");
    for entry in fs::read_dir(&pods)?.flatten() {
        if !entry
            .file_name()
            .to_string_lossy()
            .contains(&full_name(pod))
        {
            continue;
        }
        for file in fs::read_dir(entry.path().join("main"))?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            // The one that is written to has no time in its name and is the newest.
            let order = if name == "0.log" {
                "newest".to_owned()
            } else {
                name
            };
            files.insert(order, read(&file.path())?);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?;
    if path.extension().is_some_and(|it| it == "gz") {
        GzDecoder::new(file).read_to_string(&mut text)?;
    } else {
        file.read_to_string(&mut text)?;
    }
    Ok(text)
}

#[tokio::test]
async fn logs_are_shown_whole_in_part_and_while_they_grow() -> Result<()> {
    let kubelet = Kubelet::shared().await?;
    let script = "for i in 1 2 3 4; do echo line $i; done; echo error >&2; sleep 3; echo late";
    let spec = with(
        pod(json!([container("main", script)])),
        json!({"restartPolicy": "Never"}),
    );
    kubelet.apply("shown", &spec)?;
    kubelet.wait_log("shown", "main", "line 4").await?;
    let followed = kubelet.logs("shown", "main", "follow=true")?;
    assert_eq!(followed, "line 1\nline 2\nline 3\nline 4\nerror\nlate\n");
    assert_eq!(
        kubelet.logs("shown", "main", "tailLines=2")?,
        "error\nlate\n"
    );
    assert_eq!(kubelet.logs("shown", "main", "limitBytes=9")?, "line 1\nli");
    let stamped = kubelet.logs("shown", "main", "timestamps=true&tailLines=1")?;
    assert!(stamped.ends_with("Z late\n"), "{stamped}");
    kubelet.remove(&["shown"]).await
}
