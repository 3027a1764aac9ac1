//! What a pull looks like: events in, lines out. No terminal and no clock.

use crate::admin::v1::{Layer, Phase, Progress, Retry, StoredImage, progress::Event};
use crate::cli::Extent;
use crate::cli::table::{short, size};

/// Every layer in the order in which it was first heard of.
#[derive(Debug, Default)]
pub(super) struct Board {
    layers: Vec<Layer>,
}

/// What an event changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Only a number of bytes, or nothing.
    Bytes,
    /// A layer is in another phase: worth a line of its own where there are no bars.
    Phase(String),
    /// An image is in the store. Its line stays.
    Image(String),
    /// Something to know besides. Its line stays.
    Note(String),
}

impl Board {
    /// Takes an event in.
    pub(super) fn apply(&mut self, progress: Progress) -> Change {
        match progress.event {
            Some(Event::Layer(layer)) => self.apply_layer(layer),
            Some(Event::Image(image)) => Change::Image(image_line(&image)),
            Some(Event::Retry(retry)) => Change::Note(retry_line(&retry)),
            None => Change::Bytes,
        }
    }

    fn apply_layer(&mut self, layer: Layer) -> Change {
        let known = self
            .layers
            .iter_mut()
            .find(|known| known.digest == layer.digest);
        let changed = known
            .as_ref()
            .is_none_or(|known| known.phase != layer.phase);
        let line = format!("{}: {}", short(&layer.digest), words(&layer));
        match known {
            Some(known) => *known = layer,
            None => self.layers.push(layer),
        }
        if changed {
            Change::Phase(line)
        } else {
            Change::Bytes
        }
    }

    /// A line for each layer, cut to the terminal. More layers than rows: a count of what is done,
    /// and those at work.
    pub(super) fn bars(&self, extent: Extent) -> Vec<String> {
        let line = |layer: &Layer| cut(&bar_line(layer, extent.columns), extent.columns);
        let room = extent.rows.saturating_sub(1);
        if self.layers.len() <= room {
            return self.layers.iter().map(line).collect();
        }
        let done = self.layers.iter().filter(|layer| is_done(layer)).count();
        let first = format!("{done} of {} layers done", self.layers.len());
        let at_work = |layer: &&Layer| verb(layer).is_some();
        let rest = self.layers.iter().filter(at_work).map(line);
        std::iter::once(cut(&first, extent.columns))
            .chain(rest)
            .take(room.max(1))
            .collect()
    }
}

fn is_done(layer: &Layer) -> bool {
    matches!(layer.phase(), Phase::Done | Phase::Present)
}

/// What is done with the bytes of a layer, while something is.
fn verb(layer: &Layer) -> Option<&'static str> {
    match layer.phase() {
        Phase::Fetching => Some("fetching"),
        Phase::Verifying => Some("verifying"),
        Phase::Unpacking => Some("unpacking"),
        Phase::Unspecified | Phase::Waiting | Phase::Done | Phase::Present => None,
    }
}

/// The phase in words, with the size where there is one.
fn words(layer: &Layer) -> String {
    match (verb(layer), layer.phase(), layer.total) {
        (Some(verb), _, 0) => verb.to_owned(),
        (Some(verb), _, total) => format!("{verb} {}", size(total)),
        (None, Phase::Done, _) => "done".to_owned(),
        (None, Phase::Present, _) => "already there".to_owned(),
        (None, _, _) => "waiting".to_owned(),
    }
}

const VERB_WIDTH: usize = 9;

fn bar_line(layer: &Layer, columns: usize) -> String {
    let name = short(&layer.digest);
    let Some(verb) = verb(layer) else {
        return format!("{name}  {}", words(layer));
    };
    if layer.total == 0 {
        return format!("{name}  {verb:<VERB_WIDTH$}  {}", size(layer.bytes));
    }
    let numbers = format!(
        "{} of {}",
        size(layer.bytes.min(layer.total)),
        size(layer.total)
    );
    let taken = name.len() + VERB_WIDTH + numbers.len() + 8;
    let width = columns.saturating_sub(taken).min(40);
    let bar = bar(layer.bytes, layer.total, width);
    format!("{name}  {verb:<VERB_WIDTH$}  {bar}{numbers}")
}

/// A bar of `width` inner characters with two spaces after it; nothing when there is no room.
fn bar(bytes: u64, total: u64, width: usize) -> String {
    const LEAST: usize = 5;
    if width < LEAST {
        return String::new();
    }
    let share = u128::from(bytes.min(total)) * width as u128 / u128::from(total.max(1));
    let filled = usize::try_from(share).unwrap_or(width);
    format!("[{}{}]  ", "=".repeat(filled), " ".repeat(width - filled))
}

