//! The monitor of one pod: a small process of one thread that owns the pod's containers, their
//! output, their exits and the pod's namespaces, from the pod's start to its end.
//!
//! It is started with its configuration in a sealed memfd and two listening sockets, and driven
//! over the contract of `pod-monitor-schema` by a program that may go away and come back.
//!
//! Deliberately absent: threads, a configuration file, any knowledge of who drives it. What it is
//! told is all it knows.

mod adopted;
mod bounds;
mod cgroup;
mod config;
mod console;
mod container;
mod descent;
mod errors;
mod events;
mod exec;
mod fault;
mod frames;
mod log;
mod memory;
mod namespaces;
mod oom;
mod outcome;
mod pod;
mod reaper;
mod runtime;
mod say;
mod server;
mod state;
mod stdio;
mod streams;
#[expect(
    unsafe_code,
    reason = "the one module that calls the kernel without a safe wrapper"
)]
mod sys;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;

use pod_monitor_schema::Resume;
use tokio::net::UnixListener;
use tokio::task::{LocalSet, spawn_local};

use crate::bounds::Slots;
use crate::config::Checked;
use crate::pod::{Origin, Pod};
use crate::reaper::Reaper;
use crate::say::say;
use crate::sys::own::{self, Inherited};
use crate::sys::signal::ChildSignals;

/// Rounds of the scheduler after the last answer, in which it is written to its socket.
const LAST_ROUNDS: usize = 64;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let (inherited, mut place) = own::inherit()?;
    let resume = place.message().map(config::read_resume).transpose()?;
    let kept = own::keep(resume.as_ref().map_or_else(Vec::new, Resume::descriptors))?;
    place.clear()?;
    let mut oom_score = own::become_monitor()?;
    let config = config::read(&inherited.config)?;
    fault::work_below(&config.run_directory);
    fault::mark("monitor.begin");
    let namespaces = match &resume {
        Some(resume) => {
            oom_score = resume.oom_score.clone().or(oom_score);
            Ok(namespaces::resume(&config, resume))
        }
        // Forked children are made and awaited here, so this comes before the reaper.
        None => namespaces::set_up(&config),
    };
    let origin = Origin {
        oom_score,
        namespaces,
        place,
    };
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_io_events_per_tick(64)
        .build()?;
    let bounds = Checked::new(&config.limits);
    LocalSet::new().block_on(&tokio, async {
        let reaper = Rc::new(Reaper::default());
        spawn_local(Rc::clone(&reaper).run(ChildSignals::take_over()?));
        let pod = Rc::new(Pod::new(config, reaper, origin));
        if let Some(resume) = resume {
            // Before anything waits: whoever ended meanwhile is not reaped until then.
            pod.go_on(resume, kept);
            pod.look_for_cut_starts().await;
        }
        // Stays open, so that its number is never used for what is passed to programs.
        let Inherited {
            config: _config,
            calls,
            streams,
        } = inherited;
        let vault = Rc::clone(&pod.vault);
        let fetchers = Slots::new(bounds.connections);
        spawn_local(streams::serve(listener(streams)?, vault, fetchers));
        spawn_local(server::serve(listener(calls)?, Rc::clone(&pod), bounds));
        pod.over.notified().await;
        for _ in 0..LAST_ROUNDS {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
}

fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
