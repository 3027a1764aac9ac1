//! Network configurations as administrators write them: a list of plugins (`.conflist`) or a
//! single plugin (`.conf`), told apart by what they hold and not by their file's name. Pure.
//!
//! Keys that only a plugin understands are kept as they are and passed on.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::Object;
use super::request::is_identifier;

/// A version of the CNI specification that is spoken here. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// A checked configuration. It can be rebuilt from `source`, which is what the cache stores.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NetworkList {
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) plugins: Vec<Plugin>,
    pub(super) source: Value,
    disable_check: bool,
    disable_gc: bool,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plugin {
    /// Name of the plugin's executable.
    pub(super) kind: String,
    /// Capabilities that the administrator turned on for it.
    pub(super) capabilities: BTreeSet<String>,
    /// The plugin's own keys, without those that the runtime interprets.
    pub(super) settings: Object,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("{0} is not a JSON object")]
    NoObject(&'static str),
    #[error("key {key} is missing or is not {wanted}")]
    Key {
        key: &'static str,
        wanted: &'static str,
    },
    #[error("network name {0:?} must be letters, digits, '_', '.' and '-'")]
    Name(String),
    #[error("CNI version {0:?} is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    Version(String),
    #[error("the list of plugins is empty")]
    NoPlugins,
    #[error("plugin type {0:?} is not the name of a program")]
    Kind(String),
}

impl Version {
    const ALL: [Version; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// CHECK, and a result handed to DEL, came with 0.4.0.
    pub(super) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// STATUS and GC came with 1.1.0.
    pub(super) fn has_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| ConfigError::Version(text.to_owned()))
    }
}

impl NetworkList {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::from_value(serde_json::from_str(text).map_err(ConfigError::Json)?)
    }

    pub(super) fn from_value(source: Value) -> Result<Self, ConfigError> {
        let top = source
            .as_object()
            .ok_or(ConfigError::NoObject("the configuration"))?;
        let name = string(top, "name")?;
        if !is_identifier(name) {
            return Err(ConfigError::Name(name.to_owned()));
        }
        let plugins = match top.get("plugins") {
            None => vec![Plugin::from_value(&source)?],
            Some(Value::Array(list)) => list
                .iter()
                .map(Plugin::from_value)
                .collect::<Result<_, _>>()?,
            Some(_) => {
                return Err(ConfigError::Key {
                    key: "plugins",
                    wanted: "a list",
                });
            }
        };
        if plugins.is_empty() {
            return Err(ConfigError::NoPlugins);
        }
        Ok(NetworkList {
            name: name.to_owned(),
            version: negotiate(top)?,
            plugins,
            disable_check: flag(top, "disableCheck")?,
            disable_gc: flag(top, "disableGC")?,
            source,
        })
    }

    pub(super) fn allows_check(&self) -> bool {
        self.version.has_check() && !self.disable_check
    }

    pub(super) fn allows_gc(&self) -> bool {
        self.version.has_status() && !self.disable_gc
    }
}

impl Plugin {
    fn from_value(value: &Value) -> Result<Self, ConfigError> {
        let mut settings = value
            .as_object()
            .ok_or(ConfigError::NoObject("a plugin"))?
            .clone();
        let kind = string(&settings, "type")?.to_owned();
        // The type becomes a path below a plugin directory: it must not lead out of there.
        if kind.is_empty() || kind.contains(['/', '\0']) || kind == "." || kind == ".." {
            return Err(ConfigError::Kind(kind));
        }
        let capabilities = match settings.remove("capabilities") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::Object(map)) => map
                .into_iter()
                .filter_map(|(name, on)| (on == Value::Bool(true)).then_some(name))
                .collect(),
            Some(_) => {
                return Err(ConfigError::Key {
                    key: "capabilities",
                    wanted: "an object",
                });
            }
        };
        Ok(Plugin {
            kind,
            capabilities,
            settings,
        })
    }
}

