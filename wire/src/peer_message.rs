//! What nodes of a cache say to each other, generated from `proto/peer.proto`. The frames around it are `cache-node/peer`'s.

tonic::include_proto!("forebay.peer.v1");
