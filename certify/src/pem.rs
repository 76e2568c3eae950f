//! PEM in an argument, which may have lost its line breaks.

/// `pem` with line breaks where it needs them, around each section's first and last line.
pub(crate) fn unfolded(pem: &str) -> String {
    const DASHES: &str = "-----";
    let mut text = String::with_capacity(pem.len() + 64);
    for piece in pem.split(DASHES) {
        if piece.starts_with("BEGIN ") || piece.starts_with("END ") {
            text.extend(["\n", DASHES, piece, DASHES, "\n"]);
        } else {
            text.push_str(piece);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use super::*;
    use crate::certificate::{Certificate, Source};
    use crate::roots::roots_from_pem;
    use crate::self_signed::{authority, leaf};

    #[test]
    fn line_breaks_may_be_spaces_or_missing() {
        let one = authority("one", SystemTime::now()).unwrap();
        let two = authority("two", SystemTime::now()).unwrap().chain_pem;
        let both = format!("# a ----- comment\n{}{two}", one.chain_pem);
        let joined = format!("{}{two}", one.chain_pem).replace('\n', "");
        for text in [both.clone(), both.replace('\n', " "), both.replace('\n', "\r\n"), joined] {
            assert_eq!(roots_from_pem(&text).unwrap().len(), 2, "{text}");
        }
        let half = &one.chain_pem[..one.chain_pem.len() / 2];
        assert!(roots_from_pem(half).is_err());

        let pair = leaf(&one, &["a.test".to_owned()], SystemTime::now()).unwrap();
        for between in [" ", ""] {
            let [chain, key] =
                [&pair.chain_pem, &pair.key_pem].map(|pem| unfolded(&pem.replace('\n', between)));
            Certificate::from_pem(&chain, &key, Source::File).unwrap();
        }
    }
}
