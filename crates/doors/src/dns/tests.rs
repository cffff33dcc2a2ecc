//! What the door promises, with `hickory-proto` as the judge of every message.

use base::Rng;
use discovery::model::{CheckForm, NodeForm, ServiceForm, Status};
use discovery::{Catalog, Change, Outcome};
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use proptest::prelude::*;

use super::wire::kind::{A, AAAA, ANY, AXFR, CNAME, NS, PTR, SOA, SRV};
use super::*;

const TXT: u16 = 16;

/// Registers an instance: `node@address`, `name/id`, tags, `address:port`, how it is.
fn register(catalog: &mut Catalog, node: &str, service: &str, tags: &[&str], at: (&str, u16), status: Status) {
    let (node, address) = node.split_once('@').expect("node@address");
    let (name, id) = service.split_once('/').unwrap_or((service, service));
    let change = Change::Register {
        node: NodeForm { name: node.into(), address: address.into(), ..NodeForm::default() },
        keep_node: false,
        service: Some(ServiceForm {
            id: id.into(),
            name: name.into(),
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            address: at.0.into(),
            port: at.1,
            weight_passing: 10,
            weight_warning: 2,
            ..ServiceForm::default()
        }),
        checks: vec![CheckForm {
            id: format!("check of {id}"),
            name: "check".into(),
            service_id: id.into(),
            status,
            ..CheckForm::default()
        }],
        replace_checks: false,
    };
    let outcome = catalog.apply(&change, catalog.index() + 1);
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let all = &mut catalog;
    register(all, "one@10.0.0.1", "web/web1", &["v1", "Blue.x"], ("", 80), Status::Passing);
    register(all, "two@10.0.0.2", "web/web2", &["v2"], ("10.1.0.2", 81), Status::Warning);
    register(all, "two@10.0.0.2", "web/web3", &["v1", "v2"], ("10.1.0.3", 82), Status::Critical);
    register(all, "two@10.0.0.2", "Six", &[], ("2001:db8::6", 6), Status::Passing);
    register(all, "Under_score@10.0.0.3", "odd", &[], ("", 9), Status::Passing);
    register(all, "out@db.example.com", "far", &[], ("", 5432), Status::Passing);
    register(all, "two@10.0.0.2", "far/far2", &[], ("db2.example.com.", 5433), Status::Critical);
    register(all, "two@10.0.0.2", "down", &[], ("10.1.0.9", 1), Status::Critical);
    for port in 1..=3 {
        register(all, "two@10.0.0.2", &format!("ports/p{port}"), &[], ("10.1.0.7", port), Status::Passing);
    }
    register(all, "two@10.0.0.2", "ports/again", &[], ("10.1.0.7", 1), Status::Passing);
    for number in 0..100_u16 {
        let address = format!("10.2.0.{number}");
        register(all, "two@10.0.0.2", &format!("many/m{number}"), &[], (&address, 7000 + number), Status::Passing);
    }
    catalog
}

fn door() -> Door {
    Door::new(Zone { ttl: 5, negative_ttl: 3, address: "127.0.0.1".parse().ok(), ..Zone::default() }).expect("a zone")
}

