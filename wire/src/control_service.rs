//! The service that the operator calls on each cache node, generated from `proto/control.proto`.
#![expect(clippy::allow_attributes, reason = "generated")]

tonic::include_proto!("forebay.control.v1alpha1");
