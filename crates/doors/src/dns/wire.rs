//! Messages: what a query asks, and an answer being written (RFC 1035, RFC 6891).

use std::net::IpAddr;

use super::name::{self, Name};

/// Record types (IANA, "DNS Parameters").
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// Another name.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// A service's host and port (RFC 2782).
    pub const SRV: u16 = 33;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// Incremental zone transfer.
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
    /// Whatever there is.
    pub const ANY: u16 = 255;
}

/// Class IN, the only one.
pub const IN: u16 = 1;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 12;
/// Bytes of an OPT record without options.
const OPT_BYTES: usize = 11;
/// Records behind the question that are looked at for OPT; a query has one or two.
pub const QUERY_RECORDS_MAX: usize = 8;
/// What every client takes by UDP (RFC 1035, 4.2.1).
pub const PLAIN_UDP_BYTES_MAX: usize = 512;
/// Where a compression pointer can point to.
const POINTER_MAX: usize = 0x3FFF;

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Answered, perhaps with nothing.
    NoError = 0,
    /// Not understood.
    FormErr = 1,
    /// There is no such name.
    NxDomain = 3,
    /// Another kind of request than a query.
    NotImp = 4,
    /// Not ours, or not for the asking.
    Refused = 5,
    /// An EDNS version beyond 0 (RFC 6891, 6.1.3).
    BadVers = 16,
}

/// What a client said in its OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Bytes that it takes by UDP.
    pub payload: u16,
    /// Version; only 0 is known.
    pub version: u8,
    /// Its flags, of which only DO has a meaning.
    pub flags: u16,
}

/// A query with one question.
pub struct Query<'a> {
    /// The message's id.
    pub id: u16,
    /// Its flags.
    pub flags: u16,
    /// The question as it came, for the answer: clients that vary the case of letters compare it.
    pub question: &'a [u8],
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// What it said about EDNS.
    pub edns: Option<Edns>,
}

/// What came instead of a query with one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// No header, or an answer: nothing is said to that.
    Silent,
    /// A header, and then nothing that can be read: told so by this code.
    Told {
        /// The message's id.
        id: u16,
        /// Its flags.
        flags: u16,
        /// What it is told.
        code: Code,
    },
}

const ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
/// The one EDNS flag: DNSSEC answers are welcome. It is copied (RFC 3225, 3).
const DNSSEC_OK: u16 = 0x8000;

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl<'a> Query<'a> {
    /// Reads a message.
    pub fn read(bytes: &'a [u8]) -> Result<Query<'a>, Bad> {
        if bytes.len() < HEADER_BYTES || word(bytes, 2) & ANSWER != 0 {
            return Err(Bad::Silent);
        }
        let (id, flags) = (word(bytes, 0), word(bytes, 2));
        let told = |code| Bad::Told { id, flags, code };
        if flags & OPCODE != 0 {
            return Err(told(Code::NotImp));
        }
        if bytes.len() > super::QUERY_BYTES_MAX {
            return Err(told(Code::FormErr));
        }
        let records = [6, 8, 10].map(|at| usize::from(word(bytes, at))).iter().sum::<usize>();
        if word(bytes, 4) != 1 || records > QUERY_RECORDS_MAX {
            return Err(told(Code::FormErr));
        }
        let Some((name, rest)) = Name::read(&bytes[HEADER_BYTES..]) else {
            return Err(told(Code::FormErr));
        };
        if rest.len() < 4 {
            return Err(told(Code::FormErr));
        }
        let question = &bytes[HEADER_BYTES..bytes.len() - rest.len() + 4];
        let edns = find_edns(&rest[4..], records).ok_or(told(Code::FormErr))?;
        Ok(Query { id, flags, question, name, kind: word(rest, 0), class: word(rest, 2), edns })
    }
}

/// The OPT record among so many. `None` outside: malformed.
fn find_edns(mut bytes: &[u8], records: usize) -> Option<Option<Edns>> {
    let mut found = None;
    for _ in 0..records {
        let after = skip_name(bytes)?;
        let is_root = bytes.len() - after.len() == 1;
        let head = after.get(..10)?;
        if word(head, 0) == kind::OPT {
            let edns = Edns { payload: word(head, 2), version: head[5], flags: word(head, 6) };
            // RFC 6891, 6.1.1: one at most, and of the root.
            if !is_root || found.replace(edns).is_some() {
                return None;
            }
        }
        bytes = after.get(10 + usize::from(word(head, 8))..)?;
    }
    Some(found)
}

/// What follows a name; a pointer ends one and is not followed.
fn skip_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let length = usize::from(*bytes.first()?);
        match length {
            0 => return Some(&bytes[1..]),
            1..=name::LABEL_BYTES_MAX => bytes = bytes.get(1 + length..)?,
            0xC0.. => return bytes.get(2..),
            _ => return None,
        }
    }
}

