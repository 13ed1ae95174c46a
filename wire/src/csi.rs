//! What kubelet asks a CSI driver, generated from `proto/csi.proto`, and how the driver makes itself known to it.
#![expect(clippy::allow_attributes, reason = "generated")]

tonic::include_proto!("csi.v1");

pub mod registration {
    //! From `proto/plugin_registration.proto`.
    tonic::include_proto!("pluginregistration");
}
