//! A real kubelet drives Husk, and its API shows what users would see. Its pods are files, because no API server is
//! here; what only an API server can ask, such as a resize, is tested over the CRI.
//!
//! Scenarios share one kubelet, except those that restart it, restart Husk or fill the node.

mod images;
mod lifecycle;
mod logs;
mod network;
mod node;
mod observed;
mod streams;
mod volumes;
