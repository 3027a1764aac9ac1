//! `husk config`: the default, the check, and what is in force.

use std::io::Write;

use super::Failure;
use super::arguments::{Common, ConfigCommand};
use crate::config::{Config, DEFAULT_FILE};

pub(super) fn run(
    command: ConfigCommand,
    common: &Common,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        ConfigCommand::Default => out.write_all(Config::default().to_toml().as_bytes())?,
        ConfigCommand::Show => out.write_all(super::load(common)?.to_toml().as_bytes())?,
        ConfigCommand::Check => {
            super::load(common)?;
            match &common.config {
                Some(file) => writeln!(out, "{}: no problems", file.display())?,
                None => writeln!(out, "{DEFAULT_FILE}: no problems")?,
            }
        }
    }
    Ok(())
}
