//! A fresh store with arbitrary patches, each an offset of three bytes, a length of one and the bytes.
//! redb panics on some damage, which the store catches at opening; so the hook that ends the fuzzer at every panic is
//! taken out, and only a panic that is not caught ends it.
#![no_main]

use std::sync::{Arc, LazyLock};

use blockdev::{MemoryDevice, OpenOptions, Store, StoreError, Table};
use libfuzzer_sys::fuzz_target;

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let device = Arc::new(MemoryDevice::new(512 << 10));
    if let Ok(store) = Store::open(device.clone(), OpenOptions::default()) {
        for number in 0..100u32 {
            let _: Result<(), StoreError> =
                store.write(|tx| tx.put(Table("routes"), &number.to_be_bytes(), &[7; 700]));
        }
    }
    device.image()
});

fuzz_target!(init: drop(std::panic::take_hook()), |data: &[u8]| {
    let device = Arc::new(MemoryDevice::from_image(IMAGE.clone(), 512));
    let mut rest = data;
    while let Some((&[a, b, c, length], tail)) = rest.split_first_chunk::<4>() {
        let (bytes, tail) = tail.split_at(tail.len().min(usize::from(length)));
        blockdev::fuzz::patch(&device, u64::from(u32::from_be_bytes([0, a, b, c])), bytes);
        rest = tail;
    }
    blockdev::fuzz::open(device);
});
