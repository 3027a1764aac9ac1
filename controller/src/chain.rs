//! An error with all its causes in one line, for where only text can go.

use std::error::Error;

/// `error` and all that caused it, in one line. Some libraries repeat a cause in its effect's text:
/// it is said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
