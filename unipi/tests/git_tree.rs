//! Commits and trees as no well-behaved client makes them: refused with the reason, within the limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use proptest::prelude::*;
use unipi::git::{
    Commit, Generation, HashKind, Limits, Object, ObjectId, ObjectKind, Objects, TreeError,
};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[derive(Default)]
struct Store(Objects);

impl Store {
    fn add(&mut self, kind: ObjectKind, data: impl Into<Vec<u8>>) -> ObjectId {
        let data = data.into();
        let id = gix_object::compute_hash(HashKind::Sha1, kind, &data).unwrap();
        self.0.insert(id, Object { kind, data: Bytes::from(data) });
        id
    }

    fn tree(&mut self, entries: &[(&str, &[u8], ObjectId)]) -> ObjectId {
        let mut data = Vec::new();
        for (mode, name, id) in entries {
            data.extend_from_slice(mode.as_bytes());
            data.push(b' ');
            data.extend_from_slice(name);
            data.push(0);
            data.extend_from_slice(id.as_slice());
        }
        self.add(ObjectKind::Tree, data)
    }

    fn commit(&mut self, tree: ObjectId) -> ObjectId {
        let person = "A <a@example.test> 1700000000 +0000";
        let text = format!("tree {tree}\nauthor {person}\ncommitter {person}\n\nmessage\n");
        self.add(ObjectKind::Commit, text)
    }

    fn assemble(&self, tip: ObjectId, limits: &Limits) -> Result<Generation, TreeError> {
        run(Generation::assemble("refs/heads/main".into(), tip, &self.0, None, limits))
    }
}

#[test]
fn unsafe_names_are_refused() {
    let names: [&[u8]; 7] = [b"", b".", b"..", b".git", b".GIT", b"a/b", b"../../etc/passwd"];
    for name in names {
        let mut store = Store::default();
        let blob = store.add(ObjectKind::Blob, "x");
        let tree = store.tree(&[("100644", name, blob)]);
        let tip = store.commit(tree);
        let error = store.assemble(tip, &Limits::default()).unwrap_err();
        assert!(matches!(error, TreeError::UnsafeName { .. }), "{name:?}: {error}");
    }
    // The same name as a file and as a directory.
    let mut store = Store::default();
    let blob = store.add(ObjectKind::Blob, "x");
    let below = store.tree(&[("100644", b"x", blob)]);
    let tree =
        store.tree(&[("100644", b"a", blob), ("100644", b"a-b", blob), ("40000", b"a", below)]);
    let tip = store.commit(tree);
    let error = store.assemble(tip, &Limits::default()).unwrap_err();
    assert!(matches!(error, TreeError::UnsafeName { .. }), "{error}");
}

#[test]
fn missing_and_mistaken_objects_are_named() {
    let mut store = Store::default();
    let blob = store.add(ObjectKind::Blob, "x");
    let absent = ObjectId::from_hex(&[b'7'; 40]).unwrap();
    let limits = Limits::default();
    for (entry, expected) in [
        (("100644", absent), TreeError::Missing { kind: ObjectKind::Blob, id: absent }),
        (("40000", absent), TreeError::Missing { kind: ObjectKind::Tree, id: absent }),
        (("40000", blob), TreeError::WrongKind { expected: ObjectKind::Tree, id: blob }),
    ] {
        let tree = store.tree(&[(entry.0, b"name", entry.1)]);
        let tip = store.commit(tree);
        assert_eq!(store.assemble(tip, &limits).unwrap_err(), expected);
    }
    let tip = store.commit(absent);
    let expected = TreeError::Missing { kind: ObjectKind::Tree, id: absent };
    assert_eq!(store.assemble(tip, &limits).unwrap_err(), expected);
    let expected = TreeError::WrongKind { expected: ObjectKind::Commit, id: blob };
    assert_eq!(store.assemble(blob, &limits).unwrap_err(), expected);
    let broken = store.add(ObjectKind::Tree, "100644 name without end");
    let tip = store.commit(broken);
    assert_eq!(store.assemble(tip, &limits).unwrap_err(), TreeError::Tree(broken));
    let broken = store.add(ObjectKind::Commit, "tree 123\n");
    assert_eq!(store.assemble(broken, &limits).unwrap_err(), TreeError::Commit(broken));
}

