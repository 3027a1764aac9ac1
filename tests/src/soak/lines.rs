//! The oracle of logs: a container writes 1, 2, 3 and so on, and that is what its log has. Pure.

use anyhow::{Result, ensure};

/// What a monitor can have read and not written yet, in bytes of output.
const BUFFER: usize = 64 * 1024;

/// How many lines are there. They come in order, each once, from 1 on; but for each of `deaths` of the
/// pod's monitor, what it had in its hand may be missing: lines in a row, and the beginning of the one
/// after them.
pub(super) fn counted(lines: &[String], deaths: u64) -> Result<u64> {
    let (mut last, mut gaps) = (0, 0);
    for (at, line) in lines.iter().enumerate() {
        if *line == (last + 1).to_string() {
            last += 1;
            continue;
        }
        let after = lines.get(at + 1).and_then(|line| line.parse::<u64>().ok());
        let torn = after.map(|after| after.saturating_sub(1));
        let torn = torn.filter(|it| *it > last && it.to_string().ends_with(line.as_str()));
        let number = torn.or_else(|| line.parse().ok());
        let Some(number) = number.filter(|it| *it > last) else {
            // The last of all may be such a rest as well, and then nothing says of what.
            let is_rest = at + 1 == lines.len() && gaps < deaths;
            ensure!(is_rest, "line {} is {line:?} after {last}", at + 1);
            return Ok(last);
        };
        gaps += 1;
        ensure!(
            gaps <= deaths,
            "{} to {number} are missing or torn: gap {gaps} of {deaths} deaths",
            last + 1
        );
        let lost: usize = (last + 1..number).map(|it| it.to_string().len() + 1).sum();
        ensure!(lost <= BUFFER, "{lost} bytes are missing before {number}");
        last = number;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_monitor_had_in_its_hand_may_be_missing() {
        let good = [
            ("", 0, 0),
            ("1 2 3", 0, 3),
            ("1 2 5 6", 1, 6),
            ("4 5", 1, 5),
            // 12 has lost its beginning.
            ("1 2 2 13 14", 1, 14),
            ("1 2 5 6 9", 2, 9),
            // The last line has lost its beginning.
            ("8 9 10 11 1", 2, 11),
        ];
        for (text, deaths, expected) in good {
            let lines: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            assert_eq!(counted(&lines, deaths).unwrap(), expected, "{text}");
        }
        let bad = [
            ("2", 0),
            ("1 1 2", 0),
            ("1 1 2", 1),
            ("1 2 1 2", 3),
            ("1 3 5", 1),
            ("1 x 3", 1),
            ("1 2 90000", 1),
        ];
        for (text, deaths) in bad {
            let lines: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            assert!(counted(&lines, deaths).is_err(), "{text}");
        }
    }
}
