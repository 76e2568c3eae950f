//! The terminal while `top` has it: raw mode and the alternate screen, given back on every way out.

use std::io::{self, Stdout, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{execute, queue};

use super::screen::Size;

/// What the user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing, for as long as was waited.
    Nothing,
    /// Wants to leave: q, Escape, Ctrl-C or Ctrl-D.
    Quit,
    /// The terminal has another size, or a redraw was asked for (Ctrl-L).
    Redraw,
}

/// The terminal, taken over until this is dropped.
#[derive(Debug)]
pub(super) struct Terminal {
    stdout: Stdout,
}

impl Terminal {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// Standard input or output is no terminal.
    pub(super) fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on, dropping gives everything back.
        let mut terminal = Self { stdout: io::stdout() };
        execute!(terminal.stdout, EnterAlternateScreen, Hide)?;
        Ok(terminal)
    }

    /// How large it is now.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn size(&self) -> io::Result<Size> {
        let (columns, rows) = size()?;
        Ok(Size { columns: columns.into(), rows: rows.into() })
    }

    /// Shows these lines and nothing else.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        for (row, line) in (0u16..).zip(lines) {
            // Over the old text, then clear what it leaves: clearing first would flicker.
            queue!(self.stdout, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
        }
        if let Ok(row) = u16::try_from(lines.len()) {
            queue!(self.stdout, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        }
        self.stdout.flush()
    }

    /// Waits for the user.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn input(&self, longest: Duration) -> io::Result<Input> {
        if !poll(longest)? {
            return Ok(Input::Nothing);
        }
        Ok(match read()? {
            Event::Resize(..) => Input::Redraw,
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q' | 'Q') | KeyCode::Esc => Input::Quit,
                    KeyCode::Char('c' | 'd') if control => Input::Quit,
                    KeyCode::Char('l') if control => Input::Redraw,
                    _ => Input::Nothing,
                }
            }
            _ => Input::Nothing,
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal may be gone; then nobody misses it.
        let _ = execute!(self.stdout, Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
