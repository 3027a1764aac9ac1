//! The command line as clap reads it. Only shape: nothing is opened or checked here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The Husk container runtime: the daemon and the commands that talk to it.
#[derive(Debug, Parser)]
#[command(
    name = "husk",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// The configuration file [default: /etc/husk/husk.toml]; its drop-ins are in FILE.d/*.toml
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The least severe level that is logged, or one per module: "info,husk::cri=debug"
    #[arg(long, value_name = "LEVELS", global = true)]
    pub log_level: Option<String>,
    /// The daemon's socket, in place of the configured one
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the kubelet until told to stop
    Serve,
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the pods, their containers and their monitors with the memory each costs
    Status(Output),
    /// Check whether this host can run pods, and say how to mend what is missing
    Check(Output),
    /// Make every monitor execute the daemon's monitor program in place, while its pod runs on
    UpgradeMonitors(Output),
    /// Pull, import, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
}

/// `husk config …`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Print every key with its meaning and default
    Default,
    /// Read the configuration and report all that is wrong with it
    Check,
    /// Print the configuration as it is in force, drop-ins included
    Show,
}

/// How a command writes what it found.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// `husk image …`
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum ImageCommand {
    /// Pull an image from its registry
    Pull(Pull),
    /// Import an OCI layout or an archive as `docker save` writes it
    Import(Import),
    /// List the images
    Ls(Output),
    /// Remove images, by any of their names or by id
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

/// `husk image pull`
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The image's name, such as docker.io/library/busybox:1.37
    #[arg(value_name = "IMAGE")]
    pub reference: String,
    /// Credentials. Other users of the host can read a command line: prefer --creds-file
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with = "creds_file")]
    pub creds: Option<String>,
    /// A file that holds USER:PASSWORD
    #[arg(long, value_name = "FILE")]
    pub creds_file: Option<PathBuf>,
}

/// `husk image import`
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Import {
    /// A tar file, or the directory of an OCI layout
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
    /// The name of the image, in place of those in the file
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_and_options_are_read() {
        type Expected = fn(Command) -> bool;
        let cases: [(&str, Expected); 9] = [
            ("husk serve", |c| matches!(c, Command::Serve)),
            ("husk config default", |c| {
                matches!(c, Command::Config(ConfigCommand::Default))
            }),
            ("husk config check", |c| {
                matches!(c, Command::Config(ConfigCommand::Check))
            }),
            ("husk status --json", |c| {
                matches!(c, Command::Status(Output { json: true }))
            }),
            ("husk check", |c| {
                matches!(c, Command::Check(Output { json: false }))
            }),
            ("husk upgrade-monitors", |c| {
                matches!(c, Command::UpgradeMonitors(Output { json: false }))
            }),
            ("husk image ls", |c| {
                matches!(c, Command::Image(ImageCommand::Ls(_)))
            }),
            (
                "husk image rm a b",
                |c| matches!(c, Command::Image(ImageCommand::Rm { images }) if images == ["a", "b"]),
            ),
            (
                "husk image pull b --creds u:p",
                |c| matches!(c, Command::Image(ImageCommand::Pull(p)) if p.creds.as_deref() == Some("u:p")),
            ),
        ];
        for (line, expected) in cases {
            let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(expected(cli.command), "{line}");
        }
    }

    #[test]
    fn common_options_stand_before_or_after_the_command() {
        for line in [
            "husk --config /a --socket /s --log-level debug status",
            "husk status --log-level debug --config /a --socket /s",
            "husk image --config /a ls --socket /s --log-level debug",
        ] {
            let common = parse(line).expect(line).common;
            assert_eq!(common.config, Some(PathBuf::from("/a")), "{line}");
            assert_eq!(common.socket, Some(PathBuf::from("/s")), "{line}");
            assert_eq!(common.log_level.as_deref(), Some("debug"), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "husk",
            "husk frobnicate",
            "husk config",
            "husk image rm",
            "husk image pull",
            "husk image pull a b",
            "husk image pull a --creds u:p --creds-file f",
            "husk status --jason",
            "husk serve --config",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
