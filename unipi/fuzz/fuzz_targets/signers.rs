//! Any text as a list of allowed signers: what is taken has keys, and an error names a line that is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unipi::trust::{AllowedSigners, SignersError};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    match AllowedSigners::parse(&text) {
        Ok(signers) => {
            assert!(!signers.is_empty() && signers.len() <= text.lines().count());
            // Comments and empty lines change nothing.
            let longer = format!("# a comment\n\n{text}");
            assert_eq!(AllowedSigners::parse(&longer).map(|again| again.len()), Ok(signers.len()));
        }
        Err(SignersError::Line { line, why }) => {
            assert!((1..=text.lines().count()).contains(&line) && !why.is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
