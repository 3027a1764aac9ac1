//! Network counters, read inside a pod's network namespace.
//!
//! The calling thread goes into the namespace for good, so it must be one that ends right after. A
//! kept-open file of a namespace would be quicker, but keeps the namespace alive after its pod.

use std::fs::{self, File};
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::parse::{self, Interface};

/// The counters of a namespace; `None` when it is gone.
pub(super) fn counters(netns: &Path) -> Option<Vec<Interface>> {
    let namespace = File::open(netns).ok()?;
    setns(namespace, CloneFlags::CLONE_NEWNET).ok()?;
    let text = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    Some(parse::interfaces(&text))
}

/// The interface with the default route in the namespace that the thread is in.
pub(super) fn default_interface() -> Option<String> {
    let read = |name| fs::read_to_string(name).unwrap_or_default();
    let route = read("/proc/thread-self/net/route");
    parse::default_interface(&route, &read("/proc/thread-self/net/ipv6_route"))
}
