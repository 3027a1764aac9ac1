//! The defaults of containers that the configuration sets, laid over what the host says.

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType};

use crate::config::Config;
use crate::spec::{HostFacts, Named, SpecError, parse_capability};

/// The facts with the configured defaults.
///
/// # Errors
/// A capability or limit that the specification does not know.
pub(super) fn apply(mut facts: HostFacts, config: &Config) -> Result<HostFacts, SpecError> {
    let defaults = &config.defaults;
    facts.pids_limit = defaults.pids_limit;
    facts.default_capabilities = defaults
        .capabilities
        .0
        .iter()
        .map(|name| parse_capability("defaults.capabilities", name))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter_map(|named| match named {
            Named::One(capability) => Some(capability),
            Named::All => None,
        })
        .collect();
    facts.rlimits = defaults
        .rlimits
        .0
        .iter()
        .map(|(name, limit)| {
            PosixRlimitBuilder::default()
                .typ(rlimit_type(name)?)
                .soft(limit.soft)
                .hard(limit.hard)
                .build()
                .map_err(|_| no_such_limit(name))
        })
        .collect::<Result<_, SpecError>>()?;
    Ok(facts)
}

/// The specification's name for a limit, which is what its JSON says.
fn rlimit_type(name: &str) -> Result<PosixRlimitType, SpecError> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| no_such_limit(name))
}

fn no_such_limit(name: &str) -> SpecError {
    SpecError::Invalid {
        field: "defaults.rlimits",
        value: name.to_owned(),
        reason: "no such limit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_by_their_oci_names() {
        assert_eq!(
            rlimit_type("RLIMIT_NOFILE").ok(),
            Some(PosixRlimitType::RlimitNofile)
        );
        assert!(rlimit_type("nofile").is_err());
    }
}
