//! When are two replies the same? Exactly equal, but for the masks listed in [`MASKS`].

use crate::resp::Value;

/// What is not compared, and why. `cargo xtask differential --masks` prints it for docs/compatibility.md.
pub const MASKS: &[(&str, &str)] = &[
    (
        "order of SMEMBERS, SUNION, SINTER, SDIFF, KEYS, HKEYS, HVALS, HGETALL, SPOP, PUBSUB CHANNELS, SORT BY nosort",
        "unordered by promise: sorted before comparing",
    ),
    ("SCAN, SSCAN, HSCAN, ZSCAN", "iterated to the end; what they bring is compared as a set, not the cursors"),
    (
        "SRANDMEMBER, HRANDFIELD, ZRANDMEMBER, RANDOMKEY",
        "by chance: whole sets are sorted, else only the shape of the reply is compared; SPOP only takes whole sets",
    ),
    ("TTL, PTTL, EXPIRETIME, PEXPIRETIME", "may differ by 5 s: relative expiries are counted from two clocks"),
    ("OBJECT IDLETIME", "only that it is a number"),
    (
        "OBJECT ENCODING",
        "listpack, quicklist, hashtable and skiplist are one: 7.2 keeps small lists and small sets in listpacks, 7.0 does not, and SORT leaves a small sorted set of Redis a skiplist",
    ),
    (
        "text of doubles in replies of sorted sets and in RESP3 doubles",
        "7.0 prints 17 digits (0.10000000000000001), 7.2 the shortest that reads back (0.1): compared as numbers",
    ),
    (
        "OBJECT ENCODING raw or embstr where we say int or embstr",
        "Redis remembers how a string came about (APPEND, SETRANGE, INCRBYFLOAT), we look at the string",
    ),
    (
        "WATCH on streams",
        "not asked: XSETID, XACK, XGROUP SETID and kin change the key for us, Redis forgets to say so",
    ),
    ("idle times and delivery times in XPENDING, XINFO", "by the clock"),
    ("XINFO STREAM radix-tree-keys, radix-tree-nodes", "the inside of Redis"),
    ("XINFO lag", "7.2's later patch releases count it anew"),
    (
        "consumers without pending entries: in XINFO CONSUMERS, XINFO STREAM FULL, the count of XINFO GROUPS, the reply of XGROUP CREATECONSUMER",
        "7.2 creates a consumer even when nothing was read or claimed for it, 7.0 does not; active-time and inactive are new in 7.2",
    ),
    ("timeouts of blocking commands too great to count", "7.0: timeout is negative; 7.2: timeout is out of range"),
    ("the sign of a score of zero", "Redis keeps the sign of -0 in a big sorted set and loses it in a small one"),
    ("ZRANK and ZREVRANK WITHSCORE", "not asked: new in 7.2"),
    ("ranges by lex where scores differ", "not asked: nothing is promised"),
    (
        "text of XREAD and XREADGROUP with unbalanced streams",
        "7.2 names the command and the right sign, 7.0 always says XREAD and '$'",
    ),
    ("XSETID below an entry that was deleted", "7.2 names the deleted entry, 7.0 the top one or nothing"),
    ("LPOS with RANK -9223372036854775808", "not asked: 7.2 refuses it, 7.0 does not"),
    (
        "XREADGROUP that waited while its group or stream went away",
        "7.0: UNBLOCKED the stream key no longer exists; 7.2: NOGROUP as if asked anew",
    ),
    (
        "the end of a script's error, from ' script: ' on",
        "it names the script's SHA-1 and line, which not every version adds to every error",
    ),
    (
        "SORT that fails on a score",
        "Redis looks at an errno that an earlier command may have left behind (ZADD of 5e-324): its refusal counts only if ours is one",
    ),
    (
        "SUBSCRIBE, UNSUBSCRIBE and their kin inside MULTI",
        "not asked: we refuse them, Redis runs them; a transaction is one entry of the log, a subscription is one connection's own",
    ),
    (
        "HELLO with another protocol, CLIENT REPLY OFF and SKIP inside MULTI",
        "not asked: an error in EXEC's answer; Redis changes the form of the answers, or their number, in the midst of one",
    ),
    (
        "the count in a HyperLogLog's bytes (GET after PFCOUNT), WATCH on one",
        "Redis writes the count that it has told into the string; for us PFCOUNT only reads",
    ),
    ("scores by GEOSEARCHSTORE STOREDIST", "not asked: sines differ in the last bit from one C library to the next"),
    ("COMMAND GETKEYS with one word", "not asked: 7.0 wants two"),
    ("ids, version and modules in HELLO, ids in CLIENT", "not asked"),
];

