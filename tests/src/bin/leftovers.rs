//! Prints what a run of the suites could leave on this machine, one line each, for a comparison before and after.

use std::fs;

use husk_tests::{cgroup, process, snapshot};

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn main() {
    let mut lines = snapshot::mounts(std::process::id());
    let cgroups = cgroup::roots()
        .into_iter()
        .flat_map(|root| cgroup::tree(&root));
    lines.extend(
        cgroups
            .map(|path| path.display().to_string())
            .filter(|path| path.contains("husk")),
    );
    let ours = ["husk", "pod-monitor", "docker-registry"];
    for process in process::all() {
        let program = process.arguments.first().cloned().unwrap_or_default();
        if ours
            .iter()
            .any(|name| program.rsplit('/').next() == Some(name))
        {
            lines.push(format!(
                "process {} {}",
                process.pid,
                process.arguments.join(" ")
            ));
        }
    }
    let files = fs::read_dir("/tmp")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    let names = files.map(|name| name.to_string_lossy().into_owned());
    lines.extend(names.filter(|name| name.starts_with("ht-") || name.starts_with("hr-")));
    lines.sort();
    lines.dedup();
    println!("{}", lines.join("\n"));
}