/// The newest version that both the configuration and we know. `cniVersions` came with 1.1.0: it
/// may name versions that are newer than us beside older ones.
fn negotiate(top: &Object) -> Result<Version, ConfigError> {
    let stated = top.get("cniVersion").and_then(Value::as_str);
    let further = top
        .get("cniVersions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let best = stated
        .into_iter()
        .chain(further.filter_map(Value::as_str))
        .filter_map(|text| text.parse().ok())
        .max();
    match (best, stated) {
        (Some(version), _) => Ok(version),
        (None, Some(stated)) => Err(ConfigError::Version(stated.to_owned())),
        (None, None) => Err(ConfigError::Key {
            key: "cniVersion",
            wanted: "a string",
        }),
    }
}

fn string<'a>(object: &'a Object, key: &'static str) -> Result<&'a str, ConfigError> {
    object
        .get(key)
        .and_then(Value::as_str)
        .ok_or(ConfigError::Key {
            key,
            wanted: "a string",
        })
}

/// A switch: older specifications wrote it as a string, newer ones as a boolean.
fn flag(top: &Object, key: &'static str) -> Result<bool, ConfigError> {
    match top.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(ConfigError::Key {
            key,
            wanted: "true or false",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(extra: &str) -> Result<NetworkList, ConfigError> {
        NetworkList::parse(&format!(
            r#"{{"name":"n","plugins":[{{"type":"bridge"}}]{extra}}}"#
        ))
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let text = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge","bridge":"b0",
                       "capabilities":{"portMappings":true,"dns":false}}"#;
        let list = NetworkList::parse(text).unwrap();
        assert_eq!((list.name.as_str(), list.version), ("n", Version::V0_3_1));
        assert_eq!(list.plugins.len(), 1);
        assert_eq!(list.plugins[0].kind, "bridge");
        assert_eq!(
            list.plugins[0].capabilities,
            BTreeSet::from(["portMappings".to_owned()])
        );
        assert_eq!(list.plugins[0].settings["bridge"], "b0");
    }

    #[test]
    fn the_newest_common_version_is_taken() {
        for (extra, expect) in [
            (r#","cniVersion":"0.3.1""#, Some(Version::V0_3_1)),
            (
                r#","cniVersion":"1.0.0","cniVersions":["1.1.0","0.4.0"]"#,
                Some(Version::V1_1_0),
            ),
            (
                r#","cniVersion":"1.0.0","cniVersions":["9.9.9"]"#,
                Some(Version::V1_0_0),
            ),
            (r#","cniVersions":["0.4.0","9.9.9"]"#, Some(Version::V0_4_0)),
            (r#","cniVersion":"0.2.0""#, None),
            (r#","cniVersion":"2.0.0""#, None),
            ("", None),
        ] {
            assert_eq!(list(extra).ok().map(|list| list.version), expect, "{extra}");
        }
    }

    #[test]
    fn switches_and_versions_decide_what_is_called() {
        for (extra, check, gc) in [
            (r#","cniVersion":"0.3.1""#, false, false),
            (r#","cniVersion":"0.4.0""#, true, false),
            (
                r#","cniVersion":"1.0.0","disableCheck":"true""#,
                false,
                false,
            ),
            (r#","cniVersion":"1.1.0""#, true, true),
            (
                r#","cniVersion":"1.1.0","disableCheck":true,"disableGC":true"#,
                false,
                false,
            ),
        ] {
            let list = list(extra).unwrap();
            assert_eq!(
                (list.allows_check(), list.allows_gc()),
                (check, gc),
                "{extra}"
            );
        }
    }

    #[test]
    fn broken_configurations_say_what_is_wrong() {
        for (text, expect) in [
            ("{", "not JSON"),
            ("[]", "the configuration is not a JSON object"),
            (r#"{"cniVersion":"1.0.0","plugins":[]}"#, "key name"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, "key type"),
            (
                r#"{"cniVersion":"1.0.0","name":"../n","type":"a"}"#,
                "network name",
            ),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "empty"),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#,
                "key plugins",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[1]}"#,
                "a plugin is not",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","type":"../sh"}"#,
                "plugin type",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","type":"a","disableGC":1}"#,
                "key disableGC",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","type":"a","capabilities":1}"#,
                "capabilities",
            ),
        ] {
            let error = NetworkList::parse(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn the_source_rebuilds_the_list() {
        let first = list(r#","cniVersion":"1.1.0","disableGC":true"#).unwrap();
        assert_eq!(
            NetworkList::from_value(first.source.clone()).unwrap(),
            first
        );
    }
}
