//! Bugs planted between us and the right server: each is a thing an implementation gets wrong.

use super::play::Plant;

fn is(args: &[Vec<u8>], name: &str) -> bool {
    args[0].eq_ignore_ascii_case(name.as_bytes())
}

fn drop_word(args: &mut Vec<Vec<u8>>, name: &str, word: &str) {
    if is(args, name)
        && let Some(at) = args.iter().skip(1).position(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    {
        args.remove(at + 1);
    }
}

fn become_other(args: &mut [Vec<u8>], name: &str, other: &str) {
    if is(args, name) {
        args[0] = other.as_bytes().to_vec();
    }
}

fn replace_word(args: &mut [Vec<u8>], name: &str, word: &str, other: &str) {
    if is(args, name) {
        for arg in args.iter_mut().skip(2).filter(|arg| arg.eq_ignore_ascii_case(word.as_bytes())) {
            *arg = other.as_bytes().to_vec();
        }
    }
}

/// The bugs, from plain to sly.
pub const PLANTS: &[Plant] = &[
    Plant { name: "set-ignores-nx", rewrite: |args| drop_word(args, "SET", "NX") },
    Plant { name: "set-loses-keepttl", rewrite: |args| drop_word(args, "SET", "KEEPTTL") },
    Plant { name: "getdel-does-not-delete", rewrite: |args| become_other(args, "GETDEL", "GET") },
    Plant { name: "expireat-ignores-gt", rewrite: |args| drop_word(args, "EXPIREAT", "GT") },
    Plant { name: "persist-does-nothing", rewrite: |args| become_other(args, "PERSIST", "EXISTS") },
    Plant { name: "zadd-ignores-lt", rewrite: |args| drop_word(args, "ZADD", "LT") },
    Plant {
        name: "zrange-score-inclusive",
        rewrite: |args| {
            if is(args, "ZRANGEBYSCORE") || is(args, "ZCOUNT") {
                for arg in args.iter_mut().skip(2).filter(|arg| arg.starts_with(b"(")) {
                    arg.remove(0);
                }
            }
        },
    },
    Plant { name: "zunion-max-is-sum", rewrite: |args| replace_word(args, "ZUNIONSTORE", "MAX", "SUM") },
    Plant { name: "lmove-wrong-end", rewrite: |args| replace_word(args, "LMOVE", "LEFT", "RIGHT") },
    Plant { name: "blmove-wrong-end", rewrite: |args| replace_word(args, "BLMOVE", "LEFT", "RIGHT") },
    Plant { name: "linsert-wrong-side", rewrite: |args| replace_word(args, "LINSERT", "AFTER", "BEFORE") },
    Plant { name: "smove-keeps-source", rewrite: |args| become_other(args, "SMOVE", "SMISMEMBER") },
    Plant { name: "xreadgroup-noack-ignored", rewrite: |args| drop_word(args, "XREADGROUP", "NOACK") },
    Plant { name: "xclaim-justid-counts", rewrite: |args| drop_word(args, "XCLAIM", "RETRYCOUNT") },
    Plant { name: "xtrim-off-by-one", rewrite: |args| replace_word(args, "XTRIM", "8", "7") },
    Plant { name: "watch-does-nothing", rewrite: |args| become_other(args, "WATCH", "UNWATCH") },
    Plant {
        name: "watch-forgets-second-key",
        rewrite: |args| {
            if is(args, "WATCH") && args.len() > 2 {
                args.truncate(2);
            }
        },
    },
    Plant { name: "discard-executes", rewrite: |args| become_other(args, "DISCARD", "EXEC") },
    Plant { name: "scan-ignores-match", rewrite: |args| replace_word(args, "SSCAN", "MATCH", "COUNT") },
    Plant { name: "sort-ignores-desc", rewrite: |args| drop_word(args, "SORT", "DESC") },
    Plant { name: "copy-ignores-replace", rewrite: |args| drop_word(args, "COPY", "REPLACE") },
    Plant {
        name: "hincrby-wraps",
        rewrite: |args| replace_word(args, "HINCRBY", "9223372036854775807", "9223372036854775806"),
    },
];
