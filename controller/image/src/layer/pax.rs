//! PAX records of an entry, read from the bytes that led up to it.
//!
//! tar-rs looks for records by splitting at line ends, so a binary value with a line end in it, which
//! file capabilities and access lists are free to have, loses everything after it. This reads them by
//! their lengths (POSIX.1-2017, `pax`, "pax Extended Header").

use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// What the records of one entry say, as far as this program cares.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records(Vec<(String, Vec<u8>)>);

impl Records {
    /// Finds the extension headers in the metadata blocks before an entry's content.
    ///
    /// # Errors
    /// A record's length is wrong.
    pub(super) fn find(blocks: &[u8]) -> Result<Self, &'static str> {
        let mut records = Self::default();
        let mut rest = blocks;
        while rest.len() > BLOCK {
            let header = Header::from_byte_slice(&rest[..BLOCK]);
            let kind = header.entry_type();
            let extension = kind.is_pax_local_extensions()
                || kind == EntryType::GNULongName
                || kind == EntryType::GNULongLink
                || kind.is_pax_global_extensions();
            let size = header
                .entry_size()
                .ok()
                .and_then(|size| usize::try_from(size).ok());
            let Some(size) = size.filter(|_| extension) else {
                break;
            };
            let content = rest[BLOCK..]
                .get(..size)
                .ok_or("its metadata is cut short")?;
            if kind.is_pax_local_extensions() {
                records.0 = parse(content)?;
            }
            rest = rest[BLOCK..]
                .get(size.next_multiple_of(BLOCK)..)
                .unwrap_or_default();
        }
        Ok(records)
    }

    /// The value of a key; the last one counts.
    pub(super) fn value(&self, key: &str) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_slice())
    }

    /// The value of a key as text that means something.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        parse(std::str::from_utf8(self.value(key)?).ok()?)
    }

    /// Keys that begin with a prefix, without it.
    pub(super) fn below<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let records = self.0.iter();
        records.filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_slice())))
    }
}

/// `length key=value\n`, the length counting itself and the line end.
fn parse(mut content: &[u8]) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
    const WRONG: &str = "its extended header is damaged";
    let mut records = Vec::new();
    while !content.is_empty() {
        let space = content
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or(WRONG)?;
        let digits = std::str::from_utf8(&content[..space]).map_err(|_| WRONG)?;
        let length: usize = digits.parse().map_err(|_| WRONG)?;
        let record = content.get(space + 1..length).ok_or(WRONG)?;
        let record = record.strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
        // A key that is no text is none that anyone knows.
        if let Ok(key) = std::str::from_utf8(&record[..equals]) {
            records.push((key.to_owned(), record[equals + 1..].to_vec()));
        }
        content = &content[length..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_by_length() {
        let found = parse(b"11 a=\n\n=\nx\n6 b=2\n").unwrap();
        assert_eq!(
            found,
            [
                ("a".to_owned(), b"\n\n=\nx".to_vec()),
                ("b".to_owned(), b"2".to_vec())
            ]
        );
        for wrong in [
            "5", "5 a=1", "99 a=1\n", "2 a=1\n", "x a=1\n", "5 a1\n", "-1 a=1\n", "0 \n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&bytes);
            let _ = Records::find(&bytes);
        }
    }
}
