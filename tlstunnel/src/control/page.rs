//! Pages that every client can read: their entries end where a frame of the usual length is full.

use std::io;

use config_proto::message::{
    Applied, CertificateList, Check, Diff, History, MAX_PAGE, RouteList, Status, Top,
};
use config_proto::v2::MAX_FRAME_BYTES;
use serde::Serialize;

/// Bytes of JSON for the entries of a page. What is left of the frame is for everything around them.
const ENTRIES_BYTES: usize = MAX_FRAME_BYTES - 64 * 1024;

/// An answer with a list whose end can be left out.
pub(super) trait Page {
    /// Leaves out what does not fit into a frame of [`MAX_FRAME_BYTES`], and says so in the answer.
    fn fit(self) -> Self;
}

impl Page for RouteList {
    fn fit(mut self) -> Self {
        self.more |= shorten(&mut self.routes, ENTRIES_BYTES);
        self
    }
}

impl Page for CertificateList {
    fn fit(mut self) -> Self {
        self.more |= shorten(&mut self.certificates, ENTRIES_BYTES);
        self
    }
}

impl Page for Check {
    fn fit(mut self) -> Self {
        self.more |= shorten(&mut self.findings, ENTRIES_BYTES);
        self
    }
}

/// Two lists share the frame.
impl Page for Status {
    fn fit(mut self) -> Self {
        self.more_certificates |= shorten(&mut self.certificates, ENTRIES_BYTES / 2);
        let all = self.problems.len();
        shorten(&mut self.problems, ENTRIES_BYTES / 2);
        match all - self.problems.len() {
            0 => {}
            more => self.problems.push(format!("{more} further problems; see tlstunnel-ctl check")),
        }
        self
    }
}

/// The same.
impl Page for Top {
    fn fit(mut self) -> Self {
        shorten(&mut self.routes, ENTRIES_BYTES / 2);
        shorten(&mut self.connections, ENTRIES_BYTES / 2);
        self
    }
}

impl Page for History {
    fn fit(mut self) -> Self {
        self.more |= shorten(&mut self.generations, ENTRIES_BYTES);
        self
    }
}

impl Page for Diff {
    fn fit(mut self) -> Self {
        self.more |= shorten(&mut self.changes, ENTRIES_BYTES);
        self
    }
}

impl Page for Applied {
    fn fit(mut self) -> Self {
        self.diff = self.diff.fit();
        self
    }
}

/// Cuts `entries` off after [`MAX_PAGE`] and where their JSON has more than `bytes`; whether it did. The first entry stays
/// however long it is, so that whoever asks for page after page gets on.
fn shorten<T: Serialize>(entries: &mut Vec<T>, bytes: usize) -> bool {
    let mut length = Length(0);
    let fitting = entries
        .iter()
        .take(usize::try_from(MAX_PAGE).unwrap_or(usize::MAX))
        // What cannot be written is found out when the answer is.
        .take_while(|entry| serde_json::to_writer(&mut length, entry).is_ok() && length.0 <= bytes)
        .count()
        .max(1);
    let cut = fitting < entries.len();
    entries.truncate(fitting);
    cut
}

/// Counts what is written. The commas between at most a thousand entries are in what is left of the frame.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_where_the_frame_is_full() {
        let cut = |lengths: &[usize]| {
            let mut entries: Vec<String> = lengths.iter().map(|n| "x".repeat(*n)).collect();
            (shorten(&mut entries, ENTRIES_BYTES), entries.len())
        };
        assert_eq!(cut(&[]), (false, 0));
        assert_eq!(cut(&[10; 1000]), (false, 1000));
        assert_eq!(cut(&[10; 1001]), (true, 1000));
        assert_eq!(cut(&[ENTRIES_BYTES, 1]), (true, 1));
        assert_eq!(cut(&[2 * ENTRIES_BYTES]), (false, 1));
        assert_eq!(cut(&[ENTRIES_BYTES / 10; 20]), (true, 9));
    }
}
