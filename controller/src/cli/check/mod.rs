//! `husk check`: can this host run pods, and if not, what is to be done?
//!
//! [`host`] reads facts, [`findings`] judges them without I/O, and this file shows the outcome.
//! Deliberately absent: changing anything. The fixes are shown, the operator decides.

mod facts;
mod findings;
mod host;
#[cfg(test)]
mod tests;

use std::io::Write;

use self::findings::{Finding, Verdict};
use super::Failure;
use super::arguments::Output;
use crate::config::Config;

pub(super) async fn run(
    config: &Config,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let findings = findings::all(&host::facts(config).await);
    if output.json {
        super::write_json(&findings, out)?;
    } else {
        out.write_all(table(&findings).as_bytes())?;
    }
    match findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .count()
    {
        0 => Ok(()),
        1 => Err(Failure::Amiss("1 check failed".to_owned())),
        count => Err(Failure::Amiss(format!("{count} checks failed"))),
    }
}

/// The findings for people: a line each, and one more with the fix.
fn table(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.check.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text.push_str(&format!(
            "{verdict:<5} {:<width$}  {}\n",
            finding.check, finding.found
        ));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("{:<5} {:<width$}  fix: {fix}\n", "", ""));
        }
    }
    text
}