/// The two replies to `args`, brought into a form in which equal means the same. `queued` are the commands of the transaction
/// that an EXEC ran.
pub fn same(args: &[Vec<u8>], queued: &[Vec<Vec<u8>>], left: &Value, right: &Value) -> bool {
    if left == right {
        return true;
    }
    let name = args[0].to_ascii_uppercase();
    if name == b"EXEC"
        && let (Value::Array(lefts), Value::Array(rights)) = (left, right)
        && lefts.len() == rights.len()
        && lefts.len() == queued.len()
    {
        return queued.iter().zip(lefts.iter().zip(rights)).all(|(args, (left, right))| same(args, &[], left, right));
    }
    if matches!(&name[..], b"TTL" | b"PTTL" | b"EXPIRETIME" | b"PEXPIRETIME")
        && let (Value::Int(left), Value::Int(right)) = (left, right)
    {
        let slack = if name[0] == b'P' { 5000 } else { 5 };
        return *left >= 0 && *right >= 0 && left.abs_diff(*right) <= slack;
    }
    if let (Value::Bulk(left), Value::Bulk(right)) = (left, right)
        && left.starts_with(b"HYLL")
        && left.len() == right.len()
        && left.len() >= 16
    {
        return left[..8] == right[..8] && left[16..] == right[16..];
    }
    if name == b"OBJECT"
        && matches!(left.bytes(), Some(b"raw" | b"embstr"))
        && matches!(right.bytes(), Some(b"int" | b"embstr"))
    {
        return args.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"encoding"));
    }
    if matches!(&name[..], b"SORT" | b"SORT_RO")
        && matches!(left, Value::Error(text) if text.starts_with(b"ERR One or more scores can't be converted"))
    {
        return right.error().is_none();
    }
    if name == b"XSETID"
        && matches!(right, Value::Error(text) if text == b"ERR The ID specified in XSETID is smaller than current max_deleted_entry_id")
    {
        return left.error().is_some();
    }
    canonical(args, left.clone()) == canonical(args, right.clone())
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(items) | Value::Set(items) | Value::Push(items) => items.sort(),
        Value::Map(pairs) => pairs.sort(),
        _ => {}
    }
}

/// Sorts a flat list of pairs by pair.
fn sort_pairs(value: &mut Value) {
    match value {
        Value::Array(items) if items.len() % 2 == 0 && !items.iter().any(|item| item.items().is_some()) => {
            let mut pairs: Vec<_> = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            pairs.sort();
            *items = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
        }
        other => sort(other),
    }
}

/// Only how many there are, and of what kind.
fn shape(value: &mut Value) {
    match value {
        Value::Array(items) | Value::Set(items) | Value::Push(items) => items.iter_mut().for_each(shape),
        Value::Map(pairs) => pairs.iter_mut().for_each(|(key, value)| {
            shape(key);
            shape(value);
        }),
        Value::Bulk(text) | Value::Double(text) => text.clear(),
        Value::Int(number) => *number = 0,
        _ => {}
    }
}

/// Every text that is a number becomes that number's one spelling.
fn numbers(value: &mut Value) {
    match value {
        Value::Array(items) | Value::Set(items) | Value::Push(items) => items.iter_mut().for_each(numbers),
        Value::Map(pairs) => pairs.iter_mut().for_each(|(key, value)| {
            numbers(key);
            numbers(value);
        }),
        Value::Bulk(text) | Value::Double(text) => {
            if let Some(number) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()) {
                // Adding zero leaves -0 no sign.
                *text = format!("{:?}", number + 0.0).into_bytes();
            }
        }
        _ => {}
    }
}

