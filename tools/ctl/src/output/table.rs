//! A table whose rows are printed as they come.
//!
//! A list can have a million rows, so the table never holds more than a page of them: columns are as wide as the
//! widest cell so far, and may grow from one page to the next.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::human::clean;
use super::{Output, Tone};

/// Columns with their titles and widths so far.
#[derive(Debug)]
pub(crate) struct Table {
    titles: Vec<&'static str>,
    widths: Vec<usize>,
    titled: bool,
}

/// One cell: foreign text, and how it is coloured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: clean(text.as_ref()), tone }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl Table {
    /// Columns with these titles.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        Self {
            titles: titles.to_vec(),
            widths: titles.iter().map(|title| title.width()).collect(),
            titled: false,
        }
    }

    /// Prints a page of rows, below the titles if it is the first.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn rows(&mut self, output: &mut Output, rows: &[Vec<Cell>]) -> io::Result<()> {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        if !self.titled {
            self.titled = true;
            let titles: Vec<Cell> =
                self.titles.iter().map(|title| Cell::new(title, Tone::Faint)).collect();
            self.row(output, &titles)?;
        }
        rows.iter().try_for_each(|row| self.row(output, row))
    }

    fn row(&self, output: &mut Output, row: &[Cell]) -> io::Result<()> {
        let mut gap = 0;
        for (width, cell) in self.widths.iter().zip(row) {
            // The gap before a cell, not after it: no line ends with blanks.
            let text = output.paint(cell.tone, &cell.text);
            if !cell.text.is_empty() {
                write!(output, "{:gap$}{text}", "")?;
                gap = 0;
            }
            gap += width + 2 - if cell.text.is_empty() { 0 } else { cell.width() };
        }
        writeln!(output)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn print(pages: &[&[&[&str]]]) -> String {
        let (mut output, text) = Output::memory();
        let mut table = Table::new(&["NAME", "X", "BACKENDS"]);
        for page in pages {
            let rows: Vec<Vec<Cell>> =
                page.iter().map(|row| row.iter().map(Cell::from).collect()).collect();
            table.rows(&mut output, &rows).unwrap();
        }
        text.take()
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let text = print(&[&[&["a.example.org", "", "10.0.0.7:80"], &["b", "yes", ""]]]);
        assert_eq!(
            text,
            "NAME           X    BACKENDS\n\
             a.example.org       10.0.0.7:80\n\
             b              yes\n"
        );
    }

    #[test]
    fn a_later_page_may_widen_the_columns() {
        let text = print(&[&[&["a", "1", "x"]], &[&["longer", "2", "y"]], &[&["b", "3", "z"]]]);
        assert_eq!(text, "NAME  X  BACKENDS\na     1  x\nlonger  2  y\nb       3  z\n");
    }

    #[test]
    fn wide_characters_count_as_they_are_shown() {
        let text = print(&[&[&["東京", "1", "x"], &["abcde", "2", "y"]]]);
        assert_eq!(text, "NAME   X  BACKENDS\n東京   1  x\nabcde  2  y\n");
    }
}
