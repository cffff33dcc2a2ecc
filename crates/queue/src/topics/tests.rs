use store::codec::Input;

use super::*;

fn create(name: &str, partitions: u32, settings: &[(&str, &str)]) -> Change {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Change::Create { name: name.into(), partitions, settings }
}

fn set(name: &str, key: &str, how: How) -> Change {
    Change::Configure { name: name.into(), edits: vec![Edit { key: key.into(), how }], replace: false }
}

fn code(outcome: Outcome) -> Code {
    match outcome {
        Outcome::Done { .. } => Code::NONE,
        Outcome::Refused(code, _) => code,
    }
}

/// One change after the other, and what becomes of it.
#[test]
fn topics_come_grow_change_and_go() {
    let table = [
        (create("orders", 3, &[("retention.ms", "1000")]), Code::NONE),
        (create("orders", 3, &[]), Code::TOPIC_ALREADY_EXISTS),
        (create("a.b", 1, &[]), Code::NONE),
        (create("a_b", 1, &[]), Code::INVALID_TOPIC_EXCEPTION),
        (create("", 1, &[]), Code::INVALID_TOPIC_EXCEPTION),
        (create("..", 1, &[]), Code::INVALID_TOPIC_EXCEPTION),
        (create("sl/ash", 1, &[]), Code::INVALID_TOPIC_EXCEPTION),
        (create(&"x".repeat(250), 1, &[]), Code::INVALID_TOPIC_EXCEPTION),
        (create("none", 0, &[]), Code::INVALID_PARTITIONS),
        (create("many", TOPIC_PARTITIONS_MAX + 1, &[]), Code::INVALID_PARTITIONS),
        (create("odd", 1, &[("no.such", "1")]), Code::INVALID_CONFIG),
        (create("odd", 1, &[("retention.ms", "soon")]), Code::INVALID_CONFIG),
        (create("odd", 1, &[("cleanup.policy", "compact,keep")]), Code::INVALID_CONFIG),
        (create("long", 1, &[("quorate.tag", &"y".repeat(1025))]), Code::INVALID_CONFIG),
        (create("{user1}.events", 2, &[]), Code::NONE),
        (Change::Grow { name: "orders".into(), partitions: 3 }, Code::INVALID_PARTITIONS),
        (Change::Grow { name: "orders".into(), partitions: 5 }, Code::NONE),
        (Change::Grow { name: "nobody".into(), partitions: 5 }, Code::UNKNOWN_TOPIC_OR_PARTITION),
        (set("orders", "cleanup.policy", How::Append("compact".into())), Code::NONE),
        (set("orders", "cleanup.policy", How::Subtract("delete".into())), Code::NONE),
        (set("orders", "cleanup.policy", How::Subtract("compact".into())), Code::INVALID_CONFIG),
        (set("orders", "retention.ms", How::Append("1".into())), Code::INVALID_CONFIG),
        (set("orders", "quorate.tag", How::Set("t".into())), Code::INVALID_CONFIG),
        (set("orders", "max.message.bytes", How::Set("2000".into())), Code::NONE),
        (set("orders", "retention.ms", How::Delete), Code::NONE),
        (Change::Delete { name: "a.b".into(), id: Some(TopicId(7)) }, Code::UNKNOWN_TOPIC_OR_PARTITION),
        (Change::Delete { name: "a.b".into(), id: None }, Code::NONE),
    ];
    let mut topics = Topics::default();
    for (at, (change, expected)) in table.into_iter().enumerate() {
        assert_eq!(Change::decode(&change.encode()), Ok(change.clone()));
        let judged = topics.judge(&change, at as u64 + 1, 100);
        let outcome = topics.apply(&change, at as u64 + 1, 100);
        assert_eq!(judged, outcome);
        assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome.clone()));
        assert_eq!(code(outcome.clone()), expected, "{change:?}: {outcome:?}");
        let mut bytes = Vec::new();
        topics.encode(&mut bytes);
        assert_eq!(Topics::decode(&mut Input::new(&bytes)), Ok(topics.clone()));
    }
    let orders = topics.get("orders").expect("it was made");
    assert_eq!((orders.partitions, topics.partitions(), topics.len(), topics.index()), (5, 7, 2, 27));
    assert_eq!(orders.settings.retention_ms(), Some(604_800_000));
    assert_eq!(
        (orders.settings.batch_bytes_max(), orders.settings.compacts(), orders.settings.deletes()),
        (2000, true, false)
    );
    assert_eq!(topics.by_id(orders.id).map(|topic| &*topic.name), Some("orders"));
    assert_eq!(topics.get("{user1}.events").expect("made").slot(1), key_slot(b"{user1}"));
    let gone = TopicId::new(3, 100);
    assert!(
        topics.is_gone(gone, 3) && !topics.is_gone(gone, 2),
        "a topic of an entry that is yet to come has not gone"
    );
    assert!(!topics.is_gone(orders.id, 100));
}

