//! Turns the proto files into Rust, without the protoc program.

/// What `forebay-node report` prints as JSON and `kubectl forebay` reads. Nothing that travels towards a node: secrets do.
const REPORTED: [&str; 12] = [
    ".forebay.volume.v1alpha1.ReportReply",
    ".forebay.control.v1alpha1.SyncReply",
    ".forebay.control.v1alpha1.ObservedDataset",
    ".forebay.control.v1alpha1.Peer",
    ".forebay.node.v1alpha1.DatasetStatus",
    ".forebay.node.v1alpha1.ManifestStatus",
    ".forebay.node.v1alpha1.MountStatus",
    ".forebay.node.v1alpha1.NodeCoverage",
    ".forebay.node.v1alpha1.ListingStatus",
    ".forebay.node.v1alpha1.PreloadProgress",
    ".forebay.node.v1alpha1.FailedFile",
    ".forebay.node.v1alpha1.TierStatus",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    // Their messages of other services are the types of those modules; what this writes for those packages the next step replaces.
    let volume = protox::compile(["proto/volume.proto"], ["proto"])?;
    with_json()
        .extern_path(".forebay.control.v1alpha1", "crate::control_service")
        .extern_path(".forebay.node.v1alpha1", "crate::node_service")
        .compile_fds(volume)?;
    let control = protox::compile(["proto/control.proto"], ["proto"])?;
    with_json().extern_path(".forebay.node.v1alpha1", "crate::node_service").compile_fds(control)?;
    let mut kubelet = protox::compile(["proto/csi.proto", "proto/plugin_registration.proto"], ["proto"])?;
    // Their comments are prose of others, which rustdoc and clippy would read as ours.
    kubelet.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure().compile_fds(kubelet)?;
    let alone = protox::compile(["proto/node.proto", "proto/peer.proto"], ["proto"])?;
    with_json().compile_fds(alone)?;
    Ok(())
}

fn with_json() -> tonic_prost_build::Builder {
    let derive = "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"camelCase\", default)]";
    REPORTED.iter().fold(tonic_prost_build::configure(), |builder, message| builder.type_attribute(message, derive))
}
