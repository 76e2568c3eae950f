#![forbid(unsafe_code)]
//! Builds a program of this workspace into an image for `hvt`, and shows what is in an image.
//!
//! It knows cargo, the linker and the file format; it must not know how a guest or a tender works. The program is built
//! as it is, by cargo, from the same source as for a host: only the C library is another one.
//!
//! # Way of a build
//!
//! [`project`]: what cargo knows of the package, and its devices → [`build`]: cargo makes the guest library, which takes
//! libc's place in a folder of otherwise empty archives ([`library`] sees that both can stand together); [`notes`] makes an object with the notes; cargo builds and links
//! the program against them → [`image`]: debug information goes, a symbol table for backtraces comes in as a segment.

pub mod build;
pub mod image;
pub mod library;
pub mod notes;
pub mod project;
pub mod show;