fn image_line(image: &StoredImage) -> String {
    let names = if image.names.is_empty() {
        String::new()
    } else {
        format!("{}  ", image.names.join(", "))
    };
    format!("{names}{}  {}", image.id, size(image.size))
}

fn retry_line(retry: &Retry) -> String {
    format!("{}: {}; trying again", retry.registry, retry.reason)
}

fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(digest: &str, phase: Phase, bytes: u64, total: u64) -> Progress {
        let layer = Layer {
            digest: format!("sha256:{}", digest.repeat(64)),
            phase: phase.into(),
            bytes,
            total,
        };
        Progress {
            event: Some(Event::Layer(layer)),
        }
    }

    const MIB: u64 = 1 << 20;

    fn board() -> Board {
        let mut board = Board::default();
        for progress in [
            event("a", Phase::Present, 0, 0),
            event("b", Phase::Fetching, 10 * MIB, 40 * MIB),
            event("c", Phase::Unpacking, 3 * MIB, 0),
            event("d", Phase::Waiting, 0, 0),
            event("e", Phase::Fetching, 50 * MIB, 40 * MIB),
            event("e", Phase::Done, 0, 0),
        ] {
            board.apply(progress);
        }
        board
    }

    #[test]
    fn a_bar_a_layer_in_the_order_of_the_image() {
        let wide = Extent {
            columns: 80,
            rows: 24,
        };
        let expected = [
            "aaaaaaaaaaaa  already there",
            "bbbbbbbbbbbb  fetching   [=======                     ]  10.0 MiB of 40.0 MiB",
            "cccccccccccc  unpacking  3.0 MiB",
            "dddddddddddd  waiting",
            "eeeeeeeeeeee  done",
        ];
        let bars = board().bars(wide);
        let shape = |line: &str| line.replace(['=', ' '], "");
        for (line, expected) in bars.iter().zip(expected) {
            assert_eq!(shape(line), shape(expected));
        }
        assert_eq!(bars.len(), expected.len());
        let bar = &bars[1];
        let inner = bar.split(['[', ']']).nth(1).expect("a bar");
        let filled = inner.chars().filter(|c| *c == '=').count();
        assert_eq!(filled, inner.len() / 4, "a quarter of {bar}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_picture_higher() {
        for columns in [1, 10, 30, 50, 80, 200] {
            for rows in [1, 2, 3, 5, 6, 24] {
                let extent = Extent { columns, rows };
                let bars = board().bars(extent);
                assert!(
                    bars.len() <= rows.saturating_sub(1).max(1),
                    "{extent:?} {bars:?}"
                );
                assert!(
                    bars.iter().all(|line| line.chars().count() <= columns),
                    "{bars:?}"
                );
            }
        }
    }

    #[test]
    fn a_low_terminal_shows_the_count_and_the_layers_at_work() {
        let bars = board().bars(Extent {
            columns: 60,
            rows: 4,
        });
        assert_eq!(bars[0], "2 of 5 layers done");
        assert!(bars[1].starts_with("bbbbbbbbbbbb  fetching"), "{bars:?}");
        assert!(bars[2].starts_with("cccccccccccc  unpacking"), "{bars:?}");
        assert_eq!(bars.len(), 3);
    }

    #[test]
    fn without_bars_a_line_is_said_once_a_phase() {
        let mut board = Board::default();
        let mut say = |progress| board.apply(progress);
        let line = |text: &str| Change::Phase(text.to_owned());
        assert_eq!(
            say(event("a", Phase::Waiting, 0, 0)),
            line("aaaaaaaaaaaa: waiting")
        );
        let fetching = event("a", Phase::Fetching, 0, 2 * MIB);
        assert_eq!(say(fetching), line("aaaaaaaaaaaa: fetching 2.0 MiB"));
        assert_eq!(
            say(event("a", Phase::Fetching, MIB, 2 * MIB)),
            Change::Bytes
        );
        assert_eq!(
            say(event("a", Phase::Done, 0, 0)),
            line("aaaaaaaaaaaa: done")
        );
        let image = StoredImage {
            id: "sha256:1".to_owned(),
            names: vec!["b:1".to_owned()],
            size: 5,
        };
        let retry = Retry {
            registry: "r.example".to_owned(),
            reason: "503 from it".to_owned(),
        };
        let again = Progress {
            event: Some(Event::Retry(retry)),
        };
        let note = "r.example: 503 from it; trying again".to_owned();
        assert_eq!(say(again), Change::Note(note));
        let stored = Progress {
            event: Some(Event::Image(image)),
        };
        assert_eq!(say(stored), Change::Image("b:1  sha256:1  5 B".to_owned()));
    }
}
