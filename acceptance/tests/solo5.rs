//! Solo5 and we: our images under Solo5's own tender, and Solo5's own test guests under ours, where each must do what it does
//! under Solo5's.
//!
//! Opt-in, since Solo5 is no part of the project: `SOLO5` names a folder with its source, built (`./configure.sh && make`;
//! Debian's libseccomp-dev). From 0.11 on its tender has a ring, and our images must use it. They start at ring 0 there,
//! which not every KVM inside of a virtual machine can run (solo5-hvt then says "internal error"): with `SVM_VM` they run in
//! an emulated machine, see [`machine`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;

use std::path::{Path, PathBuf};

use acceptance::programs::folder;
use acceptance::unikernel::{image, tender};
use machine::{Machine, TAP, curl, page};

struct Solo5 {
    folder: PathBuf,
    ours: PathBuf,
    machine: Machine,
}

impl Solo5 {
    fn find() -> Option<Self> {
        let Some(named) = std::env::var_os("SOLO5") else {
            println!("SKIPPED: SOLO5 names no folder with Solo5's source, built");
            return None;
        };
        let solo5 = PathBuf::from(named).canonicalize().expect("the folder that SOLO5 names");
        let hvt = folder().join("hvt");
        let (machine, ours) = match Machine::emulated() {
            Some(machine) => (machine, hvt),
            None => (Machine::Here, tender(hvt.to_str()?, true, true)?),
        };
        Some(Self { folder: solo5, ours, machine })
    }

    /// Both tenders.
    fn tenders(&self) -> [PathBuf; 2] {
        [self.folder.join("tenders/hvt/solo5-hvt"), self.ours.clone()]
    }

    fn guest(&self, name: &str) -> PathBuf {
        self.folder.join(format!("tests/test_{name}/test_{name}.hvt"))
    }

    fn has_ring(&self) -> bool {
        self.folder.join("include/hvt_ring.h").exists()
    }
}

/// What sockets answer across a TAP, and what a program does with storage, threads, tasks and TLS, is what it is on Linux.
#[test]
fn our_programs_under_solo5_s_tender() {
    let Some(solo5) = Solo5::find() else { return };
    let programs = ["socket-demo", "guest-demo"].map(|name| folder().join(name));
    // What Linux answers is asked here: in the emulated machine a wait of Linux's may well end too early.
    let expected = TAP.to_owned()
        + "tap tap0 10.9.0.1/24
socket-demo far 10.9.0.1:7000 >/dev/null & far=$!
sleep 1
socket-demo 10.9.0.1 10.9.0.1:7000
kill $far
";
    let answers = tempfile::tempdir().unwrap();
    let expected_answers = answers.path().join("expected-answers");
    std::fs::write(&expected_answers, Machine::Here.run(&programs, &expected)).unwrap();
    let images = ["hvt-socket-demo", "hvt-guest-demo"].map(image);
    let mut files = [programs, images].concat();
    files.push(expected_answers);
    files.extend(solo5.tenders());
    let script = TAP.to_owned()
        + "tap tap0 10.9.0.1/24
socket-demo far 10.9.0.1:7000 >/dev/null & far=$!
sleep 1
solo5-hvt --mem=64 --net:service=tap0 -- $T/socket-demo.hvt --env:HVT_GUEST_LOG=debug --ipv4=10.9.0.2/24 \
  10.9.0.2 10.9.0.1:7000 >$D/said
kill $far
grep ^hvt-guest: $D/said
grep -v ^hvt-guest: $D/said >$D/answers
diff $T/expected-answers $D/answers
echo 'sockets: the same'
for way in host guest; do dd if=/dev/zero of=$D/$way bs=1M count=8 2>/dev/null; done
guest-demo $D/host >$D/expected
solo5-hvt --mem=64 --block:storage=$D/guest -- $T/guest-demo.hvt >$D/said
grep ^hvt-guest: $D/said
grep -v ^hvt-guest: $D/said >$D/answers
diff $D/expected $D/answers
echo 'program: the same'
";
    let said = solo5.machine.run(&files, &script);
    assert!(said.contains("sockets: the same") && said.contains("program: the same"));
    let way = if solo5.has_ring() { "ring" } else { "one call each" };
    assert!(said.contains(&format!("frames cross by: {way}\n")), "not by: {way}");
    assert!(said.contains("this tender can't flush block devices"), "it must be told");
}

#[test]
fn the_gateway_under_solo5_s_tender() {
    let Some(solo5) = Solo5::find() else { return };
    let mut files = vec![folder().join("tlstunnel-ctl"), image("tlstunnel"), curl()];
    files.extend(solo5.tenders());
    let said = solo5.machine.run(&files, &(page("solo5-hvt") + "kill $gateway\n"));
    assert!(said.contains("a page of the backend\n") && said.contains("port 80: 301"));
}

