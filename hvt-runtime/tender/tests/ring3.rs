//! What a guest at ring 3 can and can't do: each kind of access to each kind of page, and each way out of the ring.
//!
//! Where two results are allowed, kinds of KVM differ: some check the task's bitmap, some only
//! IOPL. Both end the guest.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use support::*;

const CRASH: i32 = 80;
const MISUSE: i32 = 81;

#[test]
fn a_guest_starts_prints_and_halts_with_its_status() {
    if !kvm() {
        return;
    }
    let ended = Guest::new().print("hello\n").halt(7).run(&[]);
    ended.is(7);
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("hello\n", ""));
    Guest::new().halt(0).run(&[]).is(0);
    Guest::new().halt(256 + 3).run(&[]).is(3);
    Guest::new().halt(-1).run(&[]).is(255);
    // At ring 3: cs & 3.
    Guest::new()
        .raw(&[0x8c, 0xc8, 0x83, 0xe0, 0x03, 0x89, 0x04, 0x25])
        .raw(&0x10_2000_u32.to_le_bytes())
        .halt_with(DATA)
        .run(&[])
        .is(3);
    // And a stock image at ring 0.
    Guest::stock()
        .raw(&[0x8c, 0xc8, 0x83, 0xe0, 0x03, 0x89, 0x04, 0x25])
        .raw(&0x10_2000_u32.to_le_bytes())
        .halt_with(DATA)
        .run(&[])
        .is(0);
}

#[test]
fn each_start_has_a_seed_of_its_own() {
    if !kvm() {
        return;
    }
    // It lies in the lowest bytes of the stack. The low eight bits of four starts are the same once in sixteen million times.
    let guest = Guest::new().copy32(STACK_BASE, DATA).halt_with(DATA);
    let found: Vec<_> = (0..4).map(|_| guest.run(&[]).status).collect();
    assert!(found.iter().any(|status| *status != found[0]), "{found:?}");
}

#[test]
fn what_a_guest_may_touch() {
    if !kvm() {
        return;
    }
    let boot = hvt_abi::boot::BOOT_INFO_ADDRESS;
    for (what, address) in [
        ("text", TEXT),
        ("rodata", RODATA),
        ("data", DATA + 0x1000),
        ("heap", HEAP),
        ("stack", STACK_BASE),
        ("boot information", boot),
    ] {
        let ended = Guest::new().load_byte(address).halt(0).run(&[]);
        assert_eq!(ended.status, Some(0), "read {what}: {ended:#?}");
    }
    for (what, address) in
        [("data", DATA + 0x1000), ("heap", HEAP), ("stack", STACK_BASE), ("top", STACK_END - 1)]
    {
        let ended = Guest::new().store_byte(address, 1).halt(0).run(&[]);
        assert_eq!(ended.status, Some(0), "write {what}: {ended:#?}");
    }
}

#[test]
fn what_a_guest_may_not_touch() {
    if !kvm() {
        return;
    }
    let boot = hvt_abi::boot::BOOT_INFO_ADDRESS;
    let write = "write to a read-only page";
    let jump = "execution of data";
    let null = "null pointer";
    let overflow = "stack overflow";
    let cells: [(&str, Guest, &str); 25] = [
        ("write text", Guest::new().store_byte(TEXT, 0), write),
        ("write rodata", Guest::new().store_byte(RODATA, 0), write),
        ("write boot information", Guest::new().store_byte(boot, 0), write),
        ("execute rodata", Guest::new().jump(RODATA), jump),
        ("execute data", Guest::new().jump(DATA), jump),
        ("execute heap", Guest::new().jump(HEAP), jump),
        ("execute stack", Guest::new().jump(STACK_BASE), jump),
        ("execute boot information", Guest::new().jump(boot), jump),
        ("read the stack's guard", Guest::new().load_byte(STACK_BASE - 1), overflow),
        ("write the stack's guard", Guest::new().store_byte(STACK_BASE - 4096, 1), overflow),
        ("read page zero", Guest::new().load_byte(0), null),
        ("write page zero", Guest::new().store_byte(8, 1), null),
        ("execute page zero", Guest::new().jump(0), "execution at 0x0"),
        ("read the GDT", Guest::new().load_byte(0x1000), "read at 0x1000"),
        ("write the GDT", Guest::new().store_byte(0x1008, 1), "write at 0x1008"),
        ("write the IDT", Guest::new().store_byte(0x2000, 1), "write at 0x2000"),
        ("jump into the stubs", Guest::new().jump(0x3000), "execution at 0x3000"),
        ("read the TSS", Guest::new().load_byte(0x4000), "read at 0x4000"),
        ("open ports in the TSS", Guest::new().store_byte(0x4068, 0), "write at 0x4068"),
        ("write the fault stack", Guest::new().store_byte(0x6000, 0), "write at 0x6000"),
        ("read page tables", Guest::new().load_byte(0x1_0000_5000), "outside the guest's memory"),
        ("read above memory", Guest::new().load_byte(STACK_END), "outside the guest's memory"),
        ("read below the image", Guest::new().load_byte(0xf_f000), "memory that is not mapped"),
        (
            "read the kernel's half",
            Guest::new().load_byte(0xffff_8000_0000_0000),
            "read at 0xffff8",
        ),
        ("read a wild address", Guest::new().load_byte(0x0123_4567_89ab_cdef), "canonical"),
    ];
    for (what, guest, cause) in cells {
        let ended = guest.print("still here").halt(0).run(&[]);
        assert_eq!(ended.status, Some(CRASH), "{what}: {ended:#?}");
        assert!(ended.err.contains(cause), "{what}: {cause:?} is not said: {}", ended.err);
        assert_eq!(ended.out, "", "{what}");
    }
}

