//! Where programs are that a configuration names.

use std::path::{Path, PathBuf};

/// Where programs that are named without a path are looked for, in this order. Fixed: the
/// environment that a daemon happens to be started with does not choose what runs as root.
pub const PROGRAM_DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The program's file: an absolute path is meant as it is, a bare name is looked up.
pub fn find_program(program: &Path) -> Option<PathBuf> {
    // Joining an absolute path yields that path.
    PROGRAM_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_are_looked_up_and_paths_are_not() {
        let shell = find_program(Path::new("sh")).unwrap();
        assert!(shell.is_absolute() && shell.ends_with("sh"), "{shell:?}");
        for (program, found) in [
            ("/bin/sh", true),
            ("/bin", false),
            ("no such program", false),
        ] {
            assert_eq!(
                find_program(Path::new(program)).is_some(),
                found,
                "{program}"
            );
        }
    }
}
