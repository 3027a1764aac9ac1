//! Classes of block I/O: names for limits that the operator wrote down for this host's devices.
//!
//! ```text
//!   Classes:
//!     slow:
//!       - Weight: 80
//!       - Devices: ["/dev/vd[a-z]"]
//!         ThrottleReadBps: 50M
//! ```
//! The file is that of other runtimes (github.com/intel/goresctrl, doc/blockio.md). Devices are looked
//! for when it is read. Deliberately absent: who gets which class.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxBlockIo;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Number, Value, json};

/// Why there are no classes.
#[derive(Debug, thiserror::Error)]
pub enum BlockIoError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not of the form above, or a number in it makes no sense.
    #[error("{} is refused", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: yaml_serde::Error,
    },
    /// What is no pattern, or a limit of no device.
    #[error("{}: class {class:?}: {cause}", path.display())]
    Class {
        /// The file.
        path: PathBuf,
        /// The class.
        class: String,
        /// What is wrong.
        cause: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Classes {
    #[serde(rename = "Classes", alias = "classes", default)]
    classes: BTreeMap<String, Vec<Part>>,
}

/// What holds for some devices, or by default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
struct Part {
    #[serde(alias = "devices")]
    devices: Option<Vec<String>>,
    #[serde(alias = "weight", deserialize_with = "weight")]
    weight: Option<u16>,
    #[serde(alias = "throttleReadBps")]
    throttle_read_bps: Rate,
    #[serde(alias = "throttleWriteBps")]
    throttle_write_bps: Rate,
    #[serde(rename = "ThrottleReadIOPS", alias = "throttleReadIOPS")]
    throttle_read_iops: Rate,
    #[serde(rename = "ThrottleWriteIOPS", alias = "throttleWriteIOPS")]
    throttle_write_iops: Rate,
}

impl Part {
    fn rates(&self) -> [Option<u64>; 4] {
        [
            self.throttle_read_bps.0,
            self.throttle_write_bps.0,
            self.throttle_read_iops.0,
            self.throttle_write_iops.0,
        ]
    }
}

/// None where the file has no such key. A key without a value is an error.
#[derive(Debug, Default)]
struct Rate(Option<u64>);

/// As Kubernetes writes quantities: `80`, `50M`, `1.5Gi`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(Number),
    Text(String),
    Other(IgnoredAny),
}

/// The kernel takes no rate of 0 (cgroup-v2.rst, io.max).
impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = match Quantity::deserialize(from)? {
            Quantity::Number(number) => number.to_string(),
            Quantity::Text(text) => text,
            Quantity::Other(_) => {
                return Err(D::Error::custom("a quantity such as 50M is missing"));
            }
        };
        let number = quantity(&text).filter(|number| *number > 0);
        let cause = || D::Error::custom(format!("{text:?} is no quantity such as 50M or 10k"));
        number.map(|number| Self(Some(number))).ok_or_else(cause)
    }
}

/// The range of the kernel's BFQ, and of the peers.
fn weight<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let number = Rate::deserialize(from)?.0.unwrap_or_default();
    let possible = u16::try_from(number).ok();
    let possible = possible.filter(|number| (10..=1000).contains(number));
    let cause = || D::Error::custom(format!("{number} is no weight, which is from 10 to 1000"));
    possible.map(Some).ok_or_else(cause)
}

/// Rounded up. What is beyond exact whole numbers is no rate of any device.
fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 11] = [
        ("", 1.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
    ];
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let value = (number.parse::<f64>().ok()? * factor).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number within what is exact, without a sign"
    )]
    (value <= EXACT).then_some(value as u64)
}

/// The classes of a file by their names, for the devices that there are now.
///
/// # Errors
/// [`BlockIoError`]; a pattern without a device is none, the device may come later.
pub fn block_io_classes(path: &Path) -> Result<BTreeMap<String, LinuxBlockIo>, BlockIoError> {
    let text = std::fs::read_to_string(path).map_err(|source| BlockIoError::Read {
        path: path.into(),
        source,
    })?;
    let read: Classes = yaml_serde::from_str(&text).map_err(|source| BlockIoError::Format {
        path: path.into(),
        source,
    })?;
    let classes = read.classes.into_iter().map(|(name, parts)| {
        let limits = class(&parts, &disks).map_err(|cause| BlockIoError::Class {
            path: path.into(),
            class: name.clone(),
            cause,
        })?;
        Ok((name, limits))
    });
    classes.collect()
}

/// A device's two numbers.
type DeviceNumber = (i64, i64);

