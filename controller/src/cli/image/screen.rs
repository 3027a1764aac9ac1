//! Puts the progress on a terminal, drawn over itself, or as plain lines anywhere else.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::progress::{Board, Change};
use crate::admin::v1::Progress;
use crate::cli::Extent;

/// Bytes move faster than anybody reads; phases are always shown.
const REDRAW: Duration = Duration::from_millis(80);

/// Where the progress goes.
#[derive(Debug)]
pub(super) struct Screen {
    board: Board,
    /// Of the terminal; nothing when it is none.
    extent: Option<Extent>,
    /// Lines of the last picture, which the next one is drawn over.
    drawn: usize,
    drawn_at: Option<Instant>,
}

impl Screen {
    /// For a terminal of that size, or for plain lines.
    pub(super) fn new(extent: Option<Extent>) -> Self {
        Self {
            board: Board::default(),
            extent: extent.filter(|extent| extent.columns > 0 && extent.rows > 0),
            drawn: 0,
            drawn_at: None,
        }
    }

    /// Shows one event.
    pub(super) fn show(&mut self, progress: Progress, out: &mut dyn Write) -> io::Result<()> {
        let change = self.board.apply(progress);
        match (change, self.extent) {
            (Change::Image(line), Some(_)) => {
                self.draw(out)?;
                self.drawn = 0;
                self.board = Board::default();
                writeln!(out, "{line}")?;
            }
            (Change::Note(line), Some(_)) => {
                self.clear(out)?;
                writeln!(out, "{line}")?;
                self.draw(out)?;
            }
            (Change::Image(line) | Change::Phase(line) | Change::Note(line), None) => {
                writeln!(out, "{line}")?;
            }
            (Change::Phase(_), Some(_)) => self.draw(out)?,
            (Change::Bytes, Some(_)) if self.is_due() => self.draw(out)?,
            (Change::Bytes, _) => return Ok(()),
        }
        out.flush()
    }

    /// Leaves the last picture as it should stay.
    pub(super) fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.drawn > 0 {
            self.draw(out)?;
        }
        out.flush()
    }

    /// Takes the last picture away.
    fn clear(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.drawn > 0 {
            write!(out, "\x1b[{}A\r\x1b[J", self.drawn)?;
        }
        self.drawn = 0;
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.drawn_at.is_none_or(|drawn| drawn.elapsed() >= REDRAW)
    }

    /// Draws over the last picture: up to its first line, each line cleared and written anew, and
    /// what was below cleared (the control sequences CUU, EL and ED of ECMA-48).
    fn draw(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let Some(extent) = self.extent else {
            return Ok(());
        };
        if self.drawn > 0 {
            write!(out, "\x1b[{}A", self.drawn)?;
        }
        let bars = self.board.bars(extent);
        for line in &bars {
            write!(out, "\r\x1b[K{line}\n")?;
        }
        write!(out, "\x1b[J")?;
        self.drawn = bars.len();
        self.drawn_at = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::v1::{Layer, Phase, Retry, StoredImage, progress::Event};

    fn layer(digest: &str, phase: Phase) -> Progress {
        let layer = Layer {
            digest: digest.to_owned(),
            phase: phase.into(),
            bytes: 0,
            total: 0,
        };
        Progress {
            event: Some(Event::Layer(layer)),
        }
    }

    fn image() -> Progress {
        let image = StoredImage {
            id: "sha256:9".to_owned(),
            names: Vec::new(),
            size: 0,
        };
        Progress {
            event: Some(Event::Image(image)),
        }
    }

    fn retry() -> Progress {
        let retry = Retry {
            registry: "r".to_owned(),
            reason: "slow".to_owned(),
        };
        Progress {
            event: Some(Event::Retry(retry)),
        }
    }

    fn shown(extent: Option<Extent>) -> String {
        let mut screen = Screen::new(extent);
        let mut out = Vec::new();
        let events = [
            layer("a", Phase::Fetching),
            layer("b", Phase::Fetching),
            layer("a", Phase::Fetching),
            retry(),
            layer("a", Phase::Done),
            image(),
        ];
        for event in events {
            screen.show(event, &mut out).expect("written");
        }
        screen.finish(&mut out).expect("written");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn plain_output_has_no_control_sequences() {
        assert_eq!(
            shown(None),
            "a: fetching\nb: fetching\nr: slow; trying again\na: done\nsha256:9  0 B\n"
        );
    }

    /// What a terminal would show after `text`: only the sequences used here.
    fn terminal(text: &str) -> Vec<String> {
        let mut lines: Vec<String> = vec![String::new()];
        let mut at = 0;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let end = sequence
                    .find(|c: char| c.is_ascii_alphabetic())
                    .expect("an end");
                match &sequence[end..=end] {
                    "A" => at -= sequence[..end].parse::<usize>().expect("a count"),
                    "K" => lines[at].clear(),
                    // Only ever at the first column.
                    "J" => {
                        lines.truncate(at + 1);
                        lines[at].clear();
                    }
                    other => panic!("unknown sequence {other}"),
                }
                rest = &sequence[end + 1..];
                continue;
            }
            match c {
                '\r' => {}
                '\n' => {
                    at += 1;
                    lines.resize(lines.len().max(at + 1), String::new());
                }
                c => lines[at].push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
        lines
    }

    #[test]
    fn a_terminal_ends_with_one_line_a_layer_and_the_image_below() {
        let text = shown(Some(Extent {
            columns: 80,
            rows: 24,
        }));
        let expected = [
            "r: slow; trying again",
            "a  done",
            "b  fetching   0 B",
            "sha256:9  0 B",
            "",
        ];
        assert_eq!(terminal(&text), expected, "{text:?}");
    }
}
