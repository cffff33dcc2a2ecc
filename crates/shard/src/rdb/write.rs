//! Writing values.

use store::value::{Hash, List, Set, View, Zset};

use super::listpack::Builder;
use super::{VERSION_OF_MOST, kind, stream};

/// Beyond this many bytes a list's node is full, as Redis's are by default (`list-max-listpack-size -2`).
const NODE_BYTES_MAX: usize = 8192;

/// Appends a value's type and the value. Returns the first version of the format that knows the type.
pub(super) fn value(value: View<'_>, out: &mut Vec<u8>) -> u16 {
    match value {
        View::Str(text) => {
            out.push(kind::STRING);
            put_string(out, text);
        }
        View::List(list) => put_list(out, list),
        View::Hash(hash) => put_hash(out, hash),
        View::Set(set) => put_set(out, set),
        View::Zset(zset) => put_zset(out, zset),
        View::Stream(stream) => return stream::write(stream, out),
    }
    VERSION_OF_MOST
}

pub(super) fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..=0x3F => out.push(length as u8),
        0x40..=0x3FFF => out.extend([0x40 | (length >> 8) as u8, length as u8]),
        0x4000..=0xFFFF_FFFF => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// A string; short numbers as such.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    let number = if text.len() <= 11 { base::parse_i64(text) } else { None };
    match number {
        Some(number @ -128..=127) => out.extend([0xC0, number as u8]),
        Some(number @ -32768..=32767) => {
            out.push(0xC1);
            out.extend_from_slice(&(number as i16).to_le_bytes());
        }
        Some(number @ -2_147_483_648..=2_147_483_647) => {
            out.push(0xC2);
            out.extend_from_slice(&(number as i32).to_le_bytes());
        }
        _ => put_bytes(out, text),
    }
}

/// A string as it is.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_list(out: &mut Vec<u8>, list: &List) {
    const PLAIN: u64 = 1;
    const PACKED: u64 = 2;
    let mut nodes = Vec::new();
    let mut count = 0;
    let mut node = Builder::new();
    let mut close = |node: &mut Builder, nodes: &mut Vec<u8>| {
        if node.count() > 0 {
            put_length(nodes, PACKED);
            put_bytes(nodes, &std::mem::replace(node, Builder::new()).finish());
            count += 1;
        }
    };
    let mut plain = 0;
    for element in list.iter() {
        if node.len() + element.len() + 11 > NODE_BYTES_MAX {
            close(&mut node, &mut nodes);
        }
        if element.len() > NODE_BYTES_MAX {
            put_length(&mut nodes, PLAIN);
            put_bytes(&mut nodes, element);
            plain += 1;
        } else {
            node.push(element);
        }
    }
    close(&mut node, &mut nodes);
    out.push(kind::LIST_QUICKLIST_2);
    put_length(out, count + plain);
    out.extend_from_slice(&nodes);
}

fn put_hash(out: &mut Vec<u8>, hash: &Hash) {
    if hash.is_small() {
        let mut packed = Builder::new();
        for (field, value) in hash.iter() {
            packed.push(field);
            packed.push(value);
        }
        out.push(kind::HASH_LISTPACK);
        return put_bytes(out, &packed.finish());
    }
    out.push(kind::HASH);
    put_length(out, hash.len() as u64);
    for (field, value) in hash.iter() {
        put_string(out, field);
        put_string(out, value);
    }
}

fn put_set(out: &mut Vec<u8>, set: &Set) {
    if set.encoding() == "intset" {
        let mut numbers: Vec<i64> = set.iter().filter_map(|member| base::parse_i64(&member)).collect();
        numbers.sort_unstable();
        let fits = |low: i64, high: i64| numbers.iter().all(|number| (low..=high).contains(number));
        let width = match () {
            () if fits(i64::from(i16::MIN), i64::from(i16::MAX)) => 2,
            () if fits(i64::from(i32::MIN), i64::from(i32::MAX)) => 4,
            () => 8,
        };
        let mut packed = (width as u32).to_le_bytes().to_vec();
        packed.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
        numbers.iter().for_each(|number| packed.extend_from_slice(&number.to_le_bytes()[..width]));
        out.push(kind::SET_INTSET);
        return put_bytes(out, &packed);
    }
    // A small one would be a listpack for 7.2, which 7.0 does not know; 7.2 takes this one, too.
    out.push(kind::SET);
    put_length(out, set.len() as u64);
    set.iter().for_each(|member| put_string(out, &member));
}

fn put_zset(out: &mut Vec<u8>, zset: &Zset) {
    if zset.encoding() == "listpack" {
        let mut packed = Builder::new();
        for (member, score) in zset.iter() {
            packed.push(member);
            packed.push(crate::reply::format_f64(score).as_bytes());
        }
        out.push(kind::ZSET_LISTPACK);
        return put_bytes(out, &packed.finish());
    }
    out.push(kind::ZSET_BINARY);
    put_length(out, zset.len() as u64);
    // Highest first, as Redis does: whoever reads them then inserts at the front.
    for (member, score) in zset.iter().rev() {
        put_string(out, member);
        out.extend_from_slice(&score.to_bits().to_le_bytes());
    }
}
