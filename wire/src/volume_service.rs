//! The service that the CSI driver and `forebay-node report` call on the cache node of their machine, generated from `proto/volume.proto`.
#![expect(clippy::allow_attributes, reason = "generated")]

tonic::include_proto!("forebay.volume.v1alpha1");
