//! What is refused: with which code, and which sentence reaches the pod's events.

use forebay_wire::csi;
use tonic::Code;

use super::machine::{Machine, capability, context, inline, text};
use super::reader::assert_user_reads;
use super::stand_in::{BROKEN, IMAGENET, LAION};

fn check(result: Result<(), tonic::Status>, code: Code, part: &str) {
    let status = result.expect_err(part);
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(part), "{status:?}\ndoesn't say: {part}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_come_later_is_unavailable() {
    let mut machine = Machine::without_node();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    check(kubelet.publish(IMAGENET, &target).await, Code::Unavailable, "no cache node runs on this node yet");
    machine.start_node();
    let unknown = inline(&[("dataset", "unborn")]);
    check(
        kubelet.publish_inline("csi-1", &target, unknown).await,
        Code::Unavailable,
        "data set vision/unborn isn't known on this node yet",
    );
    kubelet.publish(IMAGENET, &target).await.unwrap();
    kubelet.unpublish(IMAGENET, &target).await.unwrap();
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_cannot_serve_says_why_and_leaves_nothing() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    let broken = kubelet.publish(BROKEN, &target).await;
    check(broken, Code::FailedPrecondition, "the bucket doesn't exist: create it");
    let never = kubelet.publish_inline("csi-1", &target, inline(&[("dataset", "never")])).await;
    check(never, Code::InvalidArgument, "which this cluster doesn't allow");
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_can_be_is_invalid() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let target = machine.target("one");
    for (attributes, part) in [
        (inline(&[("dataset", "imagenet"), ("namespace", "finance")]), "its pod's namespace only"),
        (inline(&[("dataset", "../finance/ledger")]), "no name of a Dataset"),
        (inline(&[("dataset", "/etc")]), "no name of a Dataset"),
        (inline(&[]), "write `dataset: NAME`"),
        (inline(&[("dataset", "imagenet"), ("source", "s3://other/")]), "remove `source`"),
    ] {
        check(kubelet.publish_inline("csi-1", &target, attributes).await, Code::InvalidArgument, part);
    }
    check(kubelet.publish("../../etc", &target).await, Code::InvalidArgument, "no UID of a Dataset");
    check(kubelet.publish("", &target).await, Code::InvalidArgument, "volume_id");
    let staged = kubelet.0.node_stage_volume(csi::NodeStageVolumeRequest::default()).await.map(drop);
    check(staged, Code::Unimplemented, "nothing is staged");
    let request = csi::NodePublishVolumeRequest {
        volume_id: IMAGENET.to_owned(),
        target_path: text(&target),
        volume_context: context(&[]),
        ..Default::default()
    };
    let without = kubelet.0.node_publish_volume(request.clone()).await.map(drop);
    check(without, Code::InvalidArgument, "volume_capability is missing");
    let block = csi::volume_capability::AccessType::Block(csi::volume_capability::BlockVolume {});
    let block = Some(csi::VolumeCapability { access_type: Some(block), ..capability() });
    let as_block = kubelet.0.node_publish_volume(csi::NodePublishVolumeRequest { volume_capability: block, ..request }).await.map(drop);
    check(as_block, Code::InvalidArgument, "volumeMode: Filesystem");
    machine.assert_nothing_is_left();
    assert!(!target.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_leads_nowhere_else() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let outside = machine.nodes().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let escape = machine.kubelet().join("pods/escape");
    std::os::unix::fs::symlink(&outside, &escape).unwrap();
    let ours = machine.kubelet().join("plugins/csi.forebay.dev/state/sessions/x");
    let attributes = || inline(&[("dataset", "imagenet")]);
    for (path, part) in [
        (outside.clone(), "below kubelet's folder"),
        ("relative/path".into(), "below kubelet's folder"),
        (machine.kubelet(), "below kubelet's folder"),
        (machine.kubelet().join("pods/../../run/outside"), "has a `..`"),
        (escape.join("mount"), "symbolic link"),
        (ours, "driver's own folder"),
    ] {
        check(kubelet.publish_inline("csi-1", &path, attributes()).await, Code::InvalidArgument, part);
        if part != "symbolic link" {
            check(kubelet.unpublish("csi-1", &path).await, Code::InvalidArgument, part);
        }
    }
    // The last part itself is a link.
    assert!(kubelet.publish_inline("csi-1", &escape, attributes()).await.is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_mounted_is_left_alone() {
    let machine = Machine::new();
    let mut kubelet = machine.client().await;
    let (taken, used) = (machine.target("one"), machine.target("two"));
    std::fs::create_dir(&taken).unwrap();
    rustix::mount::mount("tmpfs", &taken, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let published = kubelet.publish_inline("csi-1", &taken, inline(&[("dataset", "imagenet")])).await;
    let unpublished = kubelet.unpublish("csi-1", &taken).await;
    rustix::mount::unmount(&taken, rustix::mount::UnmountFlags::empty()).unwrap();
    check(published, Code::Internal, "something that isn't Forebay's");
    check(unpublished, Code::Internal, "something that isn't Forebay's");
    assert_eq!(kubelet.stats("csi-1", &taken).await.unwrap_err().code(), Code::NotFound);

    kubelet.publish_inline("csi-2", &used, inline(&[("dataset", "imagenet")])).await.unwrap();
    let other = kubelet.publish_inline("csi-2", &used, inline(&[("dataset", "laion")])).await;
    check(other, Code::AlreadyExists, "another data set");
    assert_user_reads(&used, IMAGENET);
    let open = std::fs::File::open(used.join(super::stand_in::FILE)).unwrap();
    check(kubelet.unpublish("csi-2", &used).await, Code::FailedPrecondition, "in use by pid");
    drop(open);
    kubelet.unpublish("csi-2", &used).await.unwrap();
    let _ = LAION;
    machine.assert_nothing_is_left();
}
