//! What an OCI runtime said: when it failed, one JSON object a line in its log, mixed with plain
//! lines on its standard error; when it was asked for a container's state, one object.

/// The longest cause that is passed on, in bytes.
const LONGEST: usize = 4096;

/// The message of the last error, or the last line that says anything.
pub(super) fn error(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| matches!(field(line, "level").as_deref(), Some("error" | "fatal"));
    let message = |line: &str| field(line, "msg");
    let mut cause = lines()
        .filter(is_error)
        .rev()
        .find_map(message)
        .or_else(|| lines().rev().find_map(message))
        .or_else(|| lines().next_back().map(str::to_owned))?;
    let end = cause.floor_char_boundary(LONGEST);
    cause.truncate(end);
    Some(cause)
}

/// The status in an answer to `state`. Runtimes write it before anything that is not flat, as the
/// specification lists it (runtime.md, "State").
pub(super) fn status(answer: &[u8]) -> Option<String> {
    field(String::from_utf8_lossy(answer).trim_start(), "status")
}

/// The value of a string member of a flat JSON object. No parser: what is not understood is not
/// found, and the whole line is passed on instead.
fn field(line: &str, name: &str) -> Option<String> {
    let mut rest = line.strip_prefix('{')?;
    loop {
        let (key, after) = string(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        let value = if rest.starts_with('"') {
            let (value, after) = string(rest)?;
            rest = after;
            Some(value)
        } else {
            // A number, a literal: it has no comma of its own.
            rest = rest.get(rest.find(',')?..)?;
            None
        };
        if key == name {
            return value;
        }
        rest = rest.trim_start().strip_prefix(',')?;
    }
}

/// The JSON string at the start of the text, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start().strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(index + 1..)?)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                'u' => {
                    let digits: String = characters.by_ref().take(4).map(|(_, c)| c).collect();
                    let code = u32::from_str_radix(&digits, 16).ok()?;
                    // Half of a surrogate pair is no character; messages have none.
                    value.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_found_in_what_runtimes_write() {
        let rows = [
            (
                r#"{"level":"warning","msg":"old"}
{"level":"error","msg":"runc create failed: \"a\" \u003e b\n","time":"2026-11-22T00:00:00Z"}
"#,
                "runc create failed: \"a\" > b\n",
            ),
            (
                "{\"msg\":\"executable file `x` not found in $PATH: No such file or directory\",\"level\":\"error\",\"time\":\"t\"}\n",
                "executable file `x` not found in $PATH: No such file or directory",
            ),
            (
                r#"{"n":1,"level":"error","msg":"after a number"}"#,
                "after a number",
            ),
            (r#"{"level":"info","msg":"only this"}"#, "only this"),
            ("Incorrect Usage\n\nflag x\n", "flag x"),
            (
                r#"{"level":"error","msg":"cut"#,
                r#"{"level":"error","msg":"cut"#,
            ),
        ];
        for (log, expect) in rows {
            assert_eq!(error(log.as_bytes()).as_deref(), Some(expect));
        }
        assert_eq!(error(b"\n"), None);
    }

    #[test]
    fn the_status_is_found_in_what_runtimes_answer() {
        let crun = r#"{
  "ociVersion": "1.0.0",
  "id": "c1",
  "pid": 1234,
  "status": "running",
  "bundle": "/b",
  "annotations": { "status": "created" }
}
"#;
        let specification = r#"{"ociVersion":"1.2.0","id":"c1","status":"created","pid":12}"#;
        let rows = [
            (crun, Some("running")),
            (specification, Some("created")),
            (r#"{"id":"c1"}"#, None),
            ("no such container", None),
            ("", None),
        ];
        for (answer, expect) in rows {
            assert_eq!(status(answer.as_bytes()).as_deref(), expect, "{answer}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_log_is_too_strange(log: Vec<u8>, line in r#"\{("[a-z\\"]*":?[0-9"]*,?)*\}?"#) {
            let _ = error(&log);
            let _ = status(&log);
            let _ = error(line.as_bytes());
        }
    }
}
