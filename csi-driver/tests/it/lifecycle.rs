//! What kubelet asks in a volume's life, each question once and twice.

use std::path::PathBuf;

use forebay_wire::csi::registration::InfoRequest;
use forebay_wire::csi::registration::registration_client::RegistrationClient;
use forebay_wire::csi::volume_usage::Unit;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use super::machine::{Machine, inline};
use super::reader::assert_user_reads;
use super::stand_in::{FILE, FILE_BYTES, IMAGENET, LAION};

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_share_a_session_that_ends_with_the_last() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let (one, two) = (machine.target("one"), machine.target("two"));
    for _ in 0..2 {
        kubelet.publish(IMAGENET, &one).await.unwrap();
        kubelet.publish(IMAGENET, &two).await.unwrap();
    }
    assert_eq!(machine.mounts().len(), 3, "the session, two pods: {:?}", machine.mounts());
    assert!(machine.mounts().iter().all(|row| row.is_read_only));
    assert_user_reads(&one, IMAGENET);
    assert_user_reads(&two, IMAGENET);
    let written = std::fs::write(one.join("new"), "x").unwrap_err();
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    for _ in 0..2 {
        kubelet.unpublish(IMAGENET, &one).await.unwrap();
        assert!(!one.exists());
    }
    assert_user_reads(&two, IMAGENET);
    for _ in 0..2 {
        kubelet.unpublish(IMAGENET, &two).await.unwrap();
    }
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_volumes_of_two_data_sets_have_a_session_each() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let (one, two) = (machine.target("one"), machine.target("two"));
    for _ in 0..2 {
        kubelet.publish_inline("csi-1", &one, inline(&[("dataset", "imagenet")])).await.unwrap();
        kubelet.publish_inline("csi-2", &two, inline(&[("dataset", "laion")])).await.unwrap();
    }
    assert_user_reads(&one, IMAGENET);
    assert_user_reads(&two, LAION);
    kubelet.unpublish("csi-1", &one).await.unwrap();
    kubelet.unpublish("csi-2", &two).await.unwrap();
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_tell_bytes_inodes_and_the_condition() {
    let mut machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    kubelet.publish_inline("csi-1", &target, inline(&[("dataset", "imagenet")])).await.unwrap();
    let stats = kubelet.stats("csi-1", &target).await.unwrap();
    let usage: Vec<_> = stats.usage.iter().map(|usage| (usage.unit(), usage.total)).collect();
    assert_eq!(usage, [(Unit::Bytes, FILE_BYTES as i64), (Unit::Inodes, 1)]);
    assert_eq!(stats.volume_condition.map(|condition| condition.abnormal), Some(false));

    machine.signal_node(rustix::process::Signal::STOP);
    let mut told = String::new();
    for _ in 0..20 {
        told = kubelet.stats("csi-1", &target).await.unwrap().volume_condition.unwrap().message;
        if told.contains("doesn't answer: delete its pod") {
            break;
        }
    }
    assert!(told.contains("doesn't answer: delete its pod"), "{told}");
    machine.signal_node(rustix::process::Signal::CONT);
    machine.kill_node();
    let mut stats = kubelet.stats("csi-1", &target).await.unwrap();
    for _ in 0..1000 {
        if stats.volume_condition.as_ref().is_some_and(|condition| condition.message.contains("reads wait")) {
            break;
        }
        stats = kubelet.stats("csi-1", &target).await.unwrap();
    }
    let condition = stats.volume_condition.unwrap();
    assert!(condition.abnormal && condition.message.contains("reads wait"), "{condition:?}");
    assert_eq!(stats.usage.len(), 2, "what was told last");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_is_told_where_the_driver_answers() {
    let machine = Machine::new();
    let path: PathBuf = machine.kubelet().join("plugins_registry/kubelet@csi.forebay.dev-reg.sock");
    super::machine::until("the registration socket", || path.exists());
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://csi.invalid").connect_with_connector(connector).await.unwrap();
    let info = RegistrationClient::new(channel).get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.forebay.dev"));
    assert_eq!(PathBuf::from(info.endpoint), machine.endpoint());
    assert_eq!(info.supported_versions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subpath_bind_outlives_its_target_and_keeps_the_session() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    kubelet.publish_inline("csi-1", &target, inline(&[("dataset", "imagenet")])).await.unwrap();
    // As kubelet binds a file or folder of a volume for one container.
    let subpath = machine.kubelet().join("pods/one/volume-subpaths");
    std::fs::write(&subpath, "").unwrap();
    rustix::mount::mount_bind(target.join(FILE), &subpath).unwrap();
    kubelet.unpublish("csi-1", &target).await.unwrap();
    assert_eq!(std::fs::read(&subpath).unwrap().len(), FILE_BYTES, "still served");
    // A child that another test starts has our descriptors for a moment.
    super::machine::until("unmounted", || rustix::mount::unmount(&subpath, rustix::mount::UnmountFlags::empty()).is_ok());
    kubelet.unpublish("csi-1", &target).await.unwrap();
    super::machine::until("the sweep finds it", || machine.mounts().is_empty());
}
