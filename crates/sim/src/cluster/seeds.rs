//! What a seed has where nobody says, and the seeds that failed once.

use super::Options;

/// As many founders as this seed has where nobody says: one that grows, three, five.
pub fn founders(seed: u64) -> u64 {
    [3, 1, 3, 5][(seed % 4) as usize]
}

/// Whether a seed has producers and consumers of a topic where nobody says: a third of those of each size of cluster.
pub fn has_streams(seed: u64) -> bool {
    (seed / 4).is_multiple_of(3)
}

/// Whether slots move in this seed where nobody says.
pub fn moves(seed: u64) -> bool {
    seed % 5 == 2
}

/// Whether a seed has transactions over several shards where nobody says: a sixth of those of each size of cluster.
pub fn has_commits(seed: u64) -> bool {
    (seed / 4) % 6 == 1
}

/// Whether members are changed from two nodes at once in this seed where nobody says: in every seventh.
pub fn has_twins(seed: u64) -> bool {
    seed % 7 == 4
}

/// Whether a seed has clients of etcd's door where nobody says: a seventh of all.
pub fn has_etcd(seed: u64) -> bool {
    seed % 7 == 3
}

/// Seeds that failed once: seed, founders, virtual milliseconds, and the words `moves`, `commits`, `twins` and `etcd` where there are such. They run with
/// every run of the tests.
///
/// # Panics
/// If `cases.txt` holds a line of another form.
pub fn cases() -> Vec<(u64, Options)> {
    let lines = include_str!("../../cases.txt").lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).expect("cases.txt: SEED NODES MILLIS");
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let (seed, nodes, millis) = (number(words.next()), number(words.next()), number(words.next()));
            let rest: Vec<&str> = words.collect();
            let has = |word| rest.contains(&word);
            let (moves, commits, twins, etcd) = (has("moves"), has("commits"), has("twins"), has("etcd"));
            (seed, Options { nodes, millis, moves, commits, twins, etcd, ..Options::default() })
        })
        .collect()
}
