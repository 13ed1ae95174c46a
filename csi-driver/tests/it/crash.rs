//! Driver and cache node die, alone and together, while pods read.

use std::time::{Duration, Instant};

use super::machine::{Machine, inline, until};
use super::reader::{Reader, assert_user_reads};
use super::stand_in::{IMAGENET, LAION};

/// More than the pause between two tries, and far less than what a test may take.
const STALL_MAX: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_followed_by_the_next() {
    let mut machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    kubelet.publish_inline("csi-1", &target, inline(&[("dataset", "imagenet")])).await.unwrap();
    let reader = Reader::start(&target, IMAGENET);
    for _ in 0..3 {
        machine.kill_node();
        machine.start_node();
        reader.reads_on();
    }
    assert!(reader.stop() < STALL_MAX);
    kubelet.unpublish("csi-1", &target).await.unwrap();
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_dies_gets_its_mounts_back() {
    let mut machine = Machine::new();
    let (one, two) = (machine.target("one"), machine.target("two"));
    let mut kubelet = machine.client().await;
    kubelet.publish_inline("csi-1", &one, inline(&[("dataset", "imagenet")])).await.unwrap();
    kubelet.publish_inline("csi-2", &two, inline(&[("dataset", "laion")])).await.unwrap();
    let readers = [Reader::start(&one, IMAGENET), Reader::start(&two, LAION)];
    for round in 0..4 {
        if round % 2 == 0 {
            machine.kill_driver()
        } else {
            machine.stop_driver()
        }
        readers.iter().for_each(Reader::reads_on);
        machine.start_driver();
        // Both wait until their mount is given back, and are bound to the same session. Then the new driver has the devices: a node may die again.
        let (third, fourth) = (machine.target("three"), machine.target("four"));
        let mut kubelet = machine.client().await;
        kubelet.publish_inline("csi-3", &third, inline(&[("dataset", "imagenet")])).await.unwrap();
        kubelet.publish_inline("csi-4", &fourth, inline(&[("dataset", "laion")])).await.unwrap();
        let connections: std::collections::HashSet<u32> = machine.mounts().iter().map(|row| row.connection.0).collect();
        assert_eq!(connections.len(), 2, "{:?}", machine.mounts());
        machine.kill_node();
        machine.start_node();
        assert_user_reads(&third, IMAGENET);
        kubelet.unpublish("csi-3", &third).await.unwrap();
        kubelet.unpublish("csi-4", &fourth).await.unwrap();
        readers.iter().for_each(Reader::reads_on);
    }
    for reader in readers {
        assert!(reader.stop() < STALL_MAX);
    }
    let mut kubelet = machine.client().await;
    kubelet.unpublish("csi-1", &one).await.unwrap();
    kubelet.unpublish("csi-2", &two).await.unwrap();
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_at_once_fail_reads_and_new_pods_mount_soon() {
    let mut machine = Machine::new();
    let mut kubelet = machine.client().await;
    let (old, new) = (machine.target("old"), machine.target("new"));
    kubelet.publish(IMAGENET, &old).await.unwrap();
    let reader = Reader::start(&old, IMAGENET);
    machine.kill_node();
    machine.kill_driver();
    // ECONNABORTED for the read that waited, ENOTCONN for the next; the reader checked that no other bytes came before.
    assert!(matches!(reader.failure().raw_os_error(), Some(103 | 107)));
    let begun = Instant::now();
    machine.start_driver();
    machine.start_node();
    let mut kubelet = machine.client().await;
    kubelet.publish(IMAGENET, &new).await.unwrap();
    assert_user_reads(&new, IMAGENET);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let lost = kubelet.stats(IMAGENET, &old).await.unwrap().volume_condition.unwrap();
    assert!(lost.abnormal && lost.message.contains("start the pod again"), "{lost:?}");
    for target in [&old, &new] {
        kubelet.unpublish(IMAGENET, target).await.unwrap();
    }
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_nobody_gives_back_fails_its_reads() {
    let mut machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    kubelet.publish_inline("csi-1", &target, inline(&[("dataset", "imagenet")])).await.unwrap();
    let reader = Reader::start(&target, IMAGENET);
    // It keeps the device open, so the kernel would wait for it for ever.
    machine.signal_node(rustix::process::Signal::STOP);
    machine.kill_driver();
    machine.start_driver();
    assert_eq!(reader.failure().raw_os_error(), Some(103), "ECONNABORTED");
    let mut kubelet = machine.client().await;
    kubelet.unpublish("csi-1", &target).await.unwrap();
    until("the dead session is buried", || machine.mounts().is_empty());
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_pod_may_go_while_no_driver_runs() {
    let mut machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    kubelet.publish_inline("csi-1", &target, inline(&[("dataset", "imagenet")])).await.unwrap();
    machine.kill_driver();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    machine.start_driver();
    until("the session ends", || machine.mounts().is_empty());
    let mut kubelet = machine.client().await;
    kubelet.unpublish("csi-1", &target).await.unwrap();
    until("its folders go", || std::fs::read_dir(machine.nodes().join("csi")).unwrap().count() == 0);
    machine.assert_nothing_is_left();
}
