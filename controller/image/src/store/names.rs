//! The published list of images and its look-ups: immutable, in memory, replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::v1::ImageRecord;
use crate::digest::Digest;
use crate::error::FindError;
use crate::image::{Image, parse_id};
use crate::registries::Registries;

/// Fewer digits than these are a name, not an id.
const SHORTEST_PREFIX: usize = 4;

/// All images, by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    images: Vec<Arc<Image>>,
    /// Full id, tag or digest to position.
    by_name: HashMap<String, usize>,
}

impl Names {
    pub(super) fn new(images: Vec<Arc<Image>>) -> Self {
        let mut by_name = HashMap::new();
        for (at, image) in images.iter().enumerate() {
            by_name.insert(image.id.clone(), at);
            for name in image.repo_tags.iter().chain(&image.repo_digests) {
                by_name.insert(name.clone(), at);
            }
        }
        Self { images, by_name }
    }

    pub(crate) fn all(&self) -> &[Arc<Image>] {
        &self.images
    }

    pub(crate) fn by_id(&self, id: &Digest) -> Option<Arc<Image>> {
        self.by_exact(&id.to_string())
    }

    fn by_exact(&self, name: &str) -> Option<Arc<Image>> {
        self.by_name
            .get(name)
            .map(|at| Arc::clone(&self.images[*at]))
    }

    /// Whether each record is listed.
    pub(super) fn covers(&self, records: &BTreeMap<Digest, ImageRecord>) -> bool {
        records
            .keys()
            .all(|id| self.by_name.contains_key(&id.to_string()))
    }

    /// Finds an image by full id, by tag or digest as the registry configuration completes it, or by
    /// the start of its id, in this order: what is written out wins over what is abbreviated.
    pub(crate) fn find(
        &self,
        text: &str,
        registries: &Registries,
    ) -> Result<Option<Arc<Image>>, FindError> {
        if let Some(id) = parse_id(text) {
            return Ok(self.by_id(&id));
        }
        let candidates = registries.candidates(text);
        for reference in candidates.iter().flatten() {
            let name = match reference.digest() {
                // The digest alone decides: nobody checked that the tag belongs to it.
                Some(digest) => reference.with_digest(*digest),
                None => reference.to_string(),
            };
            if let Some(image) = self.by_exact(&name) {
                return Ok(Some(image));
            }
        }
        if let Some(image) = self.by_prefix(text)? {
            return Ok(Some(image));
        }
        match candidates {
            Err(source) if !is_prefix(text) => Err(FindError::InvalidReference {
                reference: text.to_owned(),
                source,
            }),
            Err(_) | Ok(_) => Ok(None),
        }
    }

    fn by_prefix(&self, text: &str) -> Result<Option<Arc<Image>>, FindError> {
        if !is_prefix(text) {
            return Ok(None);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let fits = |image: &&Arc<Image>| {
            let id = image.id.strip_prefix("sha256:");
            id.is_some_and(|id| id.starts_with(digits))
        };
        let found: Vec<&Arc<Image>> = self.images.iter().filter(fits).collect();
        match found.as_slice() {
            [] => Ok(None),
            [image] => Ok(Some(Arc::clone(image))),
            several => Err(FindError::Ambiguous {
                prefix: text.to_owned(),
                count: several.len(),
            }),
        }
    }
}

fn is_prefix(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let range = SHORTEST_PREFIX..=64;
    range.contains(&digits.len())
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PinnedPatterns;
    use crate::image_config::ImageConfig;

    fn image(id: &str, tags: &[&str], digests: &[String]) -> Arc<Image> {
        let record = ImageRecord {
            id: Digest::from_hex(&format!("{id:0<64}")).unwrap(),
            manifest: None,
            layers: Vec::new(),
            tags: tags.iter().map(ToString::to_string).collect(),
            digests: digests.to_vec(),
            stored_at: 0,
        };
        let pinned = PinnedPatterns::default();
        Arc::new(Image::new(&record, ImageConfig::default(), 0, &pinned))
    }

    #[test]
    fn images_are_found_by_every_name() {
        let digest = format!("docker.io/library/a@{}", Digest::of(b"m"));
        let tags = [
            "docker.io/library/a:latest",
            "docker.io/library/beef1:latest",
        ];
        let names = Names::new(vec![
            image("beef1", &[], &[]),
            image("beef2", &tags, std::slice::from_ref(&digest)),
            image("cafe", &[], &[]),
        ]);
        let full = format!("sha256:{:0<64}", "cafe");
        let with_tag = digest.replace("a@", "a:other@");
        let rows = [
            (full.as_str(), "cafe"),
            (&full[7..], "cafe"),
            ("cafe", "cafe"),
            ("sha256:cafe0", "cafe"),
            ("a", "beef2"),
            ("docker.io/library/a:latest", "beef2"),
            (digest.as_str(), "beef2"),
            (with_tag.as_str(), "beef2"),
            // A whole name wins over the start of an id.
            ("beef1", "beef2"),
            ("sha256:beef1", "beef1"),
        ];
        let registries = Registries::default();
        for (text, expect) in rows {
            let found = names.find(text, &registries).unwrap().unwrap();
            assert_eq!(found.id, format!("sha256:{expect:0<64}"), "{text}");
        }
        for absent in ["b", "a:2", "dead", "sha256:dead"] {
            assert_eq!(names.find(absent, &registries).unwrap(), None, "{absent}");
        }
        let ambiguous = names.find("beef", &registries);
        assert!(matches!(
            ambiguous,
            Err(FindError::Ambiguous { count: 2, .. })
        ));
        let wrong = names.find("A B", &registries);
        assert!(matches!(wrong, Err(FindError::InvalidReference { .. })));
    }
}