/// A later part goes before an earlier one, value by value.
fn class(
    parts: &[Part],
    find: &dyn Fn(&str) -> Result<Vec<DeviceNumber>, String>,
) -> Result<LinuxBlockIo, String> {
    let mut of_all = None;
    let mut weights = BTreeMap::new();
    let mut rates: [BTreeMap<DeviceNumber, u64>; 4] = Default::default();
    for part in parts {
        let Some(patterns) = &part.devices else {
            if part.rates().iter().any(Option::is_some) {
                return Err("has rates without Devices".to_owned());
            }
            of_all = part.weight.or(of_all);
            continue;
        };
        for pattern in patterns {
            for device in find(pattern)? {
                weights.extend(part.weight.map(|weight| (device, weight)));
                for (rates, rate) in rates.iter_mut().zip(part.rates()) {
                    rates.extend(rate.map(|rate| (device, rate)));
                }
            }
        }
    }
    let [read_bps, write_bps, read_iops, write_iops] = rates.map(|rates| listed("rate", &rates));
    // The types have no setters for what is in the lists.
    let limits = json!({
        "weight": of_all,
        "weightDevice": listed("weight", &weights),
        "throttleReadBpsDevice": read_bps,
        "throttleWriteBpsDevice": write_bps,
        "throttleReadIOPSDevice": read_iops,
        "throttleWriteIOPSDevice": write_iops,
    });
    serde_json::from_value(limits).map_err(|error| error.to_string())
}

/// None where nothing is limited: the OCI runtime touches no file then.
fn listed<V: Serialize>(what: &str, of: &BTreeMap<DeviceNumber, V>) -> Option<Vec<Value>> {
    let entries = of
        .iter()
        .map(|((major, minor), value)| json!({"major": major, "minor": minor, what: value}));
    let entries: Vec<Value> = entries.collect();
    (!entries.is_empty()).then_some(entries)
}

/// The block devices that a pattern names, by way of links too. The kernel limits whole disks only.
fn disks(pattern: &str) -> Result<Vec<DeviceNumber>, String> {
    let paths = glob::glob(pattern).map_err(|error| format!("device {pattern:?}: {error}"))?;
    let found: Vec<DeviceNumber> = paths.flatten().filter_map(|path| disk(&path)).collect();
    if found.is_empty() {
        tracing::warn!(
            pattern,
            "no disk is limited by a pattern of block I/O classes"
        );
    }
    Ok(found)
}

fn disk(path: &Path) -> Option<DeviceNumber> {
    let metadata = path.metadata().ok()?;
    let number = metadata.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let partition = format!("/sys/dev/block/{major}:{minor}/partition");
    let is_disk = metadata.file_type().is_block_device() && !Path::new(&partition).exists();
    is_disk.then_some((major.into(), minor.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
Classes:
  slow:
    - Weight: 80
    - Devices: ["/dev/vd[ab]"]
      ThrottleReadBps: 50M
      ThrottleWriteBps: 1572863.5
      ThrottleReadIOPS: 10k
      ThrottleWriteIOPS: 7
      Weight: 50
    - devices: [/dev/vdb]
      throttleReadBps: "20M"
  fast:
    - Weight: 400
"#;

    fn read(text: &str) -> Result<Vec<LinuxBlockIo>, String> {
        let find = |pattern: &str| match pattern {
            "/dev/vda" => Ok(vec![(254, 0)]),
            "/dev/vd[ab]" => Ok(vec![(254, 0), (254, 16)]),
            "/dev/vdb" => Ok(vec![(254, 16)]),
            other => Err(other.to_owned()),
        };
        let read: Classes = yaml_serde::from_str(text).map_err(|error| error.to_string())?;
        read.classes
            .values()
            .map(|parts| class(parts, &find))
            .collect()
    }

    #[test]
    fn a_later_part_goes_before_an_earlier_one() {
        let device =
            |minor: i64, key: &str, value: u64| json!({"major": 254, "minor": minor, key: value});
        let both = |key, value| json!([device(0, key, value), device(16, key, value)]);
        let expected = json!([
            {"weight": 400},
            {
                "weight": 80,
                "weightDevice": both("weight", 50),
                "throttleReadBpsDevice": [
                    device(0, "rate", 50_000_000),
                    device(16, "rate", 20_000_000),
                ],
                "throttleWriteBpsDevice": both("rate", 1_572_864),
                "throttleReadIOPSDevice": both("rate", 10_000),
                "throttleWriteIOPSDevice": both("rate", 7),
            },
        ]);
        assert_eq!(json!(read(FILE).unwrap()), expected);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let part = |text: &str| read(&format!("Classes: {{c: [{{{text}}}]}}")).unwrap_err();
        for (text, cause) in [
            ("Weight: 5", "5 is no weight"),
            ("Weight: 70000", "70000 is no weight"),
            ("Devices: [/dev/vda], ThrottleReadBps: fast", "\"fast\""),
            ("Devices: [/dev/vda], ThrottleReadBps: 9999P", "\"9999P\""),
            ("Devices: [/dev/vda], ThrottleReadBps: -5", "\"-5\""),
            ("Devices: [/dev/vda], ThrottleReadBps: 0", "\"0\""),
            ("Devices: [/dev/vda], ThrottleReadBps: ", "is missing"),
            ("Devices: [/dev/vda], ThrottleReadIOPS: [1]", "is missing"),
            ("ThrottleReadBps: 5", "rates without Devices"),
            ("Wait: 50", "Wait"),
        ] {
            let error = part(text);
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    #[test]
    fn only_disks_are_found() {
        assert_eq!(disks("/dev/nul[l]").unwrap(), []);
        assert_eq!(disks("/no/such/*").unwrap(), []);
        assert!(disks("/dev/[").is_err());
    }
}
