//! Maglev hashing: a table in which every endpoint has its share of the entries, and which hardly changes when an endpoint comes or goes
//! (D. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4). A look-up is one hash and one entry.
//!
//! ```text
//!  each endpoint walks the table in an order of its own: (offset + j·skip) mod M, M prime, offset and skip from its id
//!  in turns, each takes the first entry of its walk that is still free, until none is free
//! ```
//!
//! Weights (the paper leaves them open; this is what Envoy and Cilium do): an endpoint of weight `w` takes a turn in `w / w_max` of the rounds,
//! everybody in the first.
//!
//! The table is made of **all** members, whatever their health, and is made anew only when members or weights change. A member that may not
//! be used is passed over at look-up: the key is hashed again, up to [`PROBES_MAX`] times. So when a member fails exactly its own keys move,
//! spread over the others by weight, and they come back when it does; no other key moves at all. What the table itself moves when a member
//! is added or removed is measured by the tests: with 65,537 entries and ten members under one hundredth of the keys that need not move.
//!
//! The table depends on ids and weights only, not on their order: all nodes agree without talking.

use super::endpoint::EndpointId;
use super::hash::{HashKey, remix};

/// The sizes a table may have: primes. The paper wants a hundred entries for each endpoint, for shares that differ by at most one hundredth.
pub const TABLE_SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_537, 131_071];

/// The size unless told otherwise: the paper's and Envoy's, 128 KiB.
pub const TABLE_SIZE_DEFAULT: u32 = 65_537;

/// How often a key is hashed again because its endpoint may not be used.
const PROBES_MAX: u64 = 32;

const FREE: u16 = u16::MAX;

/// The table of one set of endpoints.
#[derive(Debug)]
pub(super) struct Maglev {
    /// What it was made of, by which it is recognised.
    members: Box<[(EndpointId, u32)]>,
    table: Box<[u16]>,
}

struct Walk {
    next: u64,
    skip: u64,
    credit: u64,
}

