//! Host paths of mounts: made where they are missing, followed where they are links.

use std::fs;
use std::io;
use std::path::Path;

use husk_cri_api::v1;

use crate::error::PodError;

/// Makes missing host directories and replaces links by what they lead to, for the OCI runtime binds
/// what it is given. Host paths come from the kubelet, which is trusted to name them.
pub(super) fn prepare(mounts: &mut [v1::Mount]) -> Result<(), PodError> {
    for mount in mounts {
        if mount.host_path.is_empty() {
            continue;
        }
        let path = Path::new(&mount.host_path);
        let resolved = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(PodError::io("making the host path", path))?;
                fs::canonicalize(path)
            }
            other => other,
        };
        mount.host_path = resolved
            .map_err(PodError::io("following the host path", path))?
            .to_string_lossy()
            .into_owned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_made_and_links_followed() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        fs::create_dir(real.join("target")).unwrap();
        std::os::unix::fs::symlink(real.join("target"), real.join("link")).unwrap();
        let mount = |path: &Path| v1::Mount {
            host_path: path.to_string_lossy().into_owned(),
            ..v1::Mount::default()
        };
        let mut mounts = [
            mount(&real.join("new/deep")),
            mount(&real.join("link")),
            v1::Mount::default(),
        ];
        prepare(&mut mounts).unwrap();
        assert!(real.join("new/deep").is_dir());
        assert_eq!(Path::new(&mounts[1].host_path), real.join("target"));
        assert_eq!(mounts[2].host_path, "");
    }

    #[test]
    fn a_path_through_a_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let through = file.path().join("x");
        let mut mounts = [v1::Mount {
            host_path: through.to_string_lossy().into_owned(),
            ..v1::Mount::default()
        }];
        let error = prepare(&mut mounts).unwrap_err().to_string();
        assert!(error.contains(&*through.to_string_lossy()), "{error}");
    }
}
