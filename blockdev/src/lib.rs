//! Block devices and the transactional store on them.
//!
//! Three layers, each usable alone:
//!
//! - [`device`]: sectors that can be read, written and flushed; a file or raw block device, memory, and a device that
//!   fails on purpose.
//! - [`store`]: tables of bytes with transactions that survive a crash at any point, on any such device.
//! - [`v1`]: the block layout of the original tlstunnel, read for migration and written for export.
//!
//! Data passes down: a transaction of [`store::Store`] becomes pages in redb, whose storage backend here turns them into
//! aligned sector writes between two flushes; [`device`] carries them out.
//!
//! This room must not know what the tables hold, what time it is, or where it runs. It knows no other room. All calls
//! are synchronous: from asynchronous code, use `spawn_blocking`.
#![forbid(unsafe_code)]

pub mod device;
#[doc(hidden)]
pub mod fuzz;
pub mod store;
pub mod v1;

pub use device::{BlockDevice, DeviceError, FaultDevice, FileDevice, MemoryDevice};
pub use store::{
    Content, Entry, Format, OpenError, OpenOptions, ReadTx, Store, StoreError, Table, Usage,
    WriteTx,
};
