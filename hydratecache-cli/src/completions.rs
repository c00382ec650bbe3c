//! `hydratecache completions`: what a shell needs to complete commands and options.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "hydratecache", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_an_environment_variable() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            for option in command.get_opts() {
                let variable = option.get_env().and_then(|variable| variable.to_str());
                let name = format!("{} --{}", command.get_name(), option.get_id());
                let variable = variable.unwrap_or_else(|| panic!("{name} has none"));
                assert!(variable.starts_with("HYDRATECACHE_"), "{name}: {variable}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
