//! The service that the CSI driver calls on the cache node of its machine, generated from `proto/volume.proto`.
#![expect(clippy::allow_attributes, reason = "generated")]

tonic::include_proto!("forebay.volume.v1alpha1");
