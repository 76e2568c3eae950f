//! Secrets on a command line, which everybody on the machine can read in its list of processes.

use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Where a process finds its own command line, as others find it there (proc(5)).
const COMMAND_LINE: &str = "/proc/self/cmdline";

/// Those of the options `ids` that stand on a command line which others can read, as they are written there.
///
/// None where there is no list of processes: a guest's arguments are for nobody but its tender. Whether they stand on the
/// tender's command line, only its user knows (`hvt --args-file` keeps them off it).
pub fn shown(matches: &ArgMatches, ids: &[&str]) -> Vec<String> {
    if !Path::new(COMMAND_LINE).exists() {
        return Vec::new();
    }
    let in_arguments = |id: &&&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    ids.iter().filter(in_arguments).map(|id| format!("--{}", id.replace('_', "-"))).collect()
}

/// Warns of options that [`shown`] has found. For when there is a log.
pub fn warn(shown: &[String]) {
    for option in shown {
        tracing::warn!("{option} shows in process lists: use its file or the environment");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn only_what_stands_on_the_command_line_is_shown() {
        let command = Command::new("program")
            .arg(Arg::new("storage_key").long("storage-key"))
            .arg(Arg::new("control_key").long("control-key").default_value("a"))
            .arg(Arg::new("name").long("name"));
        let line = ["program", "--storage-key", "secret", "--name", "secret"];
        let matches = command.try_get_matches_from(line).unwrap();
        assert_eq!(shown(&matches, &["storage_key", "control_key"]), ["--storage-key"]);
    }
}