#[test]
fn a_crash_report_is_exact() {
    if !kvm() {
        return;
    }
    let guest = Guest::new()
        .raw(&[0x90; 5])
        .raw(&[0x48, 0xbb])
        .raw(&0x1122_3344_5566_7788_u64.to_le_bytes())
        .store_byte(RODATA + 0x123, 1)
        .function("first_function", TEXT, TEXT + 5)
        .function("_ZN5hello5crash17h0123456789abcdefE", TEXT + 5, TEXT + 100);
    // Names in an ELF symbol table, and in hvt-image's.
    for guest in [guest.clone(), guest.pack_names()] {
        let ended = guest.run(&[]);
        ended.is(CRASH);
        // 5 nops, 10 bytes of mov, 10 of the next mov, then the store.
        ended.says("write to a read-only page: 0x101123 in the image's read-only data");
        ended
            .says("rip 0000000000100019")
            .says("rbx 1122334455667788")
            .says("cr2 0000000000101123");
        ended.says("rax 0000000000101123").says("rsp 0000000000fffff8");
        ended.says("at 0x000000100019 hello::crash+0x14");
    }
    // A call leaves its return address on the stack: call +0, then a fault.
    let ended = Guest::new()
        .raw(&[0xe8, 0, 0, 0, 0])
        .raw(&[0x0f, 0x0b])
        .function("caller", TEXT, TEXT + 5)
        .function("callee", TEXT + 5, TEXT + 100)
        .run(&[]);
    ended
        .is(CRASH)
        .says("invalid instruction")
        .says("callee+0x0")
        .says("0x000000100005 caller+0x4");
}

/// A table that makes no sense costs the names, not the report, and control characters do not reach the terminal.
#[test]
fn a_hostile_table_of_names_does_no_harm() {
    if !kvm() {
        return;
    }
    let guest = Guest::new().raw(&[0x0f, 0x0b]).function("\u{1b}[2J", TEXT, TEXT + 5).pack_names();
    let packed = guest.packed_names.clone().unwrap();
    let mut large = packed.clone();
    large[16..20].fill(0xff);
    for table in [packed.clone(), packed[..packed.len() - 1].to_vec(), large, vec![0; 9]] {
        let mut guest = guest.clone();
        guest.packed_names = Some(table);
        let ended = guest.run(&[]);
        ended.is(CRASH).says("invalid instruction").says("at 0x000000100000 ?");
        assert!(!ended.err.contains('\u{1b}'), "{}", ended.err);
    }
}

#[test]
fn a_stack_overflow_is_called_by_its_name() {
    if !kvm() {
        return;
    }
    // push rax; jmp back
    Guest::new()
        .raw(&[0x50, 0xeb, 0xfd])
        .run(&[])
        .is(CRASH)
        .says("stack overflow: write at 0xefff");
    // A thread stack of two pages: its guard is the page below.
    let guest = Guest { stacks: [0x1_0000, 0x2000, 3], ..Guest::new() };
    let base = STACK_END - 0x1_0000 - 0x1000 - 3 * 0x3000;
    for i in 0..3 {
        let stack = base + i * 0x3000 + 0x1000;
        guest.clone().store_byte(stack, 1).store_byte(stack + 0x1fff, 1).halt(0).run(&[]).is(0);
        let ended = guest.clone().store_byte(stack - 1, 1).run(&[]);
        ended.is(CRASH).says("stack overflow").says(&format!("below the stack of thread {i}"));
    }
    guest.clone().store_byte(base - 1, 1).halt(0).run(&[]).is(0);
}

