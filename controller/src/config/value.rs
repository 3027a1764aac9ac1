//! The types that a key's value can have: how each is read, refused and written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::{Raw, quoted};

/// A type that one value is read as.
pub(super) trait Scalar: Sized {
    /// The value, or what was expected instead.
    fn parse(raw: &Raw) -> Result<Self, String>;

    /// The value as TOML, or nothing when it is unset.
    fn print(&self) -> Option<String>;

    /// A value to show where the key is unset.
    fn example() -> String {
        String::new()
    }
}

/// A number of bytes, written as `"64KiB"`, `"1MiB"` or a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// `count` bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// `count` times 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` times 1024² bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` times 1024³ bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as an index; the largest one where the machine's is narrower.
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Units of [`Size`]; in writing, the largest that divides the number is taken.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Scalar for Size {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let size = match raw {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Text(text) => parse_size(text),
            Raw::Table(_) | Raw::List(_) | Raw::Boolean(_) | Raw::Other(_) => None,
        };
        size.map(Self).ok_or_else(|| {
            "expected a size such as \"64KiB\", \"1MiB\", or a number of bytes".into()
        })
    }

    fn print(&self) -> Option<String> {
        let unit = SIZE_UNITS
            .iter()
            .take(4)
            .find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes));
        Some(match unit {
            Some((name, bytes)) => format!("\"{}{name}\"", self.0 / bytes),
            None => self.0.to_string(),
        })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split_number(text)?;
    let unit = unit.trim();
    let (_, bytes) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    digits.checked_mul(*bytes)
}

/// Units of a duration in milliseconds, largest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl Scalar for Duration {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let expected = "expected a duration such as \"500ms\", \"4s\" or \"1m30s\"";
        let Raw::Text(text) = raw else {
            return Err(expected.to_owned());
        };
        parse_duration(text)
            .map(Self::from_millis)
            .ok_or_else(|| expected.to_owned())
    }

    fn print(&self) -> Option<String> {
        let mut rest = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return Some("\"0s\"".to_owned());
        }
        let mut text = String::new();
        for (unit, milliseconds) in DURATION_UNITS {
            if rest >= milliseconds {
                text.push_str(&format!("{}{unit}", rest / milliseconds));
                rest %= milliseconds;
            }
        }
        Some(quoted(&text))
    }
}

fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (count, after) = split_number(rest)?;
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end)?;
        let (_, milliseconds) = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim())?;
        total = total.checked_add(count.checked_mul(*milliseconds)?)?;
        rest = next;
    }
    (!text.trim().is_empty()).then_some(total)
}

/// The number that `text` starts with, and what follows it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Scalar for $type {
            fn parse(raw: &Raw) -> Result<Self, String> {
                let number = match raw {
                    Raw::Integer(number) => <$type>::try_from(*number).ok(),
                    Raw::Table(_) | Raw::List(_) | Raw::Text(_) | Raw::Boolean(_) | Raw::Other(_) => None,
                };
                number.ok_or_else(|| {
                    format!("expected a whole number from {} to {}", <$type>::MIN, <$type>::MAX)
                })
            }

            fn print(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

whole_numbers!(u32, u64);

impl Scalar for bool {
    fn parse(raw: &Raw) -> Result<Self, String> {
        if let Raw::Boolean(value) = raw {
            Ok(*value)
        } else {
            Err("expected true or false".to_owned())
        }
    }

    fn print(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Scalar for String {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match text(raw, "expected a string")? {
            bad if bad.contains('\0') => Err("expected a string without NUL".to_owned()),
            good => Ok(good.to_owned()),
        }
    }

    fn print(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Scalar for PathBuf {
    fn parse(raw: &Raw) -> Result<Self, String> {
        match text(raw, "expected a path, as a string")? {
            "" => Err("expected a path, not an empty string".to_owned()),
            bad if bad.contains('\0') => Err("expected a path without NUL".to_owned()),
            good => Ok(Self::from(good)),
        }
    }

    fn print(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }

    fn example() -> String {
        "\"/path/to/it\"".to_owned()
    }
}

impl Scalar for SocketAddr {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let expected =
            "expected an address with a port, such as \"127.0.0.1:0\" or \"[::1]:10010\"";
        text(raw, expected)?
            .parse()
            .map_err(|_| expected.to_owned())
    }

    fn print(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl<T: Scalar> Scalar for Option<T> {
    fn parse(raw: &Raw) -> Result<Self, String> {
        T::parse(raw).map(Some)
    }

    fn print(&self) -> Option<String> {
        self.as_ref().and_then(T::print)
    }

    fn example() -> String {
        T::example()
    }
}

impl<T: Scalar> Scalar for Vec<T> {
    fn parse(raw: &Raw) -> Result<Self, String> {
        let Raw::List(items) = raw else {
            return Err("expected a list".to_owned());
        };
        let one = |item: &Raw| T::parse(item).map_err(|reason| format!("for `{item}`: {reason}"));
        items.iter().map(one).collect()
    }

    fn print(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::print).collect();
        let line = format!("[{}]", items.join(", "));
        if line.len() <= 80 {
            return Some(line);
        }
        let items: String = items.iter().map(|item| format!("    {item},\n")).collect();
        Some(format!("[\n{items}]"))
    }
}

/// The text of `raw`, or the error `expected`.
pub(super) fn text<'r>(raw: &'r Raw, expected: &str) -> Result<&'r str, String> {
    if let Raw::Text(text) = raw {
        Ok(text)
    } else {
        Err(expected.to_owned())
    }
}

/// Declares an enum whose values are words.
macro_rules! choice {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $about:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $about])* $variant,)* }

        impl $name {
            /// The word that the configuration has for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl $crate::config::value::Scalar for $name {
            fn parse(raw: &$crate::config::raw::Raw) -> Result<Self, String> {
                let expected = concat!("expected one of", $(" \"", $word, "\"",)*);
                match $crate::config::value::text(raw, expected)? {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(expected.to_owned()),
                }
            }

            fn print(&self) -> Option<String> {
                Some($crate::config::raw::quoted(self.as_str()))
            }

            fn example() -> String {
                concat!($("|", $word),*).split('|').nth(1).map($crate::config::raw::quoted).unwrap_or_default()
            }
        }
    };
}

pub(super) use choice;
