//! Arguments and environment from what the tender passes.
//!
//! Our tender passes both exactly, each piece ended by a zero byte. A stock tender joins the arguments with single spaces
//! and has no environment: there the line is split at spaces again, leading words `--env:NAME=VALUE` are the environment,
//! and leading words `--solo5:...`, which Solo5's own bindings take, are dropped.

use alloc::vec::Vec;

/// Pieces that borrow from the tender's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine<'a> {
    /// The arguments, without the program's name.
    pub arguments: Vec<&'a [u8]>,
    /// `NAME=VALUE`.
    pub environment: Vec<&'a [u8]>,
}

impl<'a> CommandLine<'a> {
    /// From our tender's two areas of zero-ended pieces. An unfinished last piece counts.
    #[must_use]
    pub fn exact(arguments: &'a [u8], environment: &'a [u8]) -> Self {
        Self { arguments: pieces(arguments), environment: pieces(environment) }
    }

    /// From a stock tender's line.
    #[must_use]
    pub fn joined(line: &'a [u8]) -> Self {
        let mut parsed = Self::default();
        let mut leading = true;
        for word in line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()) {
            if leading && let Some(variable) = word.strip_prefix(b"--env:") {
                parsed.environment.push(variable);
            } else if !(leading && word.starts_with(b"--solo5:")) {
                leading = false;
                parsed.arguments.push(word);
            }
        }
        parsed
    }

    /// The value of a variable.
    #[must_use]
    pub fn variable(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
    }
}

fn pieces(area: &[u8]) -> Vec<&[u8]> {
    if area.is_empty() {
        return Vec::new();
    }
    area.strip_suffix(b"\0").unwrap_or(area).split(|&byte| byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_pieces_keep_spaces_and_empty_arguments() {
        let line = CommandLine::exact(b"--title\0a b\0\0end\0", b"A=1\0B=x=y\0");
        assert_eq!(line.arguments, [&b"--title"[..], b"a b", b"", b"end"]);
        assert_eq!(line.variable(b"B"), Some(&b"x=y"[..]));
        assert_eq!(line.variable(b"A="), None);
        assert_eq!(CommandLine::exact(b"", b""), CommandLine::default());
    }

    #[test]
    fn a_single_empty_argument_is_one() {
        assert_eq!(CommandLine::exact(b"\0", b"").arguments, [b""]);
        assert_eq!(CommandLine::exact(b"a\0\0", b"").arguments, [&b"a"[..], b""]);
    }

    #[test]
    fn a_joined_line_has_its_environment_in_front() {
        let line =
            CommandLine::joined(b"--solo5:debug --env:RUST_LOG=info  --listen=:443 --env:X=1");
        assert_eq!(line.environment, [b"RUST_LOG=info"]);
        assert_eq!(line.arguments, [&b"--listen=:443"[..], b"--env:X=1"]);
    }
}
