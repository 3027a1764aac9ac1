//! Places in a program at which a test can make it fail, wait or abort.
//!
//! A program says once where it works ([`work_below`]) and calls [`point`] with a name of its own at every step that
//! matters. A test arms a point by writing `fail`, `wait` or `abort` to the file `fault-points/<name>` in that
//! directory or in one above it. A point that is passed takes its file away, leaving `<name>.hit`, and so acts once;
//! `fail 3` lets three passes go by first. A `wait` ends when `<name>.go` appears.
//!
//! Programs depend on this crate by their feature `faults` alone, which nothing but the build for the suites turns on;
//! `cargo xtask` refuses a program for anything else that has [`DIRECTORY`] in it.
//!
//! Deliberately absent: the names. They are where they are passed, and `tests/tests/faults.rs` reads them from there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The directory of the armed points.
pub const DIRECTORY: &str = "fault-points";

/// A test that does not let go has failed; the program goes on then, so that it can be ended.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

static PLACE: OnceLock<PathBuf> = OnceLock::new();

/// Says where the program works. The first word counts.
pub fn work_below(directory: &Path) {
    let _first = PLACE.set(directory.to_owned());
}

/// Passes a point: returns at once unless it is armed. A wait blocks the thread.
///
/// # Errors
/// When the point was told to fail.
pub fn point(name: &str) -> io::Result<()> {
    match PLACE.get() {
        Some(place) => pass(place, name),
        None => Ok(()),
    }
}

/// As [`point`], in a task of a runtime too: a wait holds up no other task of the thread.
///
/// # Errors
/// As [`point`].
#[cfg(feature = "tokio")]
pub fn point_of_task(name: &str) -> io::Result<()> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let pass = || point(name);
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(pass),
        _ => pass(),
    }
}

/// Does not return where the point is told to abort.
fn pass(place: &Path, name: &str) -> io::Result<()> {
    let files = place
        .ancestors()
        .map(|directory| directory.join(DIRECTORY).join(name));
    let Some((file, order)) = files
        .filter_map(|file| fs::read_to_string(&file).ok().map(|text| (file, text)))
        .next()
    else {
        return Ok(());
    };
    let (act, passes) = order.trim().split_once(' ').unwrap_or((order.trim(), "0"));
    let passes: u32 = passes.parse().unwrap_or_default();
    if passes > 0 {
        return fs::write(&file, format!("{act} {}", passes - 1));
    }
    // Of two that pass at the same time one acts.
    if fs::rename(&file, file.with_added_extension("hit")).is_err() {
        return Ok(());
    }
    match act {
        "abort" => std::process::abort(),
        "wait" => wait_for(&file.with_added_extension("go")),
        _ => return Err(io::Error::other(format!("told to fail at {name}"))),
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks for a file, within a bound; no program for users has this"
)]
fn wait_for(file: &Path) {
    let end = Instant::now() + LONGEST_WAIT;
    while !file.exists() && Instant::now() < end {
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_point_acts_once_and_others_do_not() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("run/pods/x");
        let plan = top.path().join(DIRECTORY);
        fs::create_dir_all(&plan).unwrap();
        assert!(pass(&below, "one").is_ok(), "nothing is armed");
        fs::write(plan.join("one"), "fail").unwrap();
        assert!(pass(&below, "two").is_ok(), "another point");
        let failed = pass(&below, "one").unwrap_err().to_string();
        assert_eq!(failed, "told to fail at one");
        assert!(plan.join("one.hit").exists());
        assert!(pass(&below, "one").is_ok(), "a second time");
    }

    #[test]
    fn passes_that_go_by_are_counted() {
        let top = tempfile::tempdir().unwrap();
        let plan = top.path().join(DIRECTORY);
        fs::create_dir_all(&plan).unwrap();
        fs::write(plan.join("one"), "fail 2\n").unwrap();
        let passed = [(); 4].map(|()| pass(top.path(), "one").is_ok());
        assert_eq!(passed, [true, true, false, true]);
    }

    #[test]
    fn a_wait_ends_when_it_is_told() {
        let top = tempfile::tempdir().unwrap();
        let plan = top.path().join(DIRECTORY);
        fs::create_dir_all(&plan).unwrap();
        fs::write(plan.join("one"), "wait").unwrap();
        let place = top.path().to_owned();
        let waiting = std::thread::spawn(move || pass(&place, "one").is_ok());
        let hit = plan.join("one.hit");
        while !hit.exists() {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        fs::write(plan.join("one.go"), "").unwrap();
        assert!(waiting.join().unwrap());
    }
}
