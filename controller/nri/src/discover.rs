//! Which programs are plugins, and which text is whose configuration.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::ServeError;

/// A plugin's name and place: hooks go to plugins in the order of their indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Two digits.
    pub(crate) index: String,
    pub(crate) name: String,
}

impl Identity {
    /// None where either is not what the protocol wants.
    pub(crate) fn new(index: &str, name: &str) -> Option<Self> {
        let digits = index.len() == 2 && index.bytes().all(|byte| byte.is_ascii_digit());
        let permitted = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
        (digits && !name.is_empty() && name.bytes().all(permitted)).then(|| Self {
            index: index.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The identity in a program's name, `NN-name`.
    fn of_program(file: &str) -> Option<Self> {
        let (index, name) = file.split_once('-')?;
        Self::new(index, name)
    }

    /// How errors and other plugins name it.
    pub(crate) fn full(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }
}

/// A plugin to launch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) identity: Identity,
    pub(crate) path: PathBuf,
    /// The text of its configuration; empty where it has none.
    pub(crate) config: String,
}

/// The programs of `directory`, in the order of their names; none where there is no such directory.
pub(crate) fn programs(directory: &Path, configs: &Path) -> Result<Vec<Program>, ServeError> {
    let failed = |source| ServeError::Discover {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if !is_program(&path) {
            continue;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(identity) = Identity::of_program(&file) else {
            tracing::warn!(path = %path.display(), "not an NRI plugin: its name is not NN-name");
            continue;
        };
        let config = config(configs, &identity)?;
        programs.push(Program {
            identity,
            path,
            config,
        });
    }
    programs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(programs)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn config(directory: &Path, identity: &Identity) -> Result<String, ServeError> {
    for name in [identity.full(), identity.name.clone()] {
        let path = directory.join(format!("{name}.conf"));
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ServeError::Discover { path, source }),
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let rows = [
            ("00-a", Some(("00", "a"))),
            ("99-a-b.c_d+e", Some(("99", "a-b.c_d+e"))),
            ("0-a", None),
            ("000-a", None),
            ("ab-a", None),
            ("00-", None),
            ("00", None),
            ("00-a b", None),
        ];
        for (file, expected) in rows {
            let expected = expected.map(|(index, name)| Identity {
                index: index.into(),
                name: name.into(),
            });
            assert_eq!(Identity::of_program(file), expected, "{file}");
        }
    }

    #[test]
    fn programs_with_their_configurations() {
        let (programs_dir, configs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, mode) in [
            ("20-b", 0o755),
            ("10-a", 0o700),
            ("30-text", 0o644),
            ("nonsense", 0o755),
        ] {
            let path = programs_dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(programs_dir.path().join("40-directory")).unwrap();
        for (name, text) in [
            ("10-a.conf", "of 10-a"),
            ("a.conf", "of a"),
            ("b.conf", "of b"),
        ] {
            fs::write(configs.path().join(name), text).unwrap();
        }
        let found = programs(programs_dir.path(), configs.path()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|program| (program.identity.full(), program.config.as_str()))
            .collect();
        assert_eq!(found, [("10-a".into(), "of 10-a"), ("20-b".into(), "of b")]);
        let none = programs(&programs_dir.path().join("none"), configs.path()).unwrap();
        assert!(none.is_empty());
    }
}
