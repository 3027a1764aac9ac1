//! The HTTP server behind the CRI's Exec, Attach and PortForward; so far its SPDY codec.

pub mod spdy;
