//! What whoever comes back to a pod can rely on: nothing is lost, and nothing is out of reach.

#[cfg(test)]
mod common;

use std::fs;
use std::time::Duration;

use common::*;
use pod_monitor_client::Monitor;

#[test]
fn a_delete_waits_for_the_create_that_is_under_way() {
    alone(async || {
        let mut place = Place::new("runc");
        let (begun, go) = (place.path("begun"), place.path("go"));
        place.fake_runtime(&format!(
            "case \"$*\" in *' create '*) : > {}
            while [ ! -e {} ]; do sleep 0.01; done;; esac
            exec runc \"$@\"",
            begun.display(),
            go.display()
        ));
        let pod = place.spawn().await.unwrap();
        let config = pod.container("c1", script("exec sleep 1000"));
        let trace = trace();
        tokio::select! {
            made = pod.monitor.create(&trace, &config) => panic!("{made:?}"),
            () = eventually("it is being made", || begun.exists().then_some(())) => {}
        }
        let Pod {
            rpc,
            monitor,
            events,
            place,
        } = pod;
        drop((monitor, events));
        let (monitor, events) = Monitor::connect(&rpc, &place.config.run_directory)
            .await
            .unwrap();
        let pod = Pod {
            rpc,
            monitor,
            events,
            place,
        };
        // Not there yet; who does not find it deletes what it may once have asked for.
        assert_eq!(pod.phase("c1").await, None);
        {
            let mut delete = std::pin::pin!(pod.monitor.delete(&trace, "c1", true));
            let early = tokio::time::timeout(Duration::from_millis(100), &mut delete).await;
            assert!(early.is_err(), "{early:?}");
            fs::write(&go, "").unwrap();
            delete.await.unwrap();
        }
        assert_eq!(pod.phase("c1").await, None);
        assert_eq!(count(pod.place.path("oci")), 0, "the runtime still has it");
        pod.close().await;
    });
}
