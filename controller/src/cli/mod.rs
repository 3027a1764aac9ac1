//! The command line `husk`: the daemon's entry and the commands of an operator.
//!
//! `husk serve` runs in this process; `status`, `upgrade-monitors` and `image` ask the running daemon over
//! its socket;
//! `config` and `check` need no daemon. Output goes to the [`Stage`] that [`run`] is given, errors to
//! the caller, who decides on the exit status with [`Failure::exit_status`].
//!
//! Deliberately absent: anything that changes pods or containers. `crictl` does that over the CRI.

mod arguments;
mod check;
mod config;
mod daemon;
mod failure;
mod image;
mod status;
mod table;
mod upgrade;

use std::fmt;
use std::io::Write;
use std::os::fd::AsFd;

pub use self::arguments::{
    Cli, Command, Common, ConfigCommand, ImageCommand, Import, Output, Pull,
};
pub use self::failure::Failure;

use crate::config::Config;

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Characters of a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

impl Extent {
    /// Of the terminal `output`; nothing when it is none, or one without a size.
    pub fn of(output: impl AsFd) -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(output).ok()?;
        let known = size.ws_col > 0 && size.ws_row > 0;
        known.then(|| Self {
            columns: size.ws_col.into(),
            rows: size.ws_row.into(),
        })
    }
}

/// Where a command writes its output.
pub struct Stage<'a> {
    /// The output itself.
    pub out: &'a mut (dyn Write + Send),
    /// Its size, when it is a terminal. Progress is then drawn, and else told in lines.
    pub extent: Option<Extent>,
}

impl fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stage").field(&self.extent).finish()
    }
}

/// Does what `cli` says, with its output to `stage`.
///
/// # Errors
/// [`Failure`], which knows its exit status.
pub fn run(cli: Cli, stage: Stage<'_>) -> Result<(), Failure> {
    let out = &mut *stage.out;
    match cli.command {
        Command::Serve => serve(&cli.common),
        Command::Config(command) => config::run(command, &cli.common, out),
        Command::Check(output) => {
            let config = load(&cli.common)?;
            block_on(check::run(&config, output, out))
        }
        Command::Status(output) => {
            let config = load(&cli.common)?;
            block_on(status::run(&config, output, out))
        }
        Command::UpgradeMonitors(output) => {
            let config = load(&cli.common)?;
            block_on(upgrade::run(&config, output, out))
        }
        Command::Image(command) => {
            let config = load(&cli.common)?;
            block_on(image::run(&config, command, stage))
        }
    }
}

/// Threads that carry out calls. They only wait for others' work, which two can do for any node; one
/// for each processor, as is usual, costs memory and wakes threads that find nothing to do.
const WORKERS: usize = 2;

fn serve(common: &Common) -> Result<(), Failure> {
    let config = load(common)?;
    crate::logging::install(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|source| Failure::System {
            operation: "starting the daemon's threads",
            source,
        })?;
    runtime
        .block_on(crate::serve::run(config))
        .map_err(|error| Failure::Serve(error.into()))
}

/// The configuration with what the command line puts over it.
fn load(common: &Common) -> Result<Config, Failure> {
    let mut config = Config::load(common.config.as_deref())?;
    if let Some(level) = &common.log_level {
        let refuse =
            |permitted| Failure::Usage(format!("--log-level {level}: permitted: {permitted}"));
        config.log = config.log.with_level(level).map_err(refuse)?;
    }
    if let Some(socket) = &common.socket {
        config.socket.clone_from(socket);
    }
    Ok(config)
}

/// Runs a client's command: one thread is enough to ask and to show the answer.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System {
            operation: "starting to wait for answers",
            source,
        })?;
    runtime.block_on(command)
}

/// `value` as indented JSON with an end of line.
fn write_json(value: &impl serde::Serialize, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}
