//! Which entry of an image index fits this machine.
//!
//! The order of preference among ARM variants follows the OCI image specification's table of
//! platform variants: a machine runs its own variant and the lower ones, highest first.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::Deserialize;

/// Operating system, processor architecture and variant, in Go's spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// For example `linux`.
    #[serde(default)]
    pub os: String,
    /// For example `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// For example `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// A platform must be `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} is not os/architecture[/variant]")]
pub struct PlatformError(String);

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image made for `other` fits: higher is better, nothing is "does not run".
    pub fn fit(&self, other: &Self) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let default = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            "amd64" => 1,
            _ => 0,
        };
        let ours = variant_number(self.variant.as_deref()).unwrap_or(default);
        let theirs = variant_number(other.variant.as_deref()).unwrap_or(default);
        (theirs <= ours).then_some(theirs)
    }

    /// The best of several candidates; the first wins among equals, as the specification asks.
    pub fn choose<'a, T>(&self, candidates: impl IntoIterator<Item = (&'a Self, T)>) -> Option<T> {
        let mut best: Option<(u8, T)> = None;
        for (platform, item) in candidates {
            let Some(fit) = self.fit(platform) else {
                continue;
            };
            if best.as_ref().is_none_or(|(top, _)| fit > *top) {
                best = Some((fit, item));
            }
        }
        best.map(|(_, item)| item)
    }
}

fn variant_number(variant: Option<&str>) -> Option<u8> {
    variant?.trim_start_matches('v').parse().ok()
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let mut parts = text.split('/').map(str::to_owned);
        let wrong = || PlatformError(text.to_owned());
        let (os, architecture) = parts.next().zip(parts.next()).ok_or_else(wrong)?;
        let variant = parts.next();
        if parts.next().is_some() || os.is_empty() || architecture.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            os,
            architecture,
            variant,
        })
    }
}

impl Display for Platform {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_platform_is_chosen() {
        let rows: &[(&str, &[&str], Option<&str>)] = &[
            (
                "linux/amd64",
                &["linux/arm64", "linux/amd64"],
                Some("linux/amd64"),
            ),
            (
                "linux/amd64",
                &["linux/amd64/v3", "linux/amd64"],
                Some("linux/amd64"),
            ),
            ("linux/amd64", &["linux/amd64/v2"], None),
            ("linux/amd64", &["windows/amd64", "unknown/unknown"], None),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"],
                Some("linux/arm/v6"),
            ),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/arm64/v8", &["linux/arm64"], Some("linux/arm64")),
            ("linux/arm64", &["linux/arm64/v8"], Some("linux/arm64/v8")),
        ];
        for (host, offers, expect) in rows {
            let host: Platform = host.parse().unwrap();
            let offers: Vec<Platform> = offers.iter().map(|offer| offer.parse().unwrap()).collect();
            let chosen = host.choose(offers.iter().map(|offer| (offer, offer.to_string())));
            assert_eq!(chosen.as_deref(), *expect, "{host}");
        }
    }

    #[test]
    fn a_platform_has_two_or_three_parts() {
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
