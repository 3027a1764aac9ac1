//! Writes a configuration as TOML with a comment above every key.

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Document {
    text: String,
    table: String,
    /// Whether a table's header was the last thing written.
    opened: bool,
}

impl Document {
    /// Opens the table `path`. The top of the file has the empty path and no header.
    pub(super) fn table(&mut self, path: &str, about_key: &[&str], about_type: &[&str]) {
        let lines = if about_key.is_empty() {
            about_type
        } else {
            about_key
        };
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.comment_lines(lines);
        if path.is_empty() {
            return;
        }
        path.clone_into(&mut self.table);
        self.line(&format!("[{path}]"));
        self.opened = true;
    }

    /// The comment of a key, each line as a doc comment has it: with its leading space.
    pub(super) fn comment(&mut self, lines: &[&str]) {
        if !self.opened {
            self.text.push('\n');
        }
        self.comment_lines(lines);
    }

    /// A key with its value.
    pub(super) fn key(&mut self, path: &str, value: &str) {
        let line = format!("{} = {value}", self.short(path));
        self.line(&line);
    }

    /// A key that is not set: shown with an example, as a comment.
    pub(super) fn unset_key(&mut self, path: &str, example: &str) {
        let line = format!("#{} = {example}", self.short(path));
        self.line(&line);
    }

    /// The finished text.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn comment_lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(format!("#{line}").trim_end());
        }
    }

    fn short<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(self.table.as_str())
            .map_or(path, |rest| rest.trim_start_matches('.'))
    }

    fn line(&mut self, line: &str) {
        self.opened = false;
        self.text.push_str(line);
        self.text.push('\n');
    }
}
