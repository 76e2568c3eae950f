//! Git's objects in the store, site by site: each in pieces, each hashed again when it is read.

use std::collections::HashSet;

use blockdev::{Store, StoreError, Table, WriteTx};
use bytes::Bytes;

use super::{StorageError, damaged, site_key};
use crate::git::{HashKind, Object, ObjectId, ObjectKind, Objects};

/// The site, an object's id and the piece's number (32 bits, big-endian) → the kind, and the piece.
const OBJECTS: Table = Table("site-object-pieces");
/// Bytes of content in one piece.
const PIECE: usize = 8 << 20;
/// Pieces that are read at a time.
const BATCH: usize = 8;
/// Bytes that one transaction writes, about: it holds them in memory until its end.
const TRANSACTION: usize = 16 << 20;
/// Entries that one transaction takes away.
const DELETIONS: usize = 4096;

/// Writes what of `objects` is not among `held`, in as many transactions as it takes. Until something refers to them,
/// they do no harm.
pub(super) fn write(
    store: &Store,
    site: &str,
    objects: &[(ObjectId, Object)],
    held: &HashSet<ObjectId>,
) -> Result<(), StorageError> {
    let mut left = objects.iter().filter(|(id, _)| !held.contains(id)).peekable();
    while left.peek().is_some() {
        store.write(|tx| {
            let mut bytes = 0;
            while bytes < TRANSACTION {
                let Some((id, object)) = left.next() else { break };
                put(tx, site, id, object)?;
                bytes += object.data.len() + 64;
            }
            Ok::<_, StorageError>(())
        })?;
    }
    Ok(())
}

fn put(tx: &mut WriteTx<'_>, site: &str, id: &ObjectId, object: &Object) -> Result<(), StoreError> {
    let pieces = object.data.chunks(PIECE);
    // Empty content is a piece too.
    let empty = object.data.is_empty().then_some(&[][..]);
    for (number, piece) in (0_u32..).zip(pieces.chain(empty)) {
        let value = [&[kind_byte(object.kind)], piece].concat();
        tx.put(OBJECTS, &key(site, id, number), &value)?;
    }
    Ok(())
}

/// Takes away those of `gone`, which nothing refers to any more.
pub(super) fn delete(
    store: &Store,
    site: &str,
    gone: impl Iterator<Item = ObjectId>,
) -> Result<(), StorageError> {
    let mut gone = gone.peekable();
    while gone.peek().is_some() {
        store.write(|tx| {
            for id in gone.by_ref().take(DELETIONS) {
                let mut number = 0;
                while tx.delete(OBJECTS, &key(site, &id, number))? {
                    number += 1;
                }
            }
            Ok::<_, StorageError>(())
        })?;
    }
    Ok(())
}

/// Takes all objects of a site away.
pub(super) fn clear(store: &Store, site: &str) -> Result<(), StorageError> {
    let prefix = site_key(site);
    loop {
        let any = store.write(|tx| {
            let entries = tx.scan(OBJECTS, &prefix, None, BATCH)?;
            for (key, _) in &entries {
                tx.delete(OBJECTS, key)?;
            }
            Ok::<_, StorageError>(!entries.is_empty())
        })?;
        if !any {
            return Ok(());
        }
    }
}

/// Reads all objects of a site and verifies them.
pub(super) fn read(store: &Store, site: &str, hash: HashKind) -> Result<Objects, StorageError> {
    let prefix = site_key(site);
    store.read(|tx| {
        let mut objects = Objects::new();
        let mut pieces = Pieces { hash, current: None };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let entries = tx.scan(OBJECTS, &prefix, after.as_deref(), BATCH)?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(last.clone());
            for (key, value) in entries {
                pieces.add(key.get(prefix.len()..).unwrap_or_default(), value, &mut objects)?;
            }
        }
        pieces.finish(&mut objects)?;
        Ok(objects)
    })
}

/// Puts objects together from their pieces, which come in order.
struct Pieces {
    hash: HashKind,
    current: Option<(ObjectId, u32, ObjectKind, Vec<u8>)>,
}

impl Pieces {
    fn add(&mut self, key: &[u8], value: Vec<u8>, into: &mut Objects) -> Result<(), StorageError> {
        let wrong = || damaged("an object's key cannot be read".to_owned());
        let (raw, number) = key.split_last_chunk::<4>().ok_or_else(wrong)?;
        let id = ObjectId::try_from(raw).map_err(|_| wrong())?;
        let number = u32::from_be_bytes(*number);
        let Some((&kind, piece)) = value.split_first() else { return Err(wrong()) };
        if let Some((current, next, _, data)) = &mut self.current
            && *current == id
            && *next == number
        {
            data.extend_from_slice(piece);
            *next += 1;
            return Ok(());
        }
        self.finish(into)?;
        if number != 0 {
            return Err(damaged(format!("a piece of {id} is missing")));
        }
        self.current = Some((id, 1, kind_of(kind).ok_or_else(wrong)?, piece.to_vec()));
        Ok(())
    }

    fn finish(&mut self, into: &mut Objects) -> Result<(), StorageError> {
        let Some((id, _, kind, data)) = self.current.take() else { return Ok(()) };
        let hash = gix_object::compute_hash(self.hash, kind, &data);
        if hash.ok() != Some(id) {
            return Err(damaged(format!("the object {id} has changed")));
        }
        into.insert(id, Object { kind, data: Bytes::from(data) });
        Ok(())
    }
}

fn key(site: &str, id: &ObjectId, number: u32) -> Vec<u8> {
    [&site_key(site), id.as_bytes(), &number.to_be_bytes()].concat()
}

fn kind_byte(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Commit => 1,
        ObjectKind::Tree => 2,
        ObjectKind::Blob => 3,
        ObjectKind::Tag => 4,
    }
}

fn kind_of(byte: u8) -> Option<ObjectKind> {
    [ObjectKind::Commit, ObjectKind::Tree, ObjectKind::Blob, ObjectKind::Tag]
        .into_iter()
        .find(|kind| kind_byte(*kind) == byte)
}