impl Maglev {
    /// The table of `size` entries (one of [`TABLE_SIZES`]) over `members`, each with its weight; a weight of zero has no entry. Members must
    /// be sorted by id, which makes the table independent of the order in which anybody lists them, and be fewer than the entries.
    pub(super) fn new(members: &[(EndpointId, u32)], size: u32) -> Maglev {
        assert!(members.is_sorted_by_key(|(id, _)| *id), "the order of turns is the order of ids");
        assert!(members.len() < size as usize && members.len() < usize::from(FREE), "everybody has an entry");
        let m = u64::from(size);
        let mut walks: Vec<Walk> = members
            .iter()
            .map(|(id, weight)| {
                let [first, second] = [0u64, 1].map(|salt| {
                    let mut bytes = [0u8; 16];
                    bytes[..8].copy_from_slice(&id.0.to_le_bytes());
                    bytes[8..].copy_from_slice(&salt.to_le_bytes());
                    HashKey::SHARED.hash(&bytes)
                });
                Walk { next: first % m, skip: second % (m - 1) + 1, credit: u64::from(*weight) }
            })
            .collect();
        let heaviest = walks.iter().map(|walk| walk.credit).max().unwrap_or(0);
        let mut table = vec![FREE; if heaviest == 0 { 0 } else { size as usize }];
        let mut free = table.len();
        // In the first round everybody has the credit for a turn.
        let mut credits: Vec<u64> = walks.iter().map(|walk| heaviest - walk.credit).collect();
        while free > 0 {
            for (at, walk) in walks.iter_mut().enumerate().filter(|(_, walk)| walk.credit > 0) {
                credits[at] += walk.credit;
                if credits[at] < heaviest {
                    continue;
                }
                credits[at] -= heaviest;
                while table[walk.next as usize] != FREE {
                    walk.next = (walk.next + walk.skip) % m;
                }
                table[walk.next as usize] = at as u16;
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        Maglev { members: members.into(), table: table.into() }
    }

    /// Whether this is the table of `members` with `size` entries.
    pub(super) fn is_of(&self, members: &[(EndpointId, u32)], size: u32) -> bool {
        *self.members == *members && (self.table.len() == size as usize || self.table.is_empty())
    }

    /// The member (as an index into those the table was made of) that serves `key`, among those that `accept`.
    pub(super) fn look_up(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let len = self.table.len() as u64;
        for probe in 0..PROBES_MAX {
            let entry = (u128::from(remix(key, probe)) * u128::from(len)) >> 64;
            let at = usize::from(self.table[entry as usize]);
            if accept(at) {
                return Some(at);
            }
        }
        // Nearly nobody is accepted. From a place of the key's own, so that the few that are left share what comes.
        let start = (remix(key, PROBES_MAX) % self.members.len() as u64) as usize;
        (0..self.members.len())
            .map(|step| (start + step) % self.members.len())
            .find(|at| self.members[*at].1 > 0 && accept(*at))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(names: std::ops::Range<u32>) -> Vec<(EndpointId, u32)> {
        let mut members: Vec<_> = names.map(|at| (EndpointId::of(&format!("10.0.0.{at}:80")), 1)).collect();
        members.sort();
        members
    }

    fn owners(of: &[(EndpointId, u32)], table: &Maglev) -> Vec<EndpointId> {
        table.table.iter().map(|at| of[usize::from(*at)].0).collect()
    }

    /// Of all entries: (those that changed hands, those that changed hands between two members that are in both sets).
    fn moved(before: &[(EndpointId, u32)], after: &[(EndpointId, u32)], size: u32) -> (f64, f64) {
        let [a, b] = [before, after].map(|members| owners(members, &Maglev::new(members, size)));
        let both = |id: EndpointId| before.iter().any(|m| m.0 == id) && after.iter().any(|m| m.0 == id);
        let changed = a.iter().zip(&b).filter(|(a, b)| a != b);
        let needless = changed.clone().filter(|(a, b)| both(**a) && both(**b)).count();
        (changed.count() as f64 / a.len() as f64, needless as f64 / a.len() as f64)
    }

    #[test]
    fn sizes_are_prime() {
        for size in TABLE_SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
        assert!(TABLE_SIZES.contains(&TABLE_SIZE_DEFAULT));
    }

    #[test]
    fn adding_or_removing_one_of_ten_moves_hardly_more_than_it_must() {
        let (all, less) = (members(0..10), members(0..9));
        let (added, needless_added) = moved(&less, &all, TABLE_SIZE_DEFAULT);
        let (removed, needless_removed) = moved(&all, &less, TABLE_SIZE_DEFAULT);
        println!("one added to 9: {:.2} % of keys move, {:.2} % needlessly", added * 100.0, needless_added * 100.0);
        println!(
            "one removed from 10: {:.2} % of keys move, {:.2} % needlessly",
            removed * 100.0,
            needless_removed * 100.0
        );
        assert!(added - 0.1 < 0.02 && needless_added < 0.02);
        assert!(removed - 0.1 < 0.02 && needless_removed < 0.02);
        let (added, needless) = moved(&members(0..99), &members(0..100), TABLE_SIZE_DEFAULT);
        println!("one added to 99: {:.2} % of keys move, {:.2} % needlessly", added * 100.0, needless * 100.0);
        assert!(added < 0.05);
    }

    #[test]
    fn shares_differ_by_at_most_one_hundredth_with_a_hundred_entries_each() {
        for count in [2, 3, 10, 100, 600] {
            let of = members(0..count);
            let table = Maglev::new(&of, TABLE_SIZE_DEFAULT);
            let mut counts = vec![0u32; of.len()];
            table.table.iter().for_each(|at| counts[usize::from(*at)] += 1);
            let (least, most) = (counts.iter().min().expect("some"), counts.iter().max().expect("some"));
            assert!(
                most - least <= 1,
                "{count}: {least} to {most}: in equal turns nobody is ahead by more than one entry"
            );
        }
    }

    #[test]
    fn a_member_that_fails_moves_exactly_its_own_keys_and_spreads_them() {
        let of = members(0..10);
        let table = Maglev::new(&of, TABLE_SIZE_DEFAULT);
        let keys: Vec<u64> = (0..100_000u64).map(|key| HashKey::SHARED.hash(&key.to_le_bytes())).collect();
        let mut heirs = [0usize; 10];
        for key in &keys {
            let before = table.look_up(*key, |_| true).expect("somebody");
            let after = table.look_up(*key, |at| at != 4).expect("somebody");
            if before == 4 {
                heirs[after] += 1;
            } else {
                assert_eq!(before, after, "a key of a member that did not fail");
            }
        }
        let orphans: usize = heirs.iter().sum();
        println!("one of 10 failed: {:.2} % of keys move; heirs: {heirs:?}", orphans as f64 / 1000.0);
        assert!((9_500..10_500).contains(&orphans));
        assert!(heirs.iter().enumerate().all(|(at, count)| if at == 4 {
            *count == 0
        } else {
            (900..1350).contains(count)
        }));
    }

    #[test]
    fn the_last_member_that_may_be_used_is_found() {
        let of = members(0..300);
        let table = Maglev::new(&of, 16_381);
        assert!((0..200).all(|key| table.look_up(key, |at| at == 77) == Some(77)));
        assert_eq!(table.look_up(1, |_| false), None);
        assert_eq!(Maglev::new(&[], 251).look_up(1, |_| true), None);
        assert_eq!(Maglev::new(&[(EndpointId(1), 0)], 251).look_up(1, |_| true), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn entries_follow_weights_and_a_change_of_one_disturbs_little(weights in proptest::collection::vec(1u32..20, 2..20)) {
            let mut of: Vec<_> = weights.iter().enumerate().map(|(at, w)| (EndpointId::of(&at.to_string()), *w)).collect();
            of.sort();
            let table = Maglev::new(&of, 65_537);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; of.len()];
            table.table.iter().for_each(|at| counts[usize::from(*at)] += 1);
            for (count, (_, weight)) in counts.iter().zip(&of) {
                let due = 65_537.0 * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(*count) - due).abs() <= due * 0.01 + 2.0, "{count} entries of {due}");
            }
            let (gone, rest) = (of[0], &of[1..]);
            let (_, needless) = moved(&of, rest, 65_537);
            let due = f64::from(gone.1) / f64::from(total);
            prop_assert!(needless < 0.02 + due / 3.0, "{needless} needlessly where {due} had to move");
        }
    }
}