/// A query's bytes; `payload` with EDNS.
fn query(name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut out = vec![0xAB, 0xCD, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    out[11] = u8::from(payload.is_some());
    if !name.is_empty() {
        name::put_labels(&mut out, name);
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if let Some(payload) = payload {
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&payload.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    }
    out
}

const LOCAL: Via = Via::Udp { is_local: true };

fn ask(catalog: &Catalog, message: &[u8], via: Via, seed: u64) -> Option<(Vec<u8>, Message)> {
    let mut out = b"what stood there".to_vec();
    let said = door().answer(catalog, message, via, &mut Rng::new(seed), &mut out);
    (said != Said::Nothing).then(|| {
        let read = Message::from_vec(&out).expect("a message that others can read");
        assert_eq!(read.metadata.truncation, said == Said::Cut);
        (out, read)
    })
}

/// An answer as text: code and flags, then the records, those of the answer sorted.
fn say(catalog: &Catalog, name: &str, kind: u16) -> String {
    let (_, message) = ask(catalog, &query(name, kind, Some(8192)), LOCAL, 1).expect("an answer");
    show(&message)
}

fn show(message: &Message) -> String {
    let head = &message.metadata;
    let mut said = format!("{:?}", head.response_code).to_lowercase();
    for (is_set, word) in [(head.authoritative, " aa"), (head.truncation, " tc"), (head.recursion_available, " ra")] {
        if is_set {
            said.push_str(word);
        }
    }
    let record = |record: &Record| record.to_string().replace(" IN", "");
    let mut answers: Vec<_> = message.answers.iter().map(record).collect();
    answers.sort();
    for answer in answers {
        said += &format!("; {answer}");
    }
    for authority in &message.authorities {
        said += &format!("; authority {}", record(authority));
    }
    for extra in &message.additionals {
        said += &format!("; extra {}", record(extra));
    }
    said
}

#[test]
fn what_is_asked_is_answered() {
    let catalog = catalog();
    let nothing = format!("authority consul. 3 SOA ns.consul. hostmaster.consul. {} 3600 600 86400 3", catalog.index());
    let (nodata, nxdomain) = (format!("noerror aa; {nothing}"), format!("nxdomain aa; {nothing}"));
    for (name, kind, wanted) in [
        // Healthy instances: passing and warning, not critical; an own address before the node's.
        ("web.service.consul", A, "noerror aa; web.service.consul. 5 A 10.0.0.1; web.service.consul. 5 A 10.1.0.2"),
        (
            "web.service.dc1.consul",
            ANY,
            "noerror aa; web.service.dc1.consul. 5 A 10.0.0.1; web.service.dc1.consul. 5 A 10.1.0.2",
        ),
        ("v1.web.service.consul", A, "noerror aa; v1.web.service.consul. 5 A 10.0.0.1"),
        ("blue.x.web.service.consul", A, "noerror aa; blue.x.web.service.consul. 5 A 10.0.0.1"),
        (
            "_web._tcp.service.consul",
            A,
            "noerror aa; _web._tcp.service.consul. 5 A 10.0.0.1; _web._tcp.service.consul. 5 A 10.1.0.2",
        ),
        ("_web._v2.service.consul", A, "noerror aa; _web._v2.service.consul. 5 A 10.1.0.2"),
        ("web.service.consul", AAAA, &nodata),
        ("web.service.consul", TXT, &nodata),
        ("six.service.consul", AAAA, "noerror aa; six.service.consul. 5 AAAA 2001:db8::6"),
        ("six.service.consul", A, &nodata),
        ("v9.web.service.consul", A, &nxdomain),
        ("down.service.consul", A, &nxdomain),
        ("nobody.service.consul", SRV, &nxdomain),
        ("web.service.dc2.consul", A, &nxdomain),
        ("web.consul", A, &nxdomain),
        ("service.consul", A, &nodata),
        // SRV: the weight is that of the state; the node's name where the address is the node's.
        (
            "v1.web.service.consul",
            SRV,
            "noerror aa; v1.web.service.consul. 5 SRV 1 10 80 one.node.dc1.consul.; extra one.node.dc1.consul. 5 A 10.0.0.1",
        ),
        (
            "_web._v2.service.consul",
            SRV,
            "noerror aa; _web._v2.service.consul. 5 SRV 1 2 81 0a010002.addr.dc1.consul.; extra 0a010002.addr.dc1.consul. 5 A 10.1.0.2",
        ),
        (
            "_six._tcp.consul",
            SRV,
            "noerror aa; _six._tcp.consul. 5 SRV 1 10 6 20010db8000000000000000000000006.addr.dc1.consul.; extra 20010db8000000000000000000000006.addr.dc1.consul. 5 AAAA 2001:db8::6",
        ),
        (
            "odd.service.consul",
            SRV,
            "noerror aa; odd.service.consul. 5 SRV 1 10 9 0a000003.addr.dc1.consul.; extra 0a000003.addr.dc1.consul. 5 A 10.0.0.3",
        ),
        // Every endpoint once, every address once.
        (
            "ports.service.consul",
            SRV,
            "noerror aa; ports.service.consul. 5 SRV 1 10 1 0a010007.addr.dc1.consul.; ports.service.consul. 5 SRV 1 10 2 0a010007.addr.dc1.consul.; ports.service.consul. 5 SRV 1 10 3 0a010007.addr.dc1.consul.; extra 0a010007.addr.dc1.consul. 5 A 10.1.0.7",
        ),
        ("ports.service.consul", A, "noerror aa; ports.service.consul. 5 A 10.1.0.7"),
        // A host that others resolve.
        ("far.service.consul", SRV, "noerror aa; far.service.consul. 5 SRV 1 10 5432 db.example.com."),
        ("far.service.consul", A, "noerror aa; far.service.consul. 5 CNAME db.example.com."),
        ("far.service.consul", CNAME, "noerror aa; far.service.consul. 5 CNAME db.example.com."),
        ("far.service.consul", TXT, &nodata),
        // Nodes, addresses, the zone.
        ("one.node.consul", A, "noerror aa; one.node.consul. 5 A 10.0.0.1"),
        ("two.node.dc1.consul", A, "noerror aa; two.node.dc1.consul. 5 A 10.0.0.2"),
        ("under_score.node.consul", A, "noerror aa; under_score.node.consul. 5 A 10.0.0.3"),
        ("one.node.consul", SRV, &nodata),
        ("three.node.consul", A, &nxdomain),
        ("0a010002.addr.dc1.consul", A, "noerror aa; 0a010002.addr.dc1.consul. 5 A 10.1.0.2"),
        ("0a010002.addr.dc1.consul", AAAA, &nodata),
        ("0a01000g.addr.dc1.consul", A, &nxdomain),
        ("consul", SOA, &format!("noerror aa; {}", &nothing["authority ".len()..])),
        ("consul", NS, "noerror aa; consul. 5 NS ns.consul.; extra ns.consul. 5 A 127.0.0.1"),
        ("ns.consul", A, "noerror aa; ns.consul. 5 A 127.0.0.1"),
        ("consul", A, &nodata),
        // Not ours.
        ("example.com", A, "refused"),
        ("", NS, "refused"),
        ("notconsul", A, "refused"),
        ("consul", AXFR, "refused"),
        ("1.0.0.10.in-addr.arpa", PTR, "noerror aa; 1.0.0.10.in-addr.arpa. 5 PTR one.node.dc1.consul."),
        ("3.0.0.10.in-addr.arpa", PTR, "refused"),
        ("9.0.0.10.in-addr.arpa", PTR, "refused"),
    ] {
        assert_eq!(say(&catalog, name, kind), wanted, "{name} {kind}");
    }
}

#[test]
fn a_whole_message_byte_by_byte() {
    let catalog = catalog();
    let (bytes, _) = ask(&catalog, &query("v1.WEB.service.consul", SRV, Some(1232)), LOCAL, 1).expect("an answer");
    let mut wanted = vec![0xAB, 0xCD, 0x85, 0x00, 0, 1, 0, 1, 0, 0, 0, 2];
    wanted.extend_from_slice(b"\x02v1\x03WEB\x07service\x06consul\0\0\x21\0\x01");
    wanted
        .extend_from_slice(b"\xC0\x0C\0\x21\0\x01\0\0\0\x05\0\x1B\0\x01\0\x0A\0\x50\x03one\x04node\x03dc1\x06consul\0");
    wanted.extend_from_slice(b"\xC0\x39\0\x01\0\x01\0\0\0\x05\0\x04\x0A\0\0\x01");
    wanted.extend_from_slice(b"\0\0\x29\x20\0\0\0\0\0\0\0");
    assert_eq!(bytes, wanted);
}

#[test]
fn the_question_comes_back_as_it_was_spelt() {
    let message = query("wEb.SeRvIcE.cOnSuL", A, None);
    let (bytes, read) = ask(&catalog(), &message, LOCAL, 1).expect("an answer");
    assert_eq!(&bytes[12..message.len()], &message[12..]);
    assert!(read.answers.iter().all(|record| record.name.to_string() == "wEb.SeRvIcE.cOnSuL."));
    assert_eq!((read.answers.len(), read.edns), (2, None));
}

#[test]
fn an_answer_keeps_to_what_the_client_takes_and_says_when_it_is_cut() {
    let catalog = catalog();
    let remote = Via::Udp { is_local: false };
    for (kind, payload, via, bytes_max, is_cut) in [
        (A, None, LOCAL, 512, true),
        (A, Some(0), LOCAL, 512, true),
        (A, Some(1232), LOCAL, 1232, true),
        (A, Some(8192), LOCAL, 8192, false),
        (A, Some(8192), remote, 1232, true),
        (A, Some(u16::MAX), LOCAL, 8192, false),
        (SRV, None, LOCAL, 512, true),
        (SRV, Some(4096), LOCAL, 4096, true),
        // All the records; of the addresses beside them what fits, which is not a cut.
        (SRV, Some(5000), LOCAL, 5000, false),
        (SRV, Some(8192), LOCAL, 8192, false),
        (SRV, None, Via::Tcp, TCP_BYTES_MAX, false),
    ] {
        let (bytes, read) = ask(&catalog, &query("many.service.consul", kind, payload), via, 3).expect("an answer");
        let case = format!("{kind} {payload:?} {via:?}");
        assert!(bytes.len() <= bytes_max, "{case}: {}", bytes.len());
        assert_eq!(read.metadata.truncation, is_cut, "{case}");
        assert_eq!(read.answers.len() == 100, !is_cut, "{case}");
        assert_eq!(read.edns.is_some(), payload.is_some(), "{case}");
        if is_cut {
            assert!(bytes.len() + 60 > bytes_max, "{case}: no room is wasted");
        }
        if kind == SRV && payload == Some(8192) {
            assert_eq!(read.additionals.len(), 100);
        }
    }
}

#[test]
fn an_address_beyond_the_reach_of_pointers_is_named_in_full() {
    let mut catalog = Catalog::default();
    for number in 0..1000_u32 {
        let address = format!("10.3.{}.{}", number >> 8, number & 255);
        register(&mut catalog, "n@10.0.0.1", &format!("big/b{number}"), &[], (&address, 80), Status::Passing);
    }
    let (bytes, read) = ask(&catalog, &query("big.service.consul", SRV, None), Via::Tcp, 1).expect("an answer");
    assert!(bytes.len() <= TCP_BYTES_MAX && !read.metadata.truncation && read.answers.len() == 1000);
    // 372 hosts stand where a pointer reaches; the names of others are written again, as far as there is room.
    assert!(read.additionals.len() > 500, "{}", read.additionals.len());
    let hosts = read.answers.iter().map(|record| match &record.data {
        RData::SRV(srv) => srv.target.to_string(),
        other => panic!("{other:?}"),
    });
    let hosts: std::collections::BTreeSet<String> = hosts.collect();
    for extra in &read.additionals {
        let RData::A(ip) = &extra.data else { panic!("{extra}") };
        let name = extra.name.to_string();
        assert!(hosts.contains(&name));
        assert_eq!(name::hex_address(&name.as_bytes()[..8]), Some(ip.0.into()));
    }
}

#[test]
fn of_very_many_instances_others_are_told_each_time() {
    let mut catalog = Catalog::default();
    let count = lookup::GATHERED_MAX + 200;
    for number in 0..count {
        let address = format!("10.4.{}.{}", number >> 8, number & 255);
        register(&mut catalog, "n@10.0.0.1", &format!("big/b{number:05}"), &[], (&address, 80), Status::Passing);
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let (_, read) = ask(&catalog, &query("big.service.consul", A, None), Via::Tcp, seed).expect("an answer");
        assert_eq!(read.answers.len(), lookup::GATHERED_MAX);
        seen.extend(read.answers.iter().map(|record| record.data.to_string()));
    }
    assert_eq!(seen.len(), count);
}

#[test]
fn instances_come_in_any_order() {
    let catalog = catalog();
    let mut firsts = std::collections::BTreeSet::new();
    for seed in 0..2000 {
        let (_, read) = ask(&catalog, &query("many.service.consul", A, None), LOCAL, seed).expect("an answer");
        firsts.insert(read.answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 100);
}

#[test]
fn what_is_not_a_query_of_ours_is_told_so_or_not_at_all() {
    let catalog = catalog();
    let good = query("web.service.consul", A, Some(1232));
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let two_opts = || {
        let mut bytes = good.clone();
        bytes.extend_from_slice(&good[good.len() - 11..]);
        bytes[11] = 2;
        bytes
    };
    for (message, wanted) in [
        (vec![], None),
        (good[..11].to_vec(), None),
        // An answer: two servers would talk for ever.
        (change(2, 0x80), None),
        (good[..12].to_vec(), Some("formerr")),
        (good[..20].to_vec(), Some("formerr")),
        (good[..good.len() - 1].to_vec(), Some("formerr")),
        (change(5, 0), Some("formerr")),
        (change(5, 2), Some("formerr")),
        (change(12, 0xC0), Some("formerr")),
        (change(12, 0x40), Some("formerr")),
        (two_opts(), Some("formerr")),
        (change(11, 200), Some("formerr")),
        (change(2, 0x28), Some("notimp")),
        // Class CHAOS, which asks servers about themselves.
        (change(35, 3), Some("refused")),
        // 16 is BADVERS too, as RFC 6891 says.
        (change(good.len() - 5, 1), Some("badsig")),
    ] {
        let told = ask(&catalog, &message, LOCAL, 1).map(|(_, read)| show(&read));
        assert_eq!(told.as_deref(), wanted, "{message:x?}");
    }
}

#[test]
fn flags_are_copied_that_have_to_be() {
    let mut message = query("web.service.consul", A, Some(1232));
    let flags = message.len() - 4;
    message[flags] = 0xFF;
    message[2] = 0;
    let (bytes, read) = ask(&catalog(), &message, LOCAL, 1).expect("an answer");
    assert!(!read.metadata.recursion_desired);
    assert_eq!(bytes[bytes.len() - 6..bytes.len() - 2], [0, 0, 0x80, 0], "version 0, DO copied, other flags clear");
}

#[test]
fn a_zone_that_cannot_be_is_refused() {
    for (domain, datacenter) in [("", "dc1"), ("a b", "dc1"), ("consul.", "dc1"), ("consul", "dc.1"), ("consul", "")] {
        let zone = Zone { domain: domain.into(), datacenter: datacenter.into(), ..Zone::default() };
        assert!(Door::new(zone).is_err(), "{domain:?} {datacenter:?}");
    }
    let deep = Door::new(Zone { domain: "Lab.Example".into(), datacenter: "East".into(), ..Zone::default() });
    let mut out = Vec::new();
    let message = query("_web._v2.service.east.lab.example", SRV, None);
    let said = deep.expect("a zone").answer(&catalog(), &message, LOCAL, &mut Rng::new(1), &mut out);
    assert_eq!(said, Said::Answer);
    let read = Message::from_vec(&out).expect("a message");
    assert_eq!(
        show(&read),
        "noerror aa; _web._v2.service.east.lab.example. 0 SRV 1 2 81 0a010002.addr.east.lab.example.; \
         extra 0a010002.addr.east.lab.example. 0 A 10.1.0.2"
    );
}

/// Pieces that names of ours are made of, and others.
fn label() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "web", "many", "service", "node", "addr", "consul", "dc1", "dc", "ns", "_web", "_tcp", "v1", "one", "0a000001",
        "far", "six", "arpa",
    ];
    prop_oneof![4 => prop::sample::select(KNOWN).prop_map(str::to_owned), 1 => "[ -~]{1,63}"]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_say_too_much(bytes in prop::collection::vec(any::<u8>(), 0..600), seed: u64) {
        let catalog = catalog();
        let mut out = Vec::new();
        if door().answer(&catalog, &bytes, LOCAL, &mut Rng::new(seed), &mut out) != Said::Nothing {
            prop_assert!(out.len() <= 8192 && out[..2] == bytes[..2]);
        }
    }

    #[test]
    fn every_name_is_answered_with_a_message_that_others_read(
        labels in prop::collection::vec(label(), 0..8),
        in_zone: bool,
        kind in prop::sample::select(&[A, AAAA, SRV, ANY, NS, SOA, CNAME, PTR, TXT][..]),
        payload in prop::option::of(any::<u16>()),
        via in prop::sample::select(&[LOCAL, Via::Udp { is_local: false }, Via::Tcp][..]),
        damage in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        seed: u64,
    ) {
        let mut name = labels.join(".");
        if in_zone {
            name += if name.is_empty() { "consul" } else { ".consul" };
        }
        prop_assume!(name.is_empty() || name::is_name(&name));
        let mut message = query(&name, kind, payload);
        if let Some((at, byte)) = damage {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if let Some((bytes, read)) = ask(&catalog(), &message, via, seed) {
            let bytes_max = match via {
                Via::Tcp => TCP_BYTES_MAX,
                Via::Udp { is_local: true } => 8192,
                Via::Udp { is_local: false } => REMOTE_UDP_BYTES_MAX,
            };
            prop_assert!(bytes.len() <= bytes_max);
            prop_assert_eq!(&bytes[..2], &message[..2]);
            prop_assert!(!read.metadata.recursion_available);
            for record in &read.answers {
                prop_assert_eq!(&record.name.to_lowercase(), &read.queries[0].name().to_lowercase());
            }
            if damage.is_none() {
                prop_assert_eq!(&bytes[12..12 + name.len() + 1], &message[12..12 + name.len() + 1]);
                let code = format!("{:?}", read.metadata.response_code);
                prop_assert!(["NoError", "NXDomain", "Refused"].contains(&code.as_str()), "{}", code);
            }
        }
    }
}
