//! The Container Runtime Interface, version v1 as of Kubernetes v1.37 (`k8s.io/cri-api` v0.37.2).
//!
//! `proto/cri.proto` holds the protocol's facts; this crate is what tonic and prost make of it.
//! Deliberately absent: any behaviour.

/// Messages, enums, clients and servers of the protobuf package `runtime.v1`.
#[expect(
    clippy::all,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
