//! Rules of the CRI that are about no other suite's subject.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use husk_tests::client::expect_error;
use husk_tests::config::image_spec;
use husk_tests::{BUSYBOX, Node, Pod, container, cri};
use tonic::Code;

/// What a node must serve (KEP-2371), each without the `container_` before it.
const METRICS: &str = "blkio_device_usage_total cpu_system_seconds_total cpu_usage_seconds_total \
    cpu_user_seconds_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total \
    file_descriptors fs_reads_total fs_writes_total fs_reads_bytes_total fs_writes_bytes_total fs_usage_bytes \
    fs_limit_bytes fs_inodes_free fs_inodes_total last_seen memory_cache memory_failcnt memory_failures_total \
    memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes \
    memory_working_set_bytes memory_total_active_file_bytes memory_total_inactive_file_bytes oom_events_total \
    processes sockets spec_cpu_period spec_cpu_shares spec_cpu_quota spec_memory_limit_bytes \
    spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads threads_max \
    ulimits_soft hugetlb_usage_bytes hugetlb_max_usage_bytes pressure_cpu_stalled_seconds_total \
    pressure_cpu_waiting_seconds_total pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total \
    pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total network_receive_bytes_total \
    network_receive_errors_total network_receive_packets_total network_receive_packets_dropped_total \
    network_transmit_bytes_total network_transmit_errors_total network_transmit_packets_total \
    network_transmit_packets_dropped_total";

#[tokio::test]
async fn every_metric_that_a_node_must_serve_is_described() -> Result<()> {
    let node = Node::shared().await?;
    let mut runtime = node.client().await?.runtime;
    let request = cri::ListMetricDescriptorsRequest {};
    let answer = runtime.list_metric_descriptors(request).await?.into_inner();
    let described: BTreeSet<_> = answer.descriptors.into_iter().map(|it| it.name).collect();
    let asked = METRICS
        .split_whitespace()
        .map(|it| format!("container_{it}"));
    let missing: Vec<_> = asked.filter(|name| !described.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn the_status_of_a_pod_has_those_of_its_containers() -> Result<()> {
    let pod = Pod::on_host("with-statuses").await?;
    let id = pod.launch(container("main", "exec sleep 600")).await?;
    let whole = pod.client.verbose_pod_status(&pod.id).await?;
    let expected = pod.client.container_status(&id).await?;
    assert_eq!(whole.containers_statuses, [expected]);
    pod.delete().await
}

#[tokio::test]
async fn image_fs_info_fills_image_and_container_filesystems() -> Result<()> {
    let node = Node::shared().await?;
    let mut images = node.client().await?.images;
    let request = cri::ImageFsInfoRequest {};
    let answer = images.image_fs_info(request).await?.into_inner();
    for (name, found) in [
        ("image", answer.image_filesystems),
        ("container", answer.container_filesystems),
    ] {
        let usage = found.first().context(name)?;
        let place = usage.fs_id.clone().unwrap_or_default().mountpoint;
        assert!(place.starts_with('/'), "{name}: {usage:?}");
        assert!(usage.timestamp > 0, "{name}: {usage:?}");
        assert!(
            usage.used_bytes.is_some() && usage.inodes_used.is_some(),
            "{name}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_handler_is_refused_for_a_pod_and_for_an_image() -> Result<()> {
    let node = Node::shared().await?;
    let client = node.client().await?;
    let refused = client
        .run_pod_with(&node.host_pod("unhandled"), "no-such-handler")
        .await;
    let codes = [Code::InvalidArgument, Code::NotFound, Code::Unknown];
    expect_error(refused, &codes, &["no-such-handler"])?;
    let mut image = image_spec(BUSYBOX);
    "no-such-handler".clone_into(&mut image.runtime_handler);
    let request = cri::PullImageRequest {
        image: Some(image),
        ..Default::default()
    };
    let refused = client.images.clone().pull_image(request).await;
    expect_error(refused, &codes, &["no-such-handler"])
}

#[tokio::test]
async fn the_driver_of_cgroups_is_named_and_stays() -> Result<()> {
    let pod = Pod::on_host("driver").await?;
    let driver = async || {
        let mut runtime = pod.client.runtime.clone();
        let answer = runtime.runtime_config(cri::RuntimeConfigRequest {}).await?;
        anyhow::Ok(answer.into_inner().linux.context("linux")?.cgroup_driver())
    };
    let before = driver().await?;
    pod.launch(container("main", "exec sleep 600")).await?;
    assert_eq!(driver().await?, before);
    pod.delete().await
}
