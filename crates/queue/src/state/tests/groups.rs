//! Offsets of groups: fencing, transactions, going.

use super::*;
use crate::group::Member;

fn by<'a>(generation: i32, member: &'a str) -> Committer<'a> {
    Committer { generation, member, instance: None }
}

fn of(partition: u32, offset: i64) -> OffsetOf<'static> {
    OffsetOf { topic: "orders", id: TOPIC, partition, offset, epoch: 3, metadata: "mine" }
}

fn members(number: i32, ids: &[(&str, Option<&str>)]) -> Generation {
    let member = |(id, instance): &(&str, Option<&str>)| Member {
        id: (*id).into(),
        instance: instance.map(str::to_owned),
        protocols: vec![("range".into(), vec![1, 2])],
        assignment: vec![3],
        ..Member::default()
    };
    let members = ids.iter().map(member).collect();
    Generation { number, kind: "consumer".into(), protocol: "range".into(), leader: "m1".into(), members }
}

impl World {
    fn commit(&mut self, by: Committer<'_>, offset: i64) -> Code {
        self.run(&Command::Commit { group: "g", by, offsets: vec![of(0, offset)] }).code()
    }

    fn committed(&self, partition: u32) -> Option<i64> {
        self.queue.group("g")?.offset("orders", TOPIC, partition).map(|offset| offset.offset)
    }

    fn save(&mut self, generation: Generation) -> Code {
        self.run(&Command::SaveGroup { group: "g", generation }).code()
    }
}

/// Kafka's `validateOffsetCommit`, case by case.
#[test]
fn commits_are_fenced_by_generation_and_member() {
    let mut world = World::new();
    assert_eq!(world.commit(by(4, "m1"), 1), Code::ILLEGAL_GENERATION, "nobody knows this group");
    assert!(world.queue.group("g").is_none(), "what is refused leaves nothing behind");
    assert_eq!(world.commit(by(-1, ""), 1), Code::NONE, "outside of group management");
    assert_eq!(world.save(members(4, &[("m1", None), ("m2", Some("s"))])), Code::NONE);
    let fixed = |generation, member, instance| Committer { generation, member, instance: Some(instance) };
    let table = [
        (by(4, "m1"), Code::NONE),
        (by(3, "m1"), Code::ILLEGAL_GENERATION),
        (by(5, "m1"), Code::ILLEGAL_GENERATION),
        (by(4, "m3"), Code::UNKNOWN_MEMBER_ID),
        (by(-1, "m1"), Code::ILLEGAL_GENERATION),
        (by(-1, ""), Code::UNKNOWN_MEMBER_ID),
        (fixed(4, "m2", "s"), Code::NONE),
        (fixed(4, "m1", "s"), Code::FENCED_INSTANCE_ID),
        (fixed(4, "m2", "t"), Code::UNKNOWN_MEMBER_ID),
    ];
    for (at, (by, expected)) in table.into_iter().enumerate() {
        let before = world.committed(0);
        assert_eq!(world.commit(by.clone(), 100 + at as i64), expected, "{by:?}");
        assert_eq!(world.committed(0), if expected == Code::NONE { Some(100 + at as i64) } else { before });
    }
    let kept = world.queue.group("g").and_then(|own| own.offset("orders", TOPIC, 0)).expect("committed");
    assert_eq!((kept.epoch, &*kept.metadata, kept.stamp), (3, "mine", world.now));
    assert_eq!(world.save(members(3, &[("m1", None)])), Code::ILLEGAL_GENERATION, "an older generation is not kept");
    assert_eq!(world.save(members(5, &[])), Code::NONE);
    assert_eq!(world.commit(by(4, "m1"), 1), Code::UNKNOWN_MEMBER_ID);
    assert_eq!(world.commit(by(-1, ""), 7), Code::NONE, "nobody is in it now");
    world.snapshot(10);
}

#[test]
fn an_offset_belongs_to_one_topic_and_goes_with_it() {
    let mut world = World::new();
    world.commit(by(-1, ""), 5);
    let own = world.queue.group("g").expect("committed");
    assert!(own.offset("orders", TopicId(99), 0).is_none(), "a new topic of the same name begins anew");
    world.run(&Command::Drop { topic: TOPIC });
    assert_eq!((world.committed(0), world.queue.figures().offsets), (None, 0));
}

#[test]
fn offsets_and_groups_can_be_deleted() {
    let mut world = World::new();
    let both = vec![of(0, 1), of(1, 2)];
    world.run(&Command::Commit { group: "g", by: by(-1, ""), offsets: both });
    let some = Command::DeleteOffsets { group: "g", partitions: vec![("orders", 1), ("orders", 9)] };
    assert_eq!(world.run(&some), Outcome::Done);
    assert_eq!((world.committed(0), world.committed(1), world.queue.figures().offsets), (Some(1), None, 1));
    world.save(members(1, &[("m1", None)]));
    assert_eq!(world.run(&Command::DeleteGroup { group: "g" }).code(), Code::NON_EMPTY_GROUP);
    world.save(members(2, &[]));
    assert_eq!(world.run(&Command::DeleteGroup { group: "g" }), Outcome::Done);
    assert_eq!(world.run(&Command::DeleteGroup { group: "g" }).code(), Code::GROUP_ID_NOT_FOUND);
    assert_eq!(world.run(&some).code(), Code::GROUP_ID_NOT_FOUND);
    assert_eq!(world.queue.figures().offsets, 0);
}

