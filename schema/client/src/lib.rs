//! Starts and drives pod-monitors.
//!
//! A pod-monitor is a small process that owns the containers of one pod: their processes, output,
//! logs and exit statuses. This crate is what a container runtime links to have such pods. Every
//! handle is `Send`; Cap'n Proto, which is not, stays on a thread of its own.
//!
//! # A pod from beginning to end
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use pod_monitor_client::schema::{
//!     ContainerConfig, EventKind, Namespaces, RuntimeConfig, StartConfig, Stdin, TraceContext,
//! };
//! use pod_monitor_client::{Monitor, Program, Rpc, Spawn};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // Once for the whole program.
//! let rpc = Rpc::start("my-runtime/1.0")?;
//! let program = Program::seal(Path::new("/usr/libexec/pod-monitor"))?;
//!
//! // A pod with a network of its own.
//! let config = StartConfig {
//!     id: "web-0".into(),
//!     run_directory: "/run/my-runtime/web-0".into(),
//!     runtime: RuntimeConfig {
//!         path: "/usr/bin/crun".into(),
//!         root: "/run/my-runtime/crun".into(),
//!         timeout: Duration::from_secs(60),
//!         ..RuntimeConfig::default()
//!     },
//!     namespaces: Namespaces { net: true, ..Namespaces::default() },
//!     ..StartConfig::default()
//! };
//! let (monitor, mut events) = Monitor::spawn(&rpc, &program, Spawn::new(config)).await?;
//!
//! // One container, from a directory with an OCI config.json.
//! let trace = TraceContext { request_id: "req-17".into(), ..TraceContext::default() };
//! let container = ContainerConfig {
//!     id: "nginx".into(),
//!     bundle: "/var/lib/my-runtime/bundles/nginx".into(),
//!     terminal: false,
//!     stdin: Stdin::None,
//!     log_path: Some("/var/log/my-runtime/nginx.log".into()),
//!     memory_events: true,
//! };
//! monitor.create(&trace, &container).await?;
//! monitor.start(&trace, "nginx").await?;
//!
//! while let Some(event) = events.recv().await {
//!     if let EventKind::Exited(exit) = event.kind {
//!         println!("{} ended: {:?}", event.container_id, exit.status);
//!         break;
//!     }
//! }
//! monitor.delete(&trace, "nginx", false).await?;
//! monitor.shutdown(&trace, false).await?;
//! monitor.ended().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Coming back
//!
//! A monitor and its containers outlive the program that started them. A program that comes back
//! calls [`Monitor::connect`] with the run directory, then [`Monitor::state`], which holds what
//! happened while nobody was connected. Of the [`Events`], it skips those whose sequence number is
//! not above the state's `last_event`.
//!
//! # When a monitor dies
//!
//! Who holds an [`Escrow`] of each container ([`Monitor::escrow`]) can start another monitor with a
//! [`Handover`] after the first was killed: the containers run on meanwhile, and their output waits
//! in its pipes. [`Monitor::upgrade`] replaces the program of a monitor that lives.
//!
//! # When things go wrong
//!
//! A call fails with a [`MonitorError`]. What the monitor refused is
//! [`MonitorError::Refused`] with a code; all that means "the monitor is gone" is
//! [`MonitorError::Disconnected`], for calls in flight too. [`Monitor::ended`] tells how its
//! process ended, and [`clear_run_directory`] removes what a killed one left.
//!
//! Calls have no time limit: an OCI runtime's is in the monitor's configuration, and how long a
//! caller wants to wait is the caller's to say, with `tokio::time::timeout` or by dropping the
//! future. The monitor carries the operation to its end all the same.
//!
//! # Tests without containers
//!
//! [`fake::Fake`] is a monitor that has no processes: the same protocol over the same sockets,
//! containers that are state only, and failures on demand.
//!
//! Deliberately absent: retries, policy, and the words of any particular runtime.

#![warn(missing_docs)]

mod checkpoint;
mod child;
mod connection;
mod error;
mod escrow;
mod events;
mod exec;
pub mod fake;
mod fd;
mod link;
mod monitor;
mod program;
mod remains;
mod remote;
mod rpc;
mod socket;
mod spawn;
mod streams;
mod upgrade;

pub use error::MonitorError;
pub use escrow::{Escrow, HandedOver, Handover};
pub use events::Events;
pub use exec::{Attachment, AttachmentEnd, Exec, Process};
pub use fd::inherited;
pub use monitor::Monitor;
pub use pod_monitor_schema as schema;
pub use program::Program;
pub use remains::clear_run_directory;
pub use rpc::Rpc;
pub use spawn::Spawn;
pub use streams::Streams;
