//! Reading CRI log files: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wait::wait_for;

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub time: jiff::Timestamp,
    pub stream: String,
    /// Whether the text ends a line (`F`) or is a piece of one (`P`).
    pub full: bool,
    pub text: String,
}

/// Parses a whole log; a line that is not in the format is an error that shows it.
pub fn parse(log: &str) -> Result<Vec<LogLine>> {
    log.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<LogLine> {
    let mut parts = line.splitn(4, ' ');
    let (Some(time), Some(stream), Some(tag), text) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("not a CRI log line: {line:?}");
    };
    if !matches!(stream, "stdout" | "stderr") || !matches!(tag, "F" | "P") {
        bail!("not a CRI log line: {line:?}");
    }
    let time = time
        .parse()
        .with_context(|| format!("time of the log line {line:?}"))?;
    Ok(LogLine {
        time,
        stream: stream.to_owned(),
        full: tag == "F",
        text: text.unwrap_or_default().to_owned(),
    })
}

/// What the container wrote to `stream`, its pieces joined to lines again.
pub fn text(log: &[LogLine], stream: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in log.iter().filter(|line| line.stream == stream) {
        open.push_str(&line.text);
        if line.full {
            lines.push(std::mem::take(&mut open));
        }
    }
    lines.extend((!open.is_empty()).then_some(open));
    lines
}

/// Reads and parses the log file at `path`.
pub fn read(path: &Path) -> Result<Vec<LogLine>> {
    let bytes = std::fs::read(path).with_context(|| format!("read the log {}", path.display()))?;
    parse(&String::from_utf8_lossy(&bytes))
}

/// Waits until a line with exactly this text is in the log at `path`.
pub async fn wait_for_line(path: &Path, wanted: &str, limit: Duration) -> Result<Vec<LogLine>> {
    let what = format!("line {wanted:?} in {}", path.display());
    wait_for(&what, limit, async || {
        read(path)
            .ok()
            .filter(|log| log.iter().any(|line| line.text == wanted))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_and_bad_lines_shown() {
        let log = "2026-11-22T18:00:00.000000001Z stdout P ab\n2026-11-22T18:00:00Z stderr F x\n\
                   2026-11-22T18:00:00.1Z stdout F c d\n2026-11-22T18:00:00.1Z stdout F \n";
        let lines = parse(log).unwrap();
        assert_eq!(text(&lines, "stdout"), ["abc d", ""]);
        assert_eq!(text(&lines, "stderr"), ["x"]);
        for bad in [
            "nonsense",
            "2026-11-22T18:00:00Z stdin F x",
            "2026-11-22T18:00:00Z stdout Q x",
            "noon stdout F x",
        ] {
            assert!(
                format!("{:#}", parse(bad).unwrap_err()).contains(bad),
                "{bad}"
            );
        }
    }
}
