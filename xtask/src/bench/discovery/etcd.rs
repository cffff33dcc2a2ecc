//! The loads in etcd's protocol.

use crate::bench::grpc::{self, Calls, Shown, field, number};
use crate::bench::{load, measure};
use crate::rng::Rng;
use std::time::Duration;

/// Keys that requests draw from.
const KEYS: usize = 10_000;
/// Leases that are kept alive.
const LEASES: u64 = 1000;

/// One kind of call.
#[derive(Clone, Copy)]
pub struct Load {
    /// For people.
    pub title: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Range,
    Ranges,
    Txn,
    KeepAlive,
}

/// All of them; the first leaves keys behind that the others read.
pub const LOADS: [Load; 5] = [
    Load { title: "puts", kind: Kind::Put },
    Load { title: "linearizable ranges of one key", kind: Kind::Range },
    Load { title: "linearizable ranges of 100 keys", kind: Kind::Ranges },
    Load { title: "txns (compare, then put)", kind: Kind::Txn },
    Load { title: "lease keep-alives", kind: Kind::KeepAlive },
];

fn key(at: usize) -> String {
    format!("key:{at:012}")
}

impl Load {
    /// Plays it.
    pub fn play(self, addrs: &[String], clients: usize, span: Duration, seed: u64) -> Result<Shown, String> {
        let path = match self.kind {
            Kind::Put => "/etcdserverpb.KV/Put",
            Kind::Range | Kind::Ranges => "/etcdserverpb.KV/Range",
            Kind::Txn => "/etcdserverpb.KV/Txn",
            Kind::KeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
        };
        if self.kind == Kind::KeepAlive {
            grant(addrs)?;
        }
        let calls = Calls { path, clients, span, is_stream: self.kind == Kind::KeepAlive };
        grpc::play(addrs, &calls, |connection| {
            let mut rng = Rng::new(seed ^ connection << 40);
            let value = load::value(&mut rng, measure::VALUE_BYTES);
            let kind = self.kind;
            move |out| write(kind, &mut rng, &value, out)
        })
    }
}

fn write(kind: Kind, rng: &mut Rng, value: &[u8], out: &mut Vec<u8>) {
    let at = rng.below(KEYS);
    match kind {
        Kind::Put => put(out, &key(at), value),
        Kind::Range => field(out, 1, key(at).as_bytes()),
        Kind::Ranges => {
            field(out, 1, key(at).as_bytes());
            field(out, 2, b"l");
            number(out, 3, 100);
        }
        Kind::Txn => {
            // If the key exists (its create revision is greater than 0), put; else read.
            let (mut part, mut request) = (Vec::new(), Vec::new());
            number(&mut part, 1, 1);
            number(&mut part, 2, 1);
            field(&mut part, 3, key(at).as_bytes());
            number(&mut part, 5, 0);
            field(out, 1, &part);
            put(&mut request, &key(at), value);
            part.clear();
            field(&mut part, 2, &request);
            field(out, 2, &part);
            request.clear();
            field(&mut request, 1, key(at).as_bytes());
            part.clear();
            field(&mut part, 1, &request);
            field(out, 3, &part);
        }
        Kind::KeepAlive => number(out, 1, 1 + rng.below(LEASES as usize) as u64),
    }
}

fn put(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    field(out, 1, key.as_bytes());
    field(out, 2, value);
}

/// Grants the leases; those that are there already are left as they are.
fn grant(addrs: &[String]) -> Result<(), String> {
    let mut connection = grpc::Connection::open(&addrs[0])?;
    let head = grpc::head("/etcdserverpb.Lease/LeaseGrant", &addrs[0]);
    let (mut out, mut body) = (Vec::new(), Vec::new());
    for id in 1..=LEASES {
        let stream = id as u32 * 2 - 1;
        grpc::message(&mut body, |out| {
            number(out, 1, 3600);
            number(out, 2, id);
        });
        grpc::open(&mut out, stream, &head);
        grpc::frame(&mut out, grpc::DATA, grpc::END_STREAM, stream, &body);
        connection.write(&out)?;
        out.clear();
        loop {
            let (_, flags, on, _) = connection.next(&mut out)?;
            // Of what is not about a call, only the acknowledgement of settings has this bit, on stream 0.
            if on == stream && flags & grpc::END_STREAM != 0 {
                break;
            }
        }
    }
    Ok(())
}
