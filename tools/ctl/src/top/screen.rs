//! The screen of `top` as lines of text, for a terminal of any size. Nothing here touches a terminal.

use std::time::Duration;

use config_proto::message::ConnectionInfo;
use unicode_width::UnicodeWidthChar;

use super::rates::{Rate, Rates, RouteRates};
use crate::output::human::{bytes, clean, span};
use crate::output::table::{Cell, Table};
use crate::output::{Output, Tone};

/// How large the screen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Size {
    /// Everything is shown in full: for a file or a pipe.
    pub(super) const UNBOUNDED: Self = Self { columns: usize::MAX, rows: usize::MAX };
}

/// The lines of the screen, at most as many and as wide as `size` allows.
pub(super) fn lines(rates: &Rates, remote: &str, trouble: Option<&str>, size: Size) -> Vec<String> {
    let now = rates.now();
    let per_second = |rate: Option<Rate>| rate.map_or_else(|| "-".to_owned(), |r| r.to_string());
    let mut lines = vec![
        format!(
            "tlstunnel {}, up {}: {} open, {} since start",
            clean(remote),
            span(Duration::from_secs(now.uptime_ms / 1000)),
            now.open,
            now.total
        ),
        format!(
            "connections {}/s   handshakes {}/s, failed {}/s   in {}   out {}",
            per_second(rates.of(|top| top.total)),
            per_second(rates.of(|top| top.handshakes)),
            per_second(rates.of(|top| top.handshake_failures)),
            flow(rates.of(|top| top.bytes_in)),
            flow(rates.of(|top| top.bytes_out)),
        ),
        trouble.map(clean).unwrap_or_default(),
    ];
    let left = size.rows.saturating_sub(lines.len());
    let (for_routes, for_connections) =
        share(left, now.routes.len().saturating_add(2), now.connections.len().saturating_add(1));
    let routes: Vec<Vec<Cell>> = rates.routes().map(|route| route_row(&route)).collect();
    let titles = ["ROUTE", "OPEN", "CONN/S", "IN", "OUT", "TOTAL", "TOTAL IN", "TOTAL OUT"];
    // One line stays empty between the tables.
    lines.extend(table(&titles, &routes, for_routes.saturating_sub(1)));
    if for_routes > 0 {
        lines.push(String::new());
    }
    let connections: Vec<Vec<Cell>> = now.connections.iter().map(connection_row).collect();
    let titles = ["CLIENT", "SERVER NAME", "ROUTE", "BACKEND", "AGE", "IN", "OUT"];
    lines.extend(table(&titles, &connections, for_connections));
    lines.truncate(size.rows);
    lines.iter_mut().for_each(|line| clip(line, size.columns));
    lines
}

/// Shares `space` lines between two parts: each gets what it wants if both fit, else half, and what the other leaves.
fn share(space: usize, first: usize, second: usize) -> (usize, usize) {
    let half = space / 2;
    if first.saturating_add(second) <= space {
        (first, second)
    } else if first <= half {
        (first, space - first)
    } else if second <= space - half {
        (space - second, second)
    } else {
        (half, space - half)
    }
}

fn table(titles: &[&'static str], rows: &[Vec<Cell>], space: usize) -> Vec<String> {
    let shown = rows.len().min(space.saturating_sub(1));
    let (mut output, text) = Output::memory();
    // Memory cannot fail to be written.
    let _ = Table::new(titles).rows(&mut output, rows.get(..shown).unwrap_or(rows));
    text.take().lines().take(space).map(str::to_owned).collect()
}

fn route_row(route: &RouteRates<'_>) -> Vec<Cell> {
    let now = route.now;
    let rate = route.of(|route| route.total);
    vec![
        Cell::new(now.name.to_string(), Tone::Plain),
        Cell::from(now.open.to_string()),
        Cell::from(rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string())),
        Cell::from(flow(route.of(|route| route.bytes_in))),
        Cell::from(flow(route.of(|route| route.bytes_out))),
        Cell::from(now.total.to_string()),
        Cell::from(bytes(now.bytes_in)),
        Cell::from(bytes(now.bytes_out)),
    ]
}

fn connection_row(connection: &ConnectionInfo) -> Vec<Cell> {
    let route = connection.route.as_ref().map(ToString::to_string);
    vec![
        Cell::from(&connection.client),
        Cell::from(connection.server_name.as_deref().unwrap_or("-")),
        Cell::from(route.as_deref().unwrap_or("-")),
        Cell::from(connection.backend.as_deref().unwrap_or("-")),
        Cell::from(span(Duration::from_secs(connection.age_ms / 1000))),
        Cell::from(bytes(connection.bytes_in)),
        Cell::from(bytes(connection.bytes_out)),
    ]
}

fn flow(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(rate.whole())))
}

fn clip(line: &mut String, columns: usize) {
    let mut width: usize = 0;
    for (at, c) in line.char_indices() {
        width = width.saturating_add(c.width().unwrap_or(0));
        if width > columns {
            line.truncate(at);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::super::rates::tests::look;
    use super::*;

    fn rates() -> Rates {
        Rates::first(look(1000, 10, 0)).next(look(3000, 15, 4096))
    }

    #[test]
    fn an_unbounded_screen_shows_everything() {
        let lines = lines(&rates(), "[::1]:1234", None, Size::UNBOUNDED);
        let text = lines.join("\n");
        assert_eq!(
            text,
            "tlstunnel [::1]:1234, up 3s: 2 open, 15 since start\n\
             connections 2.5/s   handshakes 2.5/s, failed 0.0/s   in 2.0 KiB/s   out 0 B/s\n\
             \n\
             ROUTE             OPEN  CONN/S  IN         OUT    TOTAL  TOTAL IN  TOTAL OUT\n\
             blog.example.org  2     2.5     2.0 KiB/s  0 B/s  15     4.0 KiB   0 B\n\
             \n\
             CLIENT          SERVER NAME       ROUTE             BACKEND      AGE    IN   OUT\n\
             192.0.2.9:4711  blog.example.org  blog.example.org  10.0.0.7:80  1m 1s  5 B  2.0 KiB"
        );
    }

    #[test]
    fn no_size_is_exceeded() {
        let mut top = look(3000, 15, 4096);
        top.routes = (0..50).flat_map(|_| top.routes.clone()).collect();
        top.connections = (0..50).flat_map(|_| top.connections.clone()).collect();
        let rates = Rates::first(top);
        for rows in 0..40 {
            for columns in [0, 1, 7, 40, 200] {
                let lines = lines(&rates, "東京:1", Some("gone\u{1b}"), Size { columns, rows });
                assert!(lines.len() <= rows, "{} lines of {rows}", lines.len());
                for line in lines {
                    assert!(line.width() <= columns, "{line:?} is wider than {columns}");
                }
            }
        }
    }

    #[test]
    fn space_is_shared_fairly() {
        assert_eq!(share(20, 3, 5), (3, 5));
        assert_eq!(share(20, 3, 50), (3, 17));
        assert_eq!(share(20, 50, 3), (17, 3));
        assert_eq!(share(21, 50, 50), (10, 11));
        assert_eq!(share(0, 50, 50), (0, 0));
    }
}