/// The sections of an answer, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Answer,
    Authority,
    Additional,
}

/// An answer being written. Records come in the order of the sections; one that would not fit is not written.
pub struct Answer<'o> {
    out: &'o mut Vec<u8>,
    bytes_max: usize,
    counts: [u16; 3],
    section: Section,
}

impl<'o> Answer<'o> {
    /// Begins the answer to a query, of at most so many bytes with the OPT record that [`Answer::end`] may add.
    pub fn begin(out: &'o mut Vec<u8>, query: &Query<'_>, bytes_max: usize) -> Answer<'o> {
        let reserve = if query.edns.is_some() { OPT_BYTES } else { 0 };
        out.clear();
        out.extend_from_slice(&query.id.to_be_bytes());
        out.extend_from_slice(&[0; HEADER_BYTES - 2]);
        out.extend_from_slice(query.question);
        Answer { out, bytes_max: bytes_max - reserve, counts: [0; 3], section: Section::Answer }
    }

    /// Records in the answer section so far.
    pub fn answers(&self) -> u16 {
        self.counts[0]
    }

    /// Writes a record, or nothing where it does not fit; gives where it begins.
    fn record(&mut self, section: Section, write: impl FnOnce(&mut Vec<u8>)) -> Option<usize> {
        assert!(section >= self.section, "records come in the order of the sections");
        self.section = section;
        let begin = self.out.len();
        write(self.out);
        if self.out.len() > self.bytes_max {
            self.out.truncate(begin);
            return None;
        }
        self.counts[section as usize] += 1;
        Some(begin)
    }

    /// An address under the question's name. False where it does not fit; so below.
    pub fn address(&mut self, ip: IpAddr, ttl: u32) -> bool {
        self.record(Section::Answer, |out| put_address(out, Owner::Question, ip, ttl)).is_some()
    }

    /// Another name for the question's.
    pub fn cname(&mut self, target: &str, ttl: u32) -> bool {
        self.record(Section::Answer, |out| {
            put_head(out, Owner::Question, kind::CNAME, ttl);
            put_data(out, |out| put_name(out, &[target]));
        })
        .is_some()
    }

    /// The name of the address that was asked for, in parts.
    pub fn ptr(&mut self, target: &[&str], ttl: u32) -> bool {
        self.record(Section::Answer, |out| {
            put_head(out, Owner::Question, kind::PTR, ttl);
            put_data(out, |out| put_name(out, target));
        })
        .is_some()
    }

    /// A service's host, in parts, and port (RFC 2782: the target is not compressed). Gives where the target's name stands.
    pub fn srv(&mut self, weight: u16, port: u16, target: &[&str], ttl: u32) -> Option<usize> {
        let begin = self.record(Section::Answer, |out| {
            put_head(out, Owner::Question, kind::SRV, ttl);
            put_data(out, |out| {
                // One priority for all: what is not healthy is not told at all.
                out.extend_from_slice(&1_u16.to_be_bytes());
                out.extend_from_slice(&weight.to_be_bytes());
                out.extend_from_slice(&port.to_be_bytes());
                put_name(out, target);
            });
        })?;
        Some(begin + 12 + 6)
    }

    /// The zone's name server `ns`; gives where its name stands. `zone` is the offset of the zone's name in the question's.
    pub fn ns(&mut self, zone: usize, ttl: u32) -> Option<usize> {
        let begin = self.record(Section::Answer, |out| {
            put_head(out, Owner::At(HEADER_BYTES + zone), kind::NS, ttl);
            put_data(out, |out| put_under(out, "ns", HEADER_BYTES + zone));
        })?;
        Some(begin + 12)
    }

    /// The zone's start of authority: an answer, or the authority under which there is none (RFC 2308).
    pub fn soa(&mut self, is_answer: bool, zone: usize, serial: u32, negative_ttl: u32) -> bool {
        let section = if is_answer { Section::Answer } else { Section::Authority };
        let zone = HEADER_BYTES + zone;
        self.record(section, |out| {
            put_head(out, Owner::At(zone), kind::SOA, negative_ttl);
            put_data(out, |out| {
                put_under(out, "ns", zone);
                put_under(out, "hostmaster", zone);
                // Refresh, retry and expire are for secondaries, which there are not; the figures are Consul's.
                for number in [serial, 3600, 600, 86_400, negative_ttl] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            });
        })
        .is_some()
    }

    /// The address of a name that was written at `place`; written in parts again where no pointer reaches.
    pub fn extra_address(&mut self, place: usize, parts: &[&str], ip: IpAddr, ttl: u32) -> bool {
        let owner = if place <= POINTER_MAX { Owner::At(place) } else { Owner::Name(parts) };
        self.record(Section::Additional, |out| put_address(out, owner, ip, ttl)).is_some()
    }

    /// Ends it.
    pub fn end(self, query: &Query<'_>, code: Code, is_ours: bool, is_cut: bool, own_payload: u16) {
        let mut additional = self.counts[2];
        if let Some(edns) = query.edns {
            self.out.push(0);
            self.out.extend_from_slice(&kind::OPT.to_be_bytes());
            self.out.extend_from_slice(&own_payload.to_be_bytes());
            self.out.extend_from_slice(&[(code as u16 >> 4) as u8, 0]);
            self.out.extend_from_slice(&(edns.flags & DNSSEC_OK).to_be_bytes());
            self.out.extend_from_slice(&[0, 0]);
            additional += 1;
        }
        let mut flags = head_flags(query.flags, code);
        if is_ours {
            flags |= AUTHORITATIVE;
        }
        if is_cut {
            flags |= TRUNCATED;
        }
        let words = [flags, 1, self.counts[0], self.counts[1], additional];
        for (at, word) in words.into_iter().enumerate() {
            self.out[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// A header alone, for what could not be read.
pub fn header_only(out: &mut Vec<u8>, id: u16, flags: u16, code: Code) {
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&head_flags(flags, code).to_be_bytes());
    out.extend_from_slice(&[0; 8]);
}

/// An answer's flags: kind of request and RD are copied, RA is never set (there is no recursion here).
fn head_flags(asked: u16, code: Code) -> u16 {
    ANSWER | (asked & (OPCODE | RECURSION_DESIRED)) | (code as u16 & 0xF)
}

/// Whose record it is.
#[derive(Clone, Copy)]
enum Owner<'a> {
    /// The question's name.
    Question,
    /// A name that stands there.
    At(usize),
    /// A name in parts.
    Name(&'a [&'a str]),
}