/// Guests that need no peer: how they end, and what they print, under both tenders.
const GUESTS: [(&str, &str, &str); 19] = [
    // Name, arguments, what the end is: 0 and success, or how it fails.
    ("hello", "Hello_Solo5", "0"),
    ("quiet", "--solo5:quiet", "0"),
    ("output", "Output_Solo5", "0"),
    ("globals", "", "0"),
    ("tls", "", "0"),
    ("fpu", "", "0"),
    ("time", "", "0"),
    ("exception", "", "255"),
    ("zeropage", "", "255"),
    ("notls", "", "255"),
    ("ssp", "", "255"),
    // Solo5 leaves it to pages of the host, so data can be executed; ours starts guests of ring 0 as Solo5 does.
    ("xnor", "", "1"),
    ("rnox", "", "1"),
    ("wnox", "", "1"),
    // A crash has a status of its own under our tender.
    ("rnow", "", "crash"),
    ("xnow", "", "crash"),
    ("blk", "", "0"),
    ("net_mtu", "", "0"),
    ("mft_maxdevices", "", "0"),
];

#[test]
fn solo5_s_guests_under_our_tender() {
    let Some(solo5) = Solo5::find() else { return };
    let mut files: Vec<PathBuf> = GUESTS.iter().map(|(name, ..)| solo5.guest(name)).collect();
    files.retain(|file| file.exists());
    files.extend(solo5.tenders());
    let mut script = TAP.replace("set -e\n", "")
        + "tap tap0 10.9.0.1/24
ip link set tap0 mtu 9000
dd if=/dev/zero of=$D/disk bs=1M count=4 2>/dev/null
disks=
for n in $(busybox seq 0 62); do
  dd if=/dev/zero of=$D/disk$n bs=4096 count=1 2>/dev/null
  disks=\"$disks --block:storage$n=$D/disk$n\"
done
both() {
  for tender in solo5-hvt hvt; do
    $tender --mem=8 $options -- $T/test_$1.hvt $2 >$D/$tender 2>$D/error
    echo \"$1 $tender $?\"
    # Times and addresses differ.
    sed 's/[0-9]\\{5,\\}/N/g' $D/$tender >$D/$tender.out
  done
  diff $D/solo5-hvt.out $D/hvt.out >$D/difference && echo \"$1 same\" || cat $D/difference
}
";
    for (name, arguments, _) in GUESTS {
        let options = match name {
            "blk" => "--block:storage=$D/disk",
            "net_mtu" => "--net:service0=tap0",
            "mft_maxdevices" => "$disks",
            _ => "",
        };
        if solo5.guest(name).exists() {
            script += &format!("options=\"{options}\" both {name} {arguments}\n");
        }
    }
    let said = solo5.machine.run(&files, &script);
    for (name, _, end) in GUESTS.into_iter().filter(|(name, ..)| solo5.guest(name).exists()) {
        let (theirs, ours) = if end == "crash" { ("1", "80") } else { (end, end) };
        for line in [
            format!("{name} solo5-hvt {theirs}"),
            format!("{name} hvt {ours}"),
            format!("{name} same"),
        ] {
            assert!(said.lines().any(|said| said == line), "not: {line}");
        }
    }
}

/// Solo5's test of its ring: ten thousand pings whose bytes the guest checks. The emulated machine would take too long.
#[test]
fn solo5_s_test_of_the_ring_under_our_tender() {
    let Some(solo5) = Solo5::find() else { return };
    let guest = solo5.guest("net_ring");
    if !solo5.has_ring() || !Path::new("/dev/kvm").exists() {
        return println!("SKIPPED: no ring, or no KVM");
    }
    let script = TAP.to_owned()
        + "tap tap0 10.0.0.1/24
for options in --stats '--stats --without=ring'; do
  hvt --mem=16 $options --net:service0=tap0 -- $T/test_net_ring.hvt >$D/said 2>$D/stats & guest=$!
  until grep -qs 'Serving ping' $D/said; do sleep 0.1; kill -0 $guest; done
  ping -fq -c 10000 -p deadbeef 10.0.0.2
  wait $guest
  grep SUCCESS $D/said
  cat $D/stats
done
";
    let said = Machine::Here.run(&[solo5.ours.clone(), guest], &script);
    assert_eq!(said.matches("SUCCESS").count(), 2);
    let with_calls = |line: &&str| line.contains("stats exits") && line.contains("net-read");
    assert_eq!(said.lines().filter(with_calls).count(), 1, "only without the ring there are calls");
}
