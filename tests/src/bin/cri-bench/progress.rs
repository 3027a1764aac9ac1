//! One line that says what is measured: rewritten on a terminal, one line for each part elsewhere.

use std::io::{IsTerminal as _, Write as _};

/// What a person sees while it runs; standard output stays for the results.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    terminal: bool,
}

const WIDTH: usize = 24;

impl Progress {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Says that `done` of `all` of a part is done.
    pub(crate) fn show(&self, part: &str, done: usize, all: usize) {
        let text = if self.terminal {
            format!(
                "\r\x1b[K{} {} {part} {done}/{all}",
                self.name,
                bar(done, all)
            )
        } else if done == 0 {
            format!("{}: {part}\n", self.name)
        } else {
            return;
        };
        put(&text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            put("\r\x1b[K");
        }
    }
}

/// Nobody is helped by a failure to say how far it is.
fn put(text: &str) {
    let mut stream = std::io::stderr().lock();
    let _unseen = stream.write_all(text.as_bytes());
    let _unseen = stream.flush();
}

fn bar(done: usize, all: usize) -> String {
    let full = WIDTH * done.min(all) / all.max(1);
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_one_width() {
        for (done, all, full) in [(0, 0, 0), (0, 3, 0), (1, 2, WIDTH / 2), (9, 3, WIDTH)] {
            let bar = bar(done, all);
            assert_eq!((bar.len(), bar.matches('#').count()), (WIDTH + 2, full));
        }
    }
}
