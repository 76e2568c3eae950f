//! Where answers go: text for people or one JSON document for programs, on standard output; warnings and failures on
//! standard error.

use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::rc::Rc;

use serde::Serialize;

use crate::failure::Failure;

pub(crate) mod human;
pub(crate) mod settings;
pub(crate) mod table;

use human::clean;

/// Standard output, and whether it wants JSON or colours.
pub(crate) struct Output {
    json: bool,
    colour: bool,
    /// Whether something was printed: then JSON has begun, and an error cannot be the one document any more.
    begun: bool,
    sink: Box<dyn Write>,
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    /// Headings and what is less important.
    Faint,
    /// What stands out.
    Strong,
    /// Done, healthy, added.
    Good,
    /// Needs attention.
    Warning,
    /// Failed, down, removed.
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Faint => "2",
            Self::Strong => "1",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
        }
    }
}

impl Output {
    /// Standard output, with colours if it is a terminal and `NO_COLOR` is unset or empty (no-color.org).
    pub(crate) fn stdout(json: bool) -> Self {
        let colour = io::stdout().is_terminal() && colours_wanted();
        Self { json, colour, begun: false, sink: Box::new(BufWriter::new(io::stdout())) }
    }

    /// An output without colours that collects its text.
    pub(crate) fn memory() -> (Self, Memory) {
        let memory = Memory::default();
        (Self { json: false, colour: false, begun: false, sink: Box::new(memory.clone()) }, memory)
    }

    /// Whether programs read this.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// The text in its tone, or unchanged where colours are not wanted.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.colour, tone, text)
    }

    /// Prints the answer as JSON and says so, or leaves it to the caller to print text.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn as_json<T: Serialize>(&mut self, answer: &T) -> io::Result<bool> {
        if self.json {
            serde_json::to_writer_pretty(&mut *self, answer)?;
            writeln!(self)?;
        }
        Ok(self.json)
    }

    /// One line of `label` and foreign `text`, in two columns.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn field(&mut self, label: &str, text: &str) -> io::Result<()> {
        let label = self.paint(Tone::Faint, &format!("{label:<14}"));
        writeln!(self, "{label} {}", clean(text))
    }

    /// Says why the command failed and what to try. With JSON wanted, standard output gets the error as the one
    /// document; where another one has begun, that stays incomplete and the error goes to standard error.
    pub(crate) fn report(&mut self, failure: &Failure) {
        if failure.is_told() {
            return;
        }
        if self.json && !self.begun {
            let error = serde_json::json!({"error": {
                "code": failure.code(), "message": failure.to_string(), "hint": failure.hint()
            }});
            // When this cannot be written either, the exit code still says it.
            let _ = writeln!(self, "{error:#}").and_then(|()| self.flush());
            return;
        }
        complain(Tone::Bad, "error", &failure.to_string());
        if let Some(hint) = failure.hint() {
            complain(Tone::Good, "try", hint);
        }
    }

    /// One line of foreign text.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self, "{}", clean(text))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun = true;
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Says on standard error what the user may want to know; the command goes on.
pub(crate) fn warn(text: &str) {
    complain(Tone::Warning, "warning", text);
}

fn complain(tone: Tone, label: &str, text: &str) {
    let colour = io::stderr().is_terminal() && colours_wanted();
    // The text may be a parser's message of several lines.
    let text = text.trim_end().split('\n').map(clean).collect::<Vec<_>>().join("\n");
    let _ = writeln!(io::stderr(), "{}: {text}", paint(colour, tone, label));
}

fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(colour: bool, tone: Tone, text: &str) -> String {
    if !colour || tone == Tone::Plain || text.is_empty() {
        return text.to_owned();
    }
    format!("\u{1b}[{}m{text}\u{1b}[0m", tone.code())
}

/// What an [`Output::memory`] got so far.
#[derive(Clone, Default)]
pub(crate) struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    /// Takes it out.
    pub(crate) fn take(&self) -> String {
        String::from_utf8_lossy(&self.0.take()).into_owned()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
