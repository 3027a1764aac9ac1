//! Which device is in which file, by the files' texts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{ContainerEdits, Format, Specification, is_device, is_name};

/// Why devices cannot be brought into a container.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// The name is none.
    #[error("{name:?} is not the name of a CDI device: that is vendor/class=name")]
    Name {
        /// As asked for.
        name: String,
    },
    /// No file has it.
    #[error("CDI device {name:?} is not known{}", list(broken))]
    Unknown {
        /// As asked for.
        name: String,
        /// The files that cannot be used, with the reason of each.
        broken: Vec<String>,
    },
    /// Two files of one directory have it.
    #[error("CDI device {name:?} is in {} and in {}", first.display(), second.display())]
    Conflict {
        /// The device.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A file that a device brings is no device.
    #[error("{} is no device of the kind that is asked for", path.display())]
    NoDevice {
        /// On the host.
        path: PathBuf,
    },
    /// A file or directory cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn list(broken: &[String]) -> String {
    if broken.is_empty() {
        return String::new();
    }
    format!("; not used: {}", broken.join("; "))
}

/// Where a device is.
#[derive(Debug, Clone)]
enum Place {
    /// In one file, at this position.
    File(Arc<Known>, usize),
    /// In two of one directory.
    Both(PathBuf, PathBuf),
}

#[derive(Debug)]
struct Known {
    path: PathBuf,
    specification: Specification,
}

/// All devices that are known.
#[derive(Debug, Default)]
pub struct Registry {
    devices: BTreeMap<String, Place>,
    broken: Vec<String>,
}

impl Registry {
    /// Adds the files of one directory. Their devices go before those that were added earlier.
    pub fn add(&mut self, files: Vec<(PathBuf, String)>) {
        let mut devices: BTreeMap<String, Place> = BTreeMap::new();
        for (path, text) in files {
            let Some(format) = Format::of(&path) else {
                continue;
            };
            let specification = match Specification::parse(&text, format) {
                Ok(specification) => specification,
                Err(why) => {
                    self.broken.push(format!("{}: {why}", path.display()));
                    continue;
                }
            };
            let known = Arc::new(Known {
                path,
                specification,
            });
            for (index, device) in known.specification.devices.iter().enumerate() {
                let name = format!("{}={}", known.specification.kind, device.name);
                let place = match devices.get(&name) {
                    None => Place::File(known.clone(), index),
                    Some(Place::File(other, _)) => {
                        Place::Both(other.path.clone(), known.path.clone())
                    }
                    Some(both @ Place::Both(..)) => both.clone(),
                };
                devices.insert(name, place);
            }
        }
        self.devices.extend(devices);
    }

