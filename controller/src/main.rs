//! `husk`: reads the command line, does it, and turns a failure into text and an exit status.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use husk::cli::{self, Cli, Extent, Stage};

/// A command line that cannot be read, as `sysexits.h` has it.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let mut out = std::io::stdout();
    let extent = Extent::of(&out);
    let stage = Stage {
        out: &mut out,
        extent,
    };
    let done = cli::run(cli, stage);
    let flushed = out.flush().map_err(cli::Failure::Output);
    match done.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cli::Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("husk: {}\n", husk::chain::chain(&failure)));
            ExitCode::from(failure.exit_status())
        }
    }
}

/// Help and version are answers and not errors; all else is misuse.
fn refuse(error: &clap::Error) -> ExitCode {
    let answered = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    match (error.print(), answered) {
        (Ok(()), true) => ExitCode::SUCCESS,
        (Ok(()) | Err(_), _) => ExitCode::from(USAGE),
    }
}

/// To standard error. When even that fails there is nobody left to tell.
fn say(text: &str) {
    drop(std::io::stderr().write_all(text.as_bytes()));
}