#[test]
fn privileged_instructions_end_the_guest() {
    if !kvm() {
        return;
    }
    let cells: [(&str, &[u8]); 9] = [
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
        ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
        ("wrmsr", &[0x0f, 0x30]),
        ("hlt", &[0xf4]),
        ("lidt [rsp]", &[0x0f, 0x01, 0x1c, 0x24]),
        ("lgdt [rsp]", &[0x0f, 0x01, 0x14, 0x24]),
        ("ltr ax", &[0x0f, 0x00, 0xd8]),
        ("invlpg [rsp]", &[0x0f, 0x01, 0x3c, 0x24]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ];
    for (what, code) in cells {
        let ended = Guest::new().raw(code).halt(0).run(&[]);
        assert_eq!(ended.status, Some(CRASH), "{what}: {ended:#?}");
        assert!(ended.err.contains("privileged instruction"), "{what}: {}", ended.err);
    }
    for (what, code, cause) in [
        ("ud2", [0x0f_u8, 0x0b].as_slice(), "invalid instruction"),
        ("div by zero", &[0x31, 0xc9, 0xf7, 0xf1], "division by zero"),
        ("int3", &[0xcc], "breakpoint"),
        ("int 0x80", &[0xcd, 0x80], ""),
        ("int 0xe (a faked page fault)", &[0xcd, 0x0e], " instruction"),
        ("syscall", &[0x0f, 0x05], ""),
    ] {
        let ended = Guest::new().raw(code).halt(0).run(&[]);
        assert_eq!(ended.status, Some(CRASH), "{what}: {ended:#?}");
        assert!(ended.err.contains(cause), "{what}: {}", ended.err);
    }
}

#[test]
fn other_ports_and_widths_end_the_guest() {
    if !kvm() {
        return;
    }
    let fake_fault = Guest::new().raw(&[0xb0, 0x0e, 0xe6, 0xf0]);
    let cells = [
        ("out 0x80", Guest::new().out(0x80, 0)),
        ("out 0x4ff", Guest::new().out(0x4ff, 0)),
        ("out 0x524", Guest::new().out(0x524, 0)),
        ("out 0xcf8 (PCI)", Guest::new().out(0xcf8, 0)),
        ("kick without a ring", Guest::new().out(0x600, 0)),
        ("a number without a call", Guest::new().out(0x500, DATA as u32)),
        ("one that was not negotiated", Guest::new().out(0x50d, DATA as u32)),
        ("the highest open port", Guest::new().out(0x520, DATA as u32)),
        ("out of one byte", Guest::new().raw(&[0xba, 1, 5, 0, 0, 0xee])),
        ("out of two bytes", Guest::new().raw(&[0xba, 1, 5, 0, 0, 0x66, 0xef])),
        ("in", Guest::new().raw(&[0xba, 1, 5, 0, 0, 0xed])),
        ("a faked fault", fake_fault),
    ];
    for (what, guest) in cells {
        let ended = guest.halt(0).run(&[]);
        let status = ended.status;
        assert!(status == Some(MISUSE) || status == Some(CRASH), "{what}: {ended:#?}");
        let said = ended.err.contains("hypercall") || ended.err.contains("forbidden port");
        assert!(said, "{what}: {}", ended.err);
    }
}

#[test]
fn the_processor_offers_vectors_and_no_virtualization() {
    if !kvm() {
        return;
    }
    // vpxor ymm0, ymm0, ymm0; wrfsbase rax; rdfsbase rbx
    let vectors =
        [0xc5, 0xfd, 0xef, 0xc0, 0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x48, 0x0f, 0xae, 0xc3];
    if std::arch::is_x86_feature_detected!("avx2") {
        Guest::new().raw(&vectors).halt(0).run(&[]).is(0);
    }
    // cpuid leaf, keep a bit of ecx as status: mov eax, leaf; xor ecx, ecx; cpuid; shr ecx, bit; and ecx, 1; mov [DATA], ecx
    for (leaf, bit) in [(1_u32, 5_u8), (0x8000_0001, 2)] {
        let guest =
            Guest::new().raw(&[0xb8]).raw(&leaf.to_le_bytes()).raw(&[0x31, 0xc9, 0x0f, 0xa2]);
        let guest = guest.raw(&[0xc1, 0xe9, bit, 0x83, 0xe1, 0x01, 0x89, 0x0c, 0x25]);
        guest.raw(&(DATA as u32).to_le_bytes()).halt_with(DATA).run(&[]).is(0);
    }
}
