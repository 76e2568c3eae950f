//! Any bytes as a pack, whole or in pieces: an error or verified objects, within the limits; both ways the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unipi::git::pack::{PackError, Unpacker};
use unipi::git::{HashKind, Limits, Objects};

fuzz_target!(|data: &[u8]| {
    let limits =
        Limits { unpacked_bytes: 1 << 20, objects: 1000, pack_bytes: 1 << 20, ..Limits::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let unpack = |piece: usize| -> Result<Objects, PackError> {
        runtime.block_on(async {
            let mut unpacker = Unpacker::new(HashKind::Sha1, &limits, None);
            for piece in data.chunks(piece) {
                unpacker.push(piece).await?;
            }
            unpacker.finish()
        })
    };
    assert_eq!(unpack(usize::MAX), unpack(3));
});