    /// What devices bring: what a file says for all of its devices comes before the first of them, and
    /// once. A device that is named twice is brought once.
    ///
    /// # Errors
    /// The first name that stands for no device, or for two.
    pub fn resolve<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<ContainerEdits>, CdiError> {
        let (mut edits, mut files, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for name in names {
            let (known, index) = self.find(name)?;
            if !seen.insert(name) {
                continue;
            }
            let specification = &known.specification;
            if files.insert(&known.path) {
                edits.push(specification.container_edits.clone());
            }
            edits.push(specification.devices[index].container_edits.clone());
        }
        Ok(edits)
    }

    fn find(&self, name: &str) -> Result<(&Known, usize), CdiError> {
        if !is_qualified(name) {
            let name = name.to_owned();
            return Err(CdiError::Name { name });
        }
        match self.devices.get(name) {
            Some(Place::File(known, index)) => Ok((known, *index)),
            Some(Place::Both(first, second)) => Err(CdiError::Conflict {
                name: name.to_owned(),
                first: first.clone(),
                second: second.clone(),
            }),
            None => Err(CdiError::Unknown {
                name: name.to_owned(),
                broken: self.broken.clone(),
            }),
        }
    }
}

/// `vendor/class=name`.
fn is_qualified(name: &str) -> bool {
    let parts = name.split_once('=').and_then(|(kind, device)| {
        let (vendor, class) = kind.split_once('/')?;
        Some((vendor, class, device))
    });
    parts.is_some_and(|(vendor, class, device)| {
        is_name(vendor) && is_name(class) && is_device(device)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: &str, device: &str, value: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "{kind}",
            "devices": [{{"name": "{device}", "containerEdits": {{"env": ["D={value}"]}}}}],
            "containerEdits": {{"env": ["ALL={value}"]}}}}"#
        )
    }

    fn registry(directories: &[&[(&str, String)]]) -> Registry {
        let mut registry = Registry::default();
        for files in directories {
            let files = files.iter();
            registry.add(
                files
                    .map(|(path, text)| ((*path).into(), text.clone()))
                    .collect(),
            );
        }
        registry
    }

    fn env(registry: &Registry, names: &[&str]) -> Vec<String> {
        let edits = registry.resolve(names.iter().copied()).unwrap();
        edits.into_iter().flat_map(|edits| edits.env).collect()
    }

    #[test]
    fn a_later_directory_goes_before_an_earlier_one() {
        let registry = registry(&[
            &[
                ("/a/1.json", json("v.io/c", "x", "a")),
                ("/a/2.json", json("v.io/c", "y", "b")),
            ],
            &[("/b/1.json", json("v.io/c", "x", "c"))],
        ]);
        let found = env(&registry, &["v.io/c=x", "v.io/c=y", "v.io/c=x"]);
        assert_eq!(found, ["ALL=c", "D=c", "ALL=b", "D=b"]);
    }

    #[test]
    fn what_a_file_says_for_all_comes_once() {
        let text = r#"
cdiVersion: "1.0.0"
kind: v.io/c
containerEdits:
  env: ["ALL=1"]
devices:
  - name: x
    containerEdits: {env: ["X=1"], additionalGids: [44]}
  - name: "0:1"
    containerEdits: {env: ["Y=1"]}
"#;
        let registry = registry(&[&[("/a/1.yaml", text.to_owned())]]);
        let found = env(&registry, &["v.io/c=x", "v.io/c=0:1"]);
        assert_eq!(found, ["ALL=1", "X=1", "Y=1"]);
        let edits = registry.resolve(["v.io/c=x"]).unwrap();
        assert_eq!(edits[1].additional_gids, [44]);
    }

    #[test]
    fn what_cannot_be_found_is_refused_by_name() {
        let registry = registry(&[&[
            ("/a/1.json", json("v.io/c", "x", "a")),
            ("/a/2.json", json("v.io/c", "x", "b")),
            ("/a/3.json", "{}".to_owned()),
            ("/a/4.yaml", json("no-slash", "x", "b")),
        ]]);
        let rows: [(&str, &[&str]); 4] = [
            ("v.io/c=x", &["v.io/c=x", "/a/1.json", "/a/2.json"]),
            (
                "v.io/c=z",
                &["v.io/c=z", "/a/3.json", "/a/4.yaml", "no-slash"],
            ),
            ("nonsense", &["nonsense", "vendor/class=name"]),
            ("v.io/c=", &["v.io/c="]),
        ];
        for (name, parts) in rows {
            let error = registry.resolve([name]).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn files_that_make_no_sense() {
        let edits = |edits: &str| {
            format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "v.io/c", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
            )
        };
        let rows = [
            (
                r#"{"kind": "v.io/c", "devices": []}"#.to_owned(),
                "cdiVersion",
            ),
            (json("v.io/c", "a b", ""), "a b"),
            (json("9/c", "d", ""), "9/c"),
            (edits(r#"{"env": ["no equals sign"]}"#), "no equals sign"),
            (
                edits(r#"{"deviceNodes": [{"path": "relative"}]}"#),
                "relative",
            ),
            (
                edits(r#"{"deviceNodes": [{"path": "/d", "type": "x"}]}"#),
                "/d",
            ),
            (
                edits(r#"{"hooks": [{"hookName": "never", "path": "/x"}]}"#),
                "never",
            ),
            (
                edits(r#"{"mounts": [{"hostPath": "/x"}]}"#),
                "containerPath",
            ),
        ];
        for (text, part) in rows {
            let error = Specification::parse(&text, Format::Json).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