#[test]
fn a_topic_with_a_tag_lies_with_its_keys_and_keeps_it() {
    let mut topics = Topics::default();
    topics.apply(&create("orders", 9, &[("quorate.tag", "eu"), ("retention.bytes", "5")]), 1, 1);
    let replace = Change::Configure { name: "orders".into(), edits: vec![], replace: true };
    assert_eq!(code(topics.apply(&replace, 2, 2)), Code::NONE);
    let orders = topics.get("orders").expect("it was made");
    assert_eq!((orders.settings.tag(), orders.settings.retention_bytes()), (Some("eu"), None));
    assert!((0..9).all(|partition| orders.slot(partition) == key_slot(b"eu")));
}

#[test]
fn two_topics_of_one_entry_have_two_ids_and_defaults_are_legal() {
    let mut topics = Topics::default();
    topics.apply(&create("a", 1, &[]), 5, 9);
    topics.apply(&create("b", 1, &[]), 5, 9);
    let ids: Vec<TopicId> = topics.iter().map(|topic| topic.id).collect();
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.born() == 5));
    for known in KNOWN.iter().filter(|known| known.key != "quorate.tag") {
        assert_eq!(Settings::default().set(known.key, known.default), Ok(()), "{}", known.key);
        assert_eq!(Settings::default().get(known.key), Some(known.default));
    }
}

#[test]
fn damaged_forms_are_errors_never_panics() {
    let mut topics = Topics::default();
    topics.apply(&create("orders", 3, &[("retention.ms", "1000")]), 1, 1);
    let mut whole = Vec::new();
    topics.encode(&mut whole);
    let edits = vec![Edit { key: "retention.ms".into(), how: How::Set("3".into()) }];
    let forms = [
        create("orders", 3, &[("retention.ms", "1000")]).encode(),
        Change::Configure { name: "orders".into(), edits, replace: true }.encode(),
        Outcome::Refused(Code::INVALID_CONFIG, "no".into()).encode(),
        whole,
    ];
    let mut rng = base::Rng::new(4);
    for form in forms {
        for _ in 0..5_000 {
            let mut bytes = form.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.index(bytes.len());
                bytes[at] = rng.next_u64() as u8;
            }
            bytes.truncate(rng.index(bytes.len()) + 1);
            let _ = (Change::decode(&bytes), Outcome::decode(&bytes), Topics::decode(&mut Input::new(&bytes)));
        }
    }
}

#[test]
fn a_dead_letter_topic_comes_with_its_setting_and_lies_with_its_topic() {
    let mut topics = Topics::default();
    let mut index = 10;
    let mut apply = |topics: &mut Topics, change: Change| {
        index += 1;
        code(topics.apply(&change, index, 5))
    };
    assert_eq!(
        apply(&mut topics, create("jobs", 3, &[("quorate.tag", "t"), ("quorate.deliveries.max", "5")])),
        Code::NONE
    );
    let dead = topics.get("jobs.dead").expect("it was made").clone();
    let jobs = topics.get("jobs").expect("there").clone();
    assert_eq!((dead.partitions, dead.slot(2)), (3, jobs.slot(2)));
    assert_eq!(apply(&mut topics, Change::Grow { name: "jobs".into(), partitions: 4 }), Code::NONE);
    assert_eq!(topics.get("jobs.dead").map(|own| own.partitions), Some(4));
    // Another one that lies with it will do, and one that does not is refused; then nothing has changed.
    assert_eq!(apply(&mut topics, create("grave", 4, &[("quorate.tag", "t")])), Code::NONE);
    let to = |name: &str| set("jobs", "quorate.dead.letter.topic", How::Set(name.into()));
    assert_eq!(apply(&mut topics, to("grave")), Code::NONE);
    assert_eq!(apply(&mut topics, create("elsewhere", 4, &[])), Code::NONE);
    let before = topics.clone();
    for name in ["elsewhere", "jobs", "sl/ash"] {
        assert_eq!(
            apply(&mut topics, to(name)),
            if name == "sl/ash" { Code::INVALID_TOPIC_EXCEPTION } else { Code::INVALID_CONFIG }
        );
        assert_eq!(topics, before, "{name}");
    }
    let long = "x".repeat(247);
    assert_eq!(apply(&mut topics, create(&long, 1, &[("quorate.deliveries.max", "1")])), Code::INVALID_TOPIC_EXCEPTION);
    assert_eq!((topics.get(&long), topics.partitions()), (None, before.partitions()));
    let mut form = Vec::new();
    topics.encode(&mut form);
    assert_eq!(Topics::decode(&mut Input::new(&form)), Ok(topics));
}
