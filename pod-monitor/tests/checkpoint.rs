//! A container that goes on from a checkpoint, with a program that stands in for an OCI runtime with CRIU: it runs the
//! container anew.

#[cfg(test)]
mod common;

use std::fs;

use common::*;
use pod_monitor_client::MonitorError;
use pod_monitor_client::schema::{ErrorCode, EventKind, ExitStatus};

const STAND_IN: &str = r#"
for word; do [ "$word" = restore ] && mine=1; done
[ "$mine" ] || exec runc "$@"
while [ "$1" != restore ]; do globals="$globals $1"; shift; done
while [ $# -gt 1 ]; do
    case "$1" in
    --bundle) bundle=$2; shift ;;
    --pid-file) pid=$2; shift ;;
    --image-path) images=$2; shift ;;
    esac
    shift
done
if [ -e "$images/broken" ]; then
    echo '{"level":"error","msg":"no such luck"}' >&3
    exit 1
fi
runc $globals create --bundle "$bundle" --pid-file "$pid" "$1" && exec runc $globals start "$1"
"#;

#[test]
fn a_restored_container_is_told_of_in_order_and_a_failed_one_leaves_nothing() {
    with_runtime("runc", async || {
        let mut place = Place::new("runc");
        place.fake_runtime(STAND_IN);
        let images = place.path("images");
        fs::create_dir(&images).unwrap();
        let mut pod = place.spawn().await.unwrap();
        let (trace, both) = (trace(), (&*images, &*images));
        let config = pod.container("c1", script("echo out; exit 3"));
        fs::write(images.join("broken"), "").unwrap();
        match pod.monitor.restore(&trace, &config, both).await {
            Err(MonitorError::Refused(error)) => {
                assert_eq!(error.code, ErrorCode::RuntimeFailed);
                assert!(error.detail.contains("no such luck"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pod.phase("c1").await, None);
        fs::remove_file(images.join("broken")).unwrap();
        let restored = pod.monitor.restore(&trace, &config, both).await.unwrap();
        let EventKind::Created(created) = pod.event().await.kind else {
            panic!("not told that it was made");
        };
        assert_eq!(created, restored);
        let EventKind::Started(started) = pod.event().await.kind else {
            panic!("not told that it runs");
        };
        assert_eq!(started.at, restored.at);
        let EventKind::Exited(exit) = pod.event().await.kind else {
            panic!("not told of its end");
        };
        assert_eq!(exit.status, ExitStatus::Code(3));
        assert_eq!(pod.log("c1"), ["stdout F out"]);
        pod.monitor.delete(&trace, "c1", false).await.unwrap();
        pod.close().await;
    });
}