/// RESP3 doubles wherever they stand.
fn doubles(value: &mut Value) {
    match value {
        Value::Array(items) | Value::Set(items) | Value::Push(items) => items.iter_mut().for_each(doubles),
        Value::Map(pairs) => pairs.iter_mut().for_each(|(_, value)| doubles(value)),
        Value::Double(_) => numbers(value),
        _ => {}
    }
}

/// Drops and blanks fields of a reply of XINFO, which is a map in RESP3 and a flat list in RESP2.
fn xinfo(value: &mut Value) {
    const DROPPED: &[&[u8]] =
        &[b"radix-tree-keys", b"radix-tree-nodes", b"lag", b"idle", b"inactive", b"seen-time", b"active-time"];
    let idle = |pairs: &[(Value, Value)]| {
        pairs
            .iter()
            .any(|(key, value)| matches!(key.bytes(), Some(b"pel-count" | b"pending")) && *value == Value::Int(0))
            && pairs.iter().any(|(key, _)| matches!(key.bytes(), Some(b"seen-time" | b"idle")))
    };
    let as_pairs = |value: &Value| -> Option<Vec<(Value, Value)>> {
        match value {
            Value::Map(pairs) => Some(pairs.clone()),
            Value::Array(items)
                if items.len() % 2 == 0
                    && !items.is_empty()
                    && matches!(items[0].bytes(), Some(b"length" | b"name")) =>
            {
                Some(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            }
            _ => None,
        }
    };
    if let Some(pairs) = as_pairs(value) {
        let mut pairs: Vec<_> =
            pairs.into_iter().filter(|(key, _)| !DROPPED.contains(&key.bytes().unwrap_or_default())).collect();
        for (key, value) in &mut pairs {
            if key.bytes() == Some(b"consumers") && matches!(value, Value::Int(_)) {
                *value = Value::Int(0);
            }
            xinfo(value);
        }
        *value = Value::Map(pairs);
        return;
    }
    if let Value::Array(items) = value {
        items.retain(|item| !as_pairs(item).is_some_and(|pairs| idle(&pairs)));
        items.iter_mut().for_each(xinfo);
    }
    // Delivery times stand bare in the lists of pending entries.
    if let Value::Int(number) = value
        && *number > 100_000_000_000
    {
        *number = 0;
    }
}

/// Takes the part of a script's error that names the script.
fn script_error(text: &mut Vec<u8>) {
    let whole = String::from_utf8_lossy(text).into_owned();
    if let Some(at) = whole.find(" script: ") {
        *text = whole.as_bytes()[..at].to_vec();
    }
}

fn canonical(args: &[Vec<u8>], mut value: Value) -> Value {
    let name = args[0].to_ascii_uppercase();
    let sub = args.get(1).map(|arg| arg.to_ascii_uppercase()).unwrap_or_default();
    let count = || args.get(2).and_then(|arg| std::str::from_utf8(arg).ok()?.parse::<i64>().ok());
    doubles(&mut value);
    if name[0] == b'Z' || name.starts_with(b"BZ") {
        numbers(&mut value);
    }
    match &name[..] {
        b"SMEMBERS" | b"SUNION" | b"SINTER" | b"SDIFF" | b"KEYS" | b"HKEYS" | b"HVALS" | b"SPOP" | b"PUBSUB" => {
            sort(&mut value)
        }
        b"SORT" | b"SORT_RO"
            if args.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(b"by") && !pair[1].contains(&b'*')) =>
        {
            sort(&mut value)
        }
        b"HGETALL" => sort_pairs(&mut value),
        b"SRANDMEMBER" | b"HRANDFIELD" | b"ZRANDMEMBER" => match count() {
            Some(count) if count > 0 && args.len() == 3 => sort(&mut value),
            Some(count) if count > 0 => sort_pairs(&mut value),
            _ => shape(&mut value),
        },
        b"RANDOMKEY" => shape(&mut value),
        b"OBJECT" if sub == b"IDLETIME" => shape(&mut value),
        b"OBJECT" if sub == b"ENCODING" => {
            if matches!(value.bytes(), Some(b"listpack" | b"quicklist" | b"hashtable" | b"skiplist")) {
                value = Value::Bulk(b"listpack".to_vec());
            }
        }
        b"XGROUP" if sub == b"CREATECONSUMER" && matches!(value, Value::Int(_)) => value = Value::Int(0),
        b"XINFO" => xinfo(&mut value),
        b"XPENDING" => {
            if let Value::Array(rows) = &mut value {
                for row in rows {
                    if let Value::Array(row) = row
                        && row.len() == 4
                        && let Value::Int(idle) = &mut row[2]
                    {
                        *idle = 0;
                    }
                }
            }
        }
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX" | b"BLMPOP" | b"BZMPOP" => {
            if matches!(&value, Value::Error(text) if text == b"ERR timeout is negative") {
                value = Value::Error(b"ERR timeout is out of range".to_vec());
            }
        }
        b"XREAD" | b"XREADGROUP" if matches!(&value, Value::Error(text) if text.starts_with(b"ERR Unbalanced ")) => {
            value = Value::Error(b"ERR Unbalanced".to_vec());
        }
        b"XREADGROUP" => {
            if let Value::Error(text) = &mut value
                && text.starts_with(b"UNBLOCKED")
            {
                *text = b"NOGROUP".to_vec();
            } else if let Value::Error(text) = &mut value
                && text.starts_with(b"NOGROUP")
                && args.iter().any(|arg| arg.eq_ignore_ascii_case(b"block"))
            {
                text.truncate(7);
            }
        }
        b"EVAL" | b"EVALSHA" | b"FCALL" | b"FCALL_RO" => {
            if let Value::Error(text) = &mut value {
                script_error(text);
            }
        }
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<Vec<u8>> {
        text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn unordered_replies_are_sorted_and_ordered_ones_are_not() {
        let left = Value::Array(vec![bulk("a"), bulk("b")]);
        let right = Value::Array(vec![bulk("b"), bulk("a")]);
        assert!(same(&args("SMEMBERS t"), &[], &left, &right));
        assert!(!same(&args("LRANGE l 0 -1"), &[], &left, &right));
        // The pairs of HGETALL stay pairs.
        assert!(!same(&args("HGETALL h"), &[], &left, &right));
    }

    #[test]
    fn masks_do_not_reach_beyond_their_command() {
        let (left, right) = (bulk("0.10000000000000001"), bulk("0.1"));
        assert!(same(&args("ZSCORE z a"), &[], &left, &right));
        assert!(!same(&args("GET s"), &[], &left, &right));
        assert!(!same(&args("TTL k"), &[], &Value::Int(-1), &Value::Int(-2)));
        assert!(!same(&args("TTL k"), &[], &Value::Int(100), &Value::Int(106)));
        assert!(same(&args("TTL k"), &[], &Value::Int(100), &Value::Int(99)));
        assert!(!same(&args("GET k"), &[], &Value::NullBulk, &Value::Null));
    }

    #[test]
    fn exec_is_compared_command_by_command() {
        let left = Value::Array(vec![Value::Int(100), Value::Array(vec![bulk("a"), bulk("b")])]);
        let right = Value::Array(vec![Value::Int(99), Value::Array(vec![bulk("b"), bulk("a")])]);
        assert!(same(&args("EXEC"), &[args("TTL k"), args("SMEMBERS t")], &left, &right));
        assert!(!same(&args("EXEC"), &[args("LLEN k"), args("SMEMBERS t")], &left, &right));
        assert!(!same(&args("EXEC"), &[args("TTL k"), args("LRANGE t 0 -1")], &left, &right));
    }
}
