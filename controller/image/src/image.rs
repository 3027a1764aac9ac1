//! An image as callers see it: a value without I/O.

use crate::digest::Digest;
use crate::image_config::ImageConfig;
use crate::store::v1::ImageRecord;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and the digest of the configuration: the same text everywhere.
    pub id: String,
    /// Complete references with tags, such as `docker.io/library/busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Complete references with the digests that registries know the image by.
    pub repo_digests: Vec<String>,
    /// Bytes on disk: content of all layers, and the configuration. Layers may be shared.
    pub size: u64,
    /// How to run it.
    pub config: ImageConfig,
    /// The configuration of this program says that it must stay.
    pub pinned: bool,
    /// When it was first stored here.
    pub stored_at: jiff::Timestamp,
}

impl Image {
    pub(crate) fn new(
        record: &ImageRecord,
        config: ImageConfig,
        size: u64,
        pinned: &PinnedPatterns,
    ) -> Self {
        Self {
            id: record.id.to_string(),
            repo_tags: record.tags.clone(),
            repo_digests: record.digests.clone(),
            size,
            config,
            pinned: pinned.match_any(record),
            stored_at: jiff::Timestamp::from_second(record.stored_at).unwrap_or_default(),
        }
    }

    /// The same image under the names of a newer record.
    pub(crate) fn renamed(&self, record: &ImageRecord, pinned: &PinnedPatterns) -> Self {
        Self::new(record, self.config.clone(), self.size, pinned)
    }
}

/// Which images must stay: complete references, with `*` at the end for any continuation.
#[derive(Debug, Default)]
pub(crate) struct PinnedPatterns(Vec<String>);

impl PinnedPatterns {
    pub(crate) fn new(patterns: &[String]) -> Self {
        let complete = |pattern: &String| match pattern.strip_suffix('*') {
            Some(_) => pattern.clone(),
            None if parse_id(pattern).is_some() => pattern.clone(),
            None => crate::Reference::parse(pattern).map_or(pattern.clone(), |r| r.to_string()),
        };
        Self(patterns.iter().map(complete).collect())
    }

    fn match_any(&self, record: &ImageRecord) -> bool {
        let mut names = record.tags.iter().chain(&record.digests);
        names.any(|name| self.0.iter().any(|pattern| matches(pattern, name)))
            || self
                .0
                .iter()
                .any(|pattern| *pattern == record.id.to_string())
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// Parses an id as `find` accepts it; only complete ones.
pub(crate) fn parse_id(text: &str) -> Option<Digest> {
    text.parse().ok().or_else(|| Digest::from_hex(text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_images_are_named_in_short_in_full_or_by_start() {
        let x = Digest::of(b"x");
        let record = ImageRecord {
            id: x,
            manifest: None,
            layers: Vec::new(),
            tags: vec!["docker.io/library/pause:3".to_owned()],
            digests: vec![format!("r.io/p@{x}")],
            stored_at: 0,
        };
        let id = x.to_string();
        for (pattern, expect) in [
            ("pause:3", true),
            ("docker.io/library/pause:3", true),
            ("docker.io/library/*", true),
            ("r.io/p@*", true),
            (id.as_str(), true),
            ("pause", false),
            ("docker.io/library/pause", false),
            ("*x", false),
        ] {
            let patterns = PinnedPatterns::new(&[pattern.to_owned()]);
            assert_eq!(patterns.match_any(&record), expect, "{pattern}");
        }
    }
}
