//! The service that the command line asks over the node's Unix socket, generated from `proto/node.proto`.
#![expect(clippy::allow_attributes, reason = "generated")]

tonic::include_proto!("forebay.node.v1alpha1");
