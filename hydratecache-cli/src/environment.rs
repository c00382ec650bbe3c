//! What environment variables say where arguments say nothing.

use std::ffi::OsStr;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Error};

/// The command, for which an empty variable says nothing, and 1, yes or on switches a flag on.
pub(crate) fn read_by(command: Command) -> Command {
    command.mut_args(|argument| read_by_argument(argument, is_empty)).mut_subcommands(read_by)
}

fn is_empty(variable: &OsStr) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

fn read_by_argument(argument: Arg, is_empty: impl Fn(&OsStr) -> bool) -> Arg {
    let says_nothing = argument.get_env().is_some_and(is_empty);
    let argument = if says_nothing { argument.env(None::<&'static str>) } else { argument };
    match argument.get_action() {
        ArgAction::SetTrue => argument.value_parser(BoolishValueParser::new()),
        _ => argument,
    }
}

/// The error, which names the variable if it is the broker that is missing.
pub(crate) fn explained(mut error: Error) -> Error {
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing))
            if error.kind() == ErrorKind::MissingRequiredArgument =>
        {
            missing
        }
        _ => return error,
    };
    if missing.iter().any(|argument| argument.ends_with("<URL>")) {
        let tip = "the broker's URL can stand in HYDRATECACHE_TRANSPORT, too".to_owned().into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}