fn put_pointer(out: &mut Vec<u8>, place: usize) {
    assert!(place <= POINTER_MAX, "a pointer has 14 bits");
    out.extend_from_slice(&(0xC000 | place as u16).to_be_bytes());
}

/// A name in parts, each of which is one, whole.
fn put_name(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        name::put_labels(out, part);
    }
    out.push(0);
}

fn put_under(out: &mut Vec<u8>, label: &str, zone: usize) {
    name::put_labels(out, label);
    put_pointer(out, zone);
}

fn put_head(out: &mut Vec<u8>, owner: Owner<'_>, kind: u16, ttl: u32) {
    match owner {
        Owner::Question => put_pointer(out, HEADER_BYTES),
        Owner::At(place) => put_pointer(out, place),
        Owner::Name(parts) => put_name(out, parts),
    }
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
}

fn put_data(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[0, 0]);
    write(out);
    let length = (out.len() - begin - 2) as u16;
    out[begin..begin + 2].copy_from_slice(&length.to_be_bytes());
}

fn put_address(out: &mut Vec<u8>, owner: Owner<'_>, ip: IpAddr, ttl: u32) {
    match ip {
        IpAddr::V4(ip) => {
            put_head(out, owner, kind::A, ttl);
            put_data(out, |out| out.extend_from_slice(&ip.octets()));
        }
        IpAddr::V6(ip) => {
            put_head(out, owner, kind::AAAA, ttl);
            put_data(out, |out| out.extend_from_slice(&ip.octets()));
        }
    }
}