#[test]
fn a_group_without_members_goes_when_it_has_been_silent_for_a_week() {
    let mut world = World::new();
    world.commit(by(-1, ""), 5);
    world.run(&Command::SaveGroup { group: "full", generation: members(1, &[("m1", None)]) });
    world.now += OFFSETS_RETENTION_MS;
    world.run(&Command::Sweep);
    assert!(world.queue.group("g").is_some());
    world.now += 1;
    world.run(&Command::Sweep);
    assert!(world.queue.group("g").is_none() && world.queue.group("full").is_some());
    assert_eq!(world.queue.figures().offsets, 0);
}

/// R25: offsets of a transaction count with its end, or not at all; a late one does not land in the next.
#[test]
fn offsets_in_a_transaction_wait_for_its_end() {
    let mut world = World::new();
    let within = |epoch, number| Within { producer: 9, epoch, number };
    let put = |world: &mut World, within, offset| {
        let offsets = vec![of(0, offset)];
        world.run(&Command::TransactionCommit { group: "g", by: by(-1, ""), within, offsets }).code()
    };
    let end = |world: &mut World, within, commit| world.run(&Command::MarkGroup { group: "g", within, commit });
    assert_eq!(put(&mut world, within(0, 1), 10), Code::NONE);
    let own = world.queue.group("g").expect("pending");
    assert!(own.is_unstable("orders", 0) && !own.is_unstable("orders", 1));
    assert_eq!(world.committed(0), None);
    world.snapshot(10);
    assert_eq!(put(&mut world, within(0, 2), 11), Code::INVALID_TXN_STATE, "the first one has not ended");
    end(&mut world, within(0, 1), true);
    end(&mut world, within(0, 1), false);
    assert_eq!(world.committed(0), Some(10), "an end that comes again does nothing");
    assert_eq!(put(&mut world, within(0, 1), 12), Code::INVALID_TXN_STATE, "it comes late");
    assert_eq!(put(&mut world, within(1, 2), 13), Code::NONE);
    end(&mut world, within(1, 2), false);
    assert_eq!(world.committed(0), Some(10));
    assert_eq!(put(&mut world, within(0, 3), 14), Code::INVALID_PRODUCER_EPOCH);
    assert_eq!(put(&mut world, within(1, 0), 14), Code::INVALID_TXN_STATE, "nobody asked the coordinator");
    // An end that comes before what belongs to it: that is refused then, and nothing hangs.
    let other = |number| Within { producer: 10, epoch: 0, number };
    world.run(&Command::MarkGroup { group: "new", within: other(4), commit: false });
    let late = Command::TransactionCommit { group: "new", by: by(-1, ""), within: other(4), offsets: vec![of(0, 1)] };
    assert_eq!(world.run(&late).code(), Code::INVALID_TXN_STATE);
    // A member that says who it is is fenced like any other.
    world.save(members(4, &[("m1", None)]));
    let offsets = vec![of(0, 1)];
    let fenced = Command::TransactionCommit { group: "g", by: by(3, "m1"), within: within(1, 3), offsets };
    assert_eq!(world.run(&fenced).code(), Code::ILLEGAL_GENERATION);
    assert_eq!(put(&mut world, within(1, 3), 15), Code::NONE, "older clients do not say who they are");
    world.snapshot(10);
}

#[test]
fn what_is_too_large_is_not_kept() {
    use crate::limits::{COMMIT_OFFSETS_MAX, MEMBERS_MAX, OFFSET_METADATA_BYTES_MAX};
    let mut world = World::new();
    let long = "x".repeat(OFFSET_METADATA_BYTES_MAX + 1);
    let offsets = vec![OffsetOf { metadata: &long, ..of(0, 1) }];
    let outcome = world.run(&Command::Commit { group: "g", by: by(-1, ""), offsets });
    assert_eq!(outcome.code(), Code::OFFSET_METADATA_TOO_LARGE);
    let offsets = (0..=COMMIT_OFFSETS_MAX as u32).map(|partition| of(partition, 1)).collect();
    assert_eq!(world.run(&Command::Commit { group: "g", by: by(-1, ""), offsets }).code(), Code::POLICY_VIOLATION);
    let long = "g".repeat(ID_BYTES_MAX + 1);
    let outcome = world.run(&Command::Commit { group: &long, by: by(-1, ""), offsets: vec![of(0, 1)] });
    assert_eq!(outcome.code(), Code::INVALID_GROUP_ID);
    let crowd = vec![("m", None); MEMBERS_MAX + 1];
    assert_eq!(world.save(members(1, &crowd)), Code::POLICY_VIOLATION);
    let mut wordy = members(1, &[("m1", None)]);
    wordy.members[0].assignment = vec![0; crate::limits::MEMBER_BYTES_MAX + 1];
    assert_eq!(world.save(wordy), Code::POLICY_VIOLATION);
    world.queue.offsets = OFFSETS_MAX;
    world.twin.offsets = OFFSETS_MAX;
    assert_eq!(world.commit(by(-1, ""), 1), Code::POLICY_VIOLATION);
}
