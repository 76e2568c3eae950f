//! Guests at ring 0, as Solo5 starts them: a fault that they have no handler for is told as one of ring 3 is.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use support::*;

const CRASH: i32 = 80;

/// Instructions after one that marks a register.
fn marked(bytes: &[u8]) -> Guest {
    // mov ebx, 0x12345
    Guest::stock().raw(&[0xbb, 0x45, 0x23, 1, 0]).raw(bytes)
}

#[test]
fn faults_are_told_with_their_registers() {
    if !kvm() {
        return;
    }
    let at = TEXT + 5;
    for (what, bytes, part) in [
        ("ud2", &[0x0f, 0x0b][..], "invalid instruction"),
        // xor ecx, ecx; div ecx
        ("div", &[0x31, 0xc9, 0xf7, 0xf1], "division by zero"),
        // mov al, [8]
        ("null", &[0x8a, 0x04, 0x25, 8, 0, 0, 0], "null pointer: read at 0x8"),
        // mov [0x10000], al
        ("boot information", &[0x88, 0x04, 0x25, 0, 0, 1, 0], "write to a read-only page: 0x10000"),
        // mov al, [0xf000000]
        ("outside", &[0x8a, 0x04, 0x25, 0, 0, 0, 0x0f], "outside the guest's memory"),
    ] {
        let before = if what == "div" { 2 } else { 0 };
        let ended = marked(bytes).halt(0).run(&[]);
        let address = format!("at {:#014x}", at + before);
        assert_eq!(ended.status, Some(CRASH), "{what}: {ended:#?}");
        ended.says(part).says(&address).says("rbx 0000000000012345");
    }
}

#[test]
fn a_broken_stack_is_told_too() {
    if !kvm() {
        return;
    }
    // xor esp, esp; push rax: the fault has a stack of its own.
    marked(&[0x31, 0xe4, 0x50]).halt(0).run(&[]).is(CRASH).says("rbx 0000000000012345");
}

#[test]
fn a_guest_that_replaces_the_handlers_is_on_its_own() {
    if !kvm() {
        return;
    }
    // An IDT without entries: lidt [DATA]; ud2.
    let guest = marked(&[0x0f, 0x01, 0x1c, 0x25]).raw(&(DATA as u32).to_le_bytes());
    let guest = guest.put(DATA, &[0; 10]).raw(&[0x0f, 0x0b]).halt(0);
    guest.run(&[]).is(CRASH).says("triple fault");
}