#[test]
fn a_tree_that_repeats_itself_is_stopped() {
    // Ten directories in each of ten levels are the same object: ten small objects, ten thousand million paths.
    let mut store = Store::default();
    let blob = store.add(ObjectKind::Blob, "x");
    let mut tree = store.tree(&[("100644", b"x", blob)]);
    for _ in 0..10 {
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let entries: Vec<_> = names.iter().map(|name| ("40000", name.as_bytes(), tree)).collect();
        tree = store.tree(&entries);
    }
    let tip = store.commit(tree);
    let limits = Limits { entries: 10_000, ..Limits::default() };
    let error = store.assemble(tip, &limits).unwrap_err();
    assert_eq!(error, TreeError::Limit { name: "entries", limit: 10_000 });
    // Paths are memory as well.
    let limits = Limits { unpacked_bytes: 5_000, ..Limits::default() };
    let error = store.assemble(tip, &limits).unwrap_err();
    assert_eq!(error, TreeError::Limit { name: "unpacked_bytes", limit: 5_000 });
}

#[test]
fn unreachable_objects_are_dropped_and_equal_files_held_once() {
    let mut store = Store::default();
    let blob = store.add(ObjectKind::Blob, "x");
    let other = store.add(ObjectKind::Blob, "unreachable");
    let tree = store.tree(&[("100644", b"a", blob), ("100755", b"b", blob)]);
    let tip = store.commit(tree);
    let generation = store.assemble(tip, &Limits::default()).unwrap();
    assert_eq!(generation.objects.len(), 3);
    assert!(!generation.objects.contains_key(&other));
    let [a, b] = &generation.entries[..] else { panic!("two entries") };
    assert_eq!(a.blob.as_ptr(), b.blob.as_ptr());
}

#[test]
fn times_and_encodings_that_make_no_sense_are_no_obstacle() {
    for (committer, expected) in [
        ("A <a@example.test> 1700000000 +0100", 1_700_000_000),
        ("A <a> -5 +0000", -5),
        ("A <a> 99999999999999999999 +0000", 0),
        ("\u{e4} > <<> 7 +9999", 7),
    ] {
        let tree = "1".repeat(40);
        let text = format!("tree {tree}\nauthor {committer}\ncommitter {committer}\n\nm");
        let id = ObjectId::from_hex(&[b'7'; 40]).unwrap();
        let commit = Commit::parse(id, Bytes::from(text)).unwrap();
        assert_eq!(commit.time, expected, "{committer}");
    }
}

proptest! {
    #[test]
    fn any_commit_and_tree_end_in_a_result(
        commit in proptest::collection::vec(any::<u8>(), 0..200),
        lines in "(tree 1{40}\n)?(parent 2{40}\n)*(author a <b> [0-9 +]{0,20}\n)?(committer .{0,9}\n)?(gpgsig x\n( y\n)*)?(.{0,5} \n)?\n?m?",
        tree in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let id = ObjectId::from_hex(&[b'7'; 40]).unwrap();
        let _ = Commit::parse(id, Bytes::from(commit));
        if let Ok(commit) = Commit::parse(id, Bytes::from(lines)) {
            prop_assert!(commit.signed_payload().len() <= commit.raw.len());
            prop_assert_eq!(
                commit.signature.is_some(),
                commit.signed_payload().len() < commit.raw.len()
            );
        }
        let mut store = Store::default();
        let tree = store.add(ObjectKind::Tree, tree);
        let tip = store.commit(tree);
        let _ = store.assemble(tip, &Limits::default());
    }
}
