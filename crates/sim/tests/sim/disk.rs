//! What the virtual disk promises, and that it does not promise more.

use base::Rng;
use sim::disk::{Keep, Operation, VirtualDisk};
use store::disk::{Disk, DiskError, DiskFile};

fn durable(disk: &VirtualDisk, name: &str, bytes: &[u8]) {
    let mut file = disk.create(name).expect("a new name");
    file.write_at(0, bytes).expect("room");
    file.sync().expect("a healthy disk");
    disk.sync_dir().expect("a healthy disk");
}

#[test]
fn synced_bytes_stay_and_others_need_not() {
    let disk = VirtualDisk::new();
    durable(&disk, "a", b"durable");
    let mut file = disk.open("a").expect("it is there");
    file.write_at(0, b"UNSYNC").expect("room");
    assert_eq!(disk.bytes("a").as_deref(), Some(&b"UNSYNCe"[..]));
    let lost = disk.fork().crash(&mut Rng::new(1), Keep::Nothing);
    assert_eq!(lost.bytes("a").as_deref(), Some(&b"durable"[..]));
    let kept = disk.crash(&mut Rng::new(1), Keep::All);
    assert_eq!(kept.bytes("a").as_deref(), Some(&b"UNSYNCe"[..]));
    assert!(matches!(file.write_at(0, b"x"), Err(DiskError::Failed(_))), "a handle does not outlive the crash");
}

#[test]
fn names_are_durable_only_after_the_directory_was_synced() {
    let disk = VirtualDisk::new();
    durable(&disk, "old", b"x");
    disk.rename("old", "new").expect("it is there");
    let mut unnamed = disk.create("unnamed").expect("a new name");
    unnamed.write_at(0, b"y").expect("room");
    unnamed.sync().expect("a healthy disk");
    let after = disk.fork().crash(&mut Rng::new(1), Keep::Nothing);
    assert_eq!(after.list().expect("alive"), ["old"]);
    disk.sync_dir().expect("a healthy disk");
    let after = disk.crash(&mut Rng::new(1), Keep::Nothing);
    assert_eq!(after.list().expect("alive"), ["new", "unnamed"]);
    assert_eq!(after.bytes("unnamed").as_deref(), Some(&b"y"[..]));
}

#[test]
fn unsynced_writes_tear_in_many_ways() {
    let mut ends = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = VirtualDisk::new();
        durable(&disk, "a", &[0; 2048]);
        let mut file = disk.open("a").expect("it is there");
        file.write_at(0, &[1; 1024]).expect("room");
        file.write_at(1024, &[2; 1024]).expect("room");
        let after = disk.crash(&mut Rng::new(seed), Keep::Any);
        ends.insert(after.bytes("a"));
    }
    assert!(ends.len() > 50, "only {} different ends", ends.len());
    assert!(
        ends.iter().flatten().any(|end| end[0] == 0 && end[2047] == 2),
        "never the later write without the earlier"
    );
}

#[test]
fn a_failed_sync_loses_what_it_was_for() {
    let disk = VirtualDisk::new();
    durable(&disk, "a", b"old");
    let mut file = disk.open("a").expect("it is there");
    file.write_at(0, b"new").expect("room");
    disk.fail_sync(0);
    assert!(matches!(file.sync(), Err(DiskError::Failed(_))));
    assert_eq!(file.sync(), Ok(()), "a second one succeeds, and proves nothing");
    assert_eq!(disk.bytes("a").as_deref(), Some(&b"new"[..]));
    assert_eq!(disk.crash(&mut Rng::new(1), Keep::All).bytes("a").as_deref(), Some(&b"old"[..]));
}

#[test]
fn a_full_disk_says_so_and_has_room_again_later() {
    let disk = VirtualDisk::new();
    disk.set_capacity(Some(10));
    let mut file = disk.create("a").expect("room");
    assert_eq!(file.allocate(11), Err(DiskError::Full));
    file.write_at(0, b"12345678").expect("room");
    assert_eq!(file.write_at(8, b"9abc"), Err(DiskError::Full));
    assert_eq!(disk.used(), 10, "part of it was written");
    file.write_at(0, b"overwrite").expect("overwriting needs no room");
    disk.set_capacity(None);
    file.write_at(8, b"9abc").expect("room");
}

#[test]
fn a_crash_can_be_put_at_every_operation() {
    let run = |disk: &VirtualDisk| -> Result<(), DiskError> {
        let mut file = disk.create("a")?;
        file.write_at(0, b"x")?;
        file.sync()?;
        disk.rename("a", "b")?;
        disk.sync_dir()
    };
    let disk = VirtualDisk::new();
    disk.trace();
    run(&disk).expect("nothing is armed");
    let trace = disk.take_trace();
    assert_eq!(trace.len() as u64, disk.operations());
    assert_eq!(trace[3], Operation::Rename("a".to_string(), "b".to_string()));
    for at in 0..disk.operations() {
        let disk = VirtualDisk::new();
        disk.crash_at(at);
        assert!(run(&disk).is_err(), "operation {at} did not crash");
        assert!(disk.is_crashed());
        let after = disk.crash(&mut Rng::new(at), Keep::Nothing);
        assert!(after.list().expect("alive").is_empty(), "nothing was durable before the last operation");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let mut rng = Rng::new(seed);
        let mut disk = VirtualDisk::new();
        let mut digests = Vec::new();
        for round in 0..20 {
            let mut file = disk.create(&format!("f{round}")).expect("a new name");
            for _ in 0..5 {
                let bytes = vec![rng.next_u64() as u8; rng.index(3000)];
                file.write_at(rng.below(5000), &bytes).expect("room");
                if rng.chance(1, 3) {
                    file.sync().expect("a healthy disk");
                    disk.sync_dir().expect("a healthy disk");
                }
            }
            disk = disk.crash(&mut rng, Keep::Any);
            digests.push(disk.digest());
        }
        digests
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
