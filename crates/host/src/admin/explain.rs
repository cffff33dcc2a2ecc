//! `GET /explain?key=KEY[&db=N]`: where a key lies, and the last commit that named it, of those that this node remembers.

use doors::admin::explain::{self, Asked};
use doors::admin::tape::printable;
use serde_json::{Value, json};

use super::Admin;

/// The answer, or what is wrong with the question.
pub(super) fn answer(admin: &Admin, query: &str) -> Result<Value, String> {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, _)| *own == name).map(|(_, value)| decoded(value))
    };
    let key = value("key").ok_or("which key? /explain?key=KEY[&db=N]")?;
    let db = value("db").map_or(Some(0), |text| String::from_utf8(text).ok()?.parse::<u8>().ok());
    let db = db.ok_or("db is a number of a database")?;
    let door = &admin.node.door;
    let topic = (db == 0).then(|| door.topic_of(&key)).flatten();
    let at = match &topic {
        Some((topic, partition)) => {
            door.home_of(format!("topic:{}:{}", topic.place(), partition.unwrap_or(0)).as_bytes())
        }
        None => door.shard_of(&key),
    };
    let shard = &door.shards[at];
    let group = admin.node.groups().into_iter().find(|own| own.group == shard.group);
    let keyspace = {
        let state = shard.state();
        let keyspaces = state.keyspaces().clone();
        let own = keyspaces.get(keyspaces.of(&key));
        json!({ "prefix": printable(&own.prefix), "durability": format!("{:?}", own.durability).to_lowercase() })
    };
    let asked = match &topic {
        Some((topic, partition)) => Asked::Topic(topic.id, *partition),
        None => Asked::Key(db, &key),
    };
    let (total, commits) = admin.node.tape.after(0);
    let found = commits.iter().rev().find_map(|(number, applied)| {
        let mut told = explain::last(&applied.data, asked)?;
        for own in &mut told.partitions {
            own.topic = door.topic_name(&own.topic).unwrap_or_else(|| own.topic.clone());
        }
        let mut commit = serde_json::to_value(&told).ok()?;
        let fields = commit.as_object_mut()?;
        let group = applied.group.0;
        fields.extend([
            ("number".to_owned(), json!(number)),
            ("group".to_owned(), json!(group)),
            ("index".to_owned(), json!(applied.index)),
            ("time_ms".to_owned(), json!(applied.stamp)),
        ]);
        Some(commit)
    });
    let cut = commits.iter().filter(|(_, applied)| applied.data.len() < applied.bytes).count();
    Ok(json!({
        "key": printable(&key),
        "db": db,
        "topic": topic.as_ref().map(|(topic, partition)| json!({ "name": &*topic.name, "partition": partition })),
        "keyspace": keyspace,
        "slot": base::key_slot(&key),
        "shard": shard.group.0,
        "leader": group.as_ref().and_then(|own| own.leader).map(|node| node.0),
        "term": group.as_ref().map(|own| own.term),
        "held_here": group.is_some(),
        "commit": found,
        "remembered": {
            "commits": commits.len(),
            "of": total,
            "since_ms": commits.first().map(|(_, applied)| applied.stamp),
            "cut": cut,
        },
    }))
}

/// A query's value, its escapes undone.
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        let escaped = match (byte, behind) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| (high * 16 + low) as u8)
            }
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &behind[2..];
            }
            None => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        assert_eq!(decoded("a%3Ab+c%2"), b"a:b c%2");
        assert_eq!(decoded("%zz%41"), b"%zzA");
        assert_eq!(decoded(""), b"");
    }
}
