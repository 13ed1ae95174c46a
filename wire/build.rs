//! Turns the proto files into Rust, without the protoc program.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    // Its messages of the node's service are the types of `node_service`; what this writes for that package the next step replaces.
    let control = protox::compile(["proto/control.proto"], ["proto"])?;
    tonic_prost_build::configure().extern_path(".forebay.node.v1alpha1", "crate::node_service").compile_fds(control)?;
    let mut kubelet = protox::compile(["proto/csi.proto", "proto/plugin_registration.proto"], ["proto"])?;
    // Their comments are prose of others, which rustdoc and clippy would read as ours.
    kubelet.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure().compile_fds(kubelet)?;
    let alone = protox::compile(["proto/node.proto", "proto/volume.proto", "proto/peer.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(alone)?;
    Ok(())
}
