//! From a seed to a stream of commands: the templates filled in, a part of them then damaged on purpose.
//!
//! Every stream is a plain list of [`Step`]s that depends on nothing a server answers, so any part of it can be played again
//! alone: that is what makes shrinking possible. What could not be compared (a relative expiry that is about to pass, a random pop,
//! an id by the clock) is kept out by `comparable`, whatever the damage did.

use super::sha1::sha1_hex;
use super::templates::{FAMILIES, Family, LIBRARIES, LUA};
use crate::rng::Rng;

/// How many ordinary connections take part.
pub const CONNECTIONS: usize = 3;

/// One thing that is done to both servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command whose reply is awaited before the next step.
    Call {
        /// Which connection.
        conn: usize,
        /// The command.
        args: Vec<Vec<u8>>,
    },
    /// A blocking command, then, once the server has it waiting, a command of another connection that may feed it.
    Block {
        /// Which connection waits.
        conn: usize,
        /// The blocking command.
        args: Vec<Vec<u8>>,
        /// Which connection feeds.
        feeder: usize,
        /// What it says.
        feed: Vec<Vec<u8>>,
    },
    /// A subscriber of its own listens, others publish, everything it heard is compared.
    PubSub {
        /// What the subscriber says first.
        subscribe: Vec<Vec<Vec<u8>>>,
        /// What is published.
        publish: Vec<Vec<Vec<u8>>>,
    },
}

const STRING_KEYS: &[&[u8]] = &[b"s0", b"s1", b"bin\x00\xff\r\n"];
const HASH_KEYS: &[&[u8]] = &[b"h0", b"h1"];
const LIST_KEYS: &[&[u8]] = &[b"l0", b"l1", b""];
const SET_KEYS: &[&[u8]] = &[b"t0", b"t1", b"t2"];
const ZSET_KEYS: &[&[u8]] = &[b"z0", b"z1", b"z2"];
const STREAM_KEYS: &[&[u8]] = &[b"x0", b"x1"];
/// Positions, and what only holds distances from somewhere.
const GEO_KEYS: &[&[u8]] = &[b"g0", b"g1"];
const SKETCH_KEYS: &[&[u8]] = &[b"p0", b"p1", b"p2"];
const ALL_KEYS: &[&[&[u8]]] = &[STRING_KEYS, HASH_KEYS, LIST_KEYS, SET_KEYS, ZSET_KEYS, STREAM_KEYS];

const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"abc",
    b"hello world",
    b"3.14",
    b"2.50",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b" 1",
    b"1 ",
    b"01",
    b"+1",
    b"1e3",
    b"inf",
    b"nan",
    b"-0",
    b"0.0",
    b"bin\x00\xff\r\n",
    b"exactly-forty-four-bytes-are-still-embedded-.",
    b"a text that is longer than the forty-four bytes which Redis embeds in the object itself",
];
const MEMBERS: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"foo",
    b"Foo",
    b"1",
    b"2",
    b"3",
    b"10",
    b"-5",
    b"",
    b"m\x00\xff\r\n",
    b"3.5",
    b"zz",
];
const ELEMENTS: &[&[u8]] = &[b"a", b"b", b"c", b"1", b"2", b"3", b"10", b"-5", b"2.5", b"", b"e\x00\xff\r\n", b"foo"];
const INTS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "5",
    "10",
    "100",
    "-7",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775806",
    "4294967296",
];
const FLOATS: &[&str] =
    &["0", "1.5", "-1.5", "0.25", "3", "10.1", "5.0e3", "-0.125", "1e17", "inf", "-inf", "nan", "abc", "0.1"];
const SCORES: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "1.5",
    "-1",
    "-2.25",
    "10",
    "1e10",
    "inf",
    "-inf",
    "+inf",
    "0.1",
    "3.0000000000000001",
    "-0",
    "1e308",
    "123456789.125",
];
const EDGES: &[&[u8]] = &[
    b"",
    b"0",
    b"-0",
    b"-1",
    b"1",
    b"01",
    b"+5",
    b" 3",
    b"3 ",
    b"1.0",
    b"1e2",
    b"abc",
    b"inf",
    b"-inf",
    b"nan",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"2147483648",
    b"-2147483649",
    b"\x00",
    b"(1",
    b"[a",
    b"+",
    b"-",
    b">",
    b"$",
    b"NX",
    b"GET",
    b"LIMIT",
    b"COUNT",
    b"WITHSCORES",
];

/// What a template's `$name` may draw on.
struct Draw<'a> {
    rng: &'a mut Rng,
    /// The keys that `$any` mostly means.
    home: Option<&'static [&'static [u8]]>,
    /// Grows with the stream so that explicit stream ids are mostly above the last one.
    clock: u64,
}

/// Draws steps until told to stop.
pub struct Generator {
    rng: Rng,
    families: Vec<&'static Family>,
    weight: u64,
    /// Commands that are not drawn: the server on the right does not know them.
    pub banned: std::collections::BTreeSet<String>,
    in_multi: [bool; CONNECTIONS],
    clock: u64,
    /// The family that most commands of this episode are from: some depth beside the breadth.
    focus: Option<&'static Family>,
    /// What was drawn together with an earlier step.
    pending: Vec<Step>,
}

impl Generator {
    /// A stream over the named families (all, if none is named).
    pub fn new(seed: u64, names: &[String]) -> Result<Generator, String> {
        for name in names {
            if !FAMILIES.iter().any(|family| family.name == name) {
                let known: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
                return Err(format!("--families: no family {name:?}; there are {}", known.join(", ")));
            }
        }
        let families: Vec<_> =
            FAMILIES.iter().filter(|family| names.is_empty() || names.iter().any(|name| name == family.name)).collect();
        let weight = families.iter().map(|family| family.weight).sum();
        Ok(Generator {
            rng: Rng::new(seed),
            families,
            weight,
            banned: Default::default(),
            in_multi: [false; CONNECTIONS],
            clock: 1,
            focus: None,
            pending: Vec::new(),
        })
    }

    /// Forgets what the connections were doing: the next step is the first on emptied servers.
    pub fn restart(&mut self) {
        self.in_multi = [false; CONNECTIONS];
        self.clock = 1;
        self.pending.clear();
        self.focus = if self.rng.percent(65) { Some(*self.rng.pick(&self.families)) } else { None };
        if self.focus.is_some_and(|family| family.name == "streams") {
            for key in ["x0", "x1"] {
                let args =
                    ["XGROUP", "CREATE", key, "g0", "0", "MKSTREAM"].map(|word| word.as_bytes().to_vec()).to_vec();
                self.pending.push(Step::Call { conn: 0, args });
            }
            if self.banned.contains("XGROUP") || self.banned.contains("XGROUP CREATE") {
                self.pending.clear();
            }
        }
    }

    fn draw(&mut self) -> Draw<'_> {
        Draw { rng: &mut self.rng, home: self.focus.and_then(home), clock: self.clock }
    }

    /// The next step.
    pub fn step(&mut self) -> Step {
        if let Some(step) = self.pending.pop() {
            return step;
        }
        let special = self.rng.next() % 1000;
        if special < 2 && self.rng.percent(75) && !self.in_multi.contains(&true) {
            return self.block();
        }
        if special < 6 && self.families.iter().any(|family| family.name == "connection") {
            return self.pubsub();
        }
        let conn = self.rng.below(CONNECTIONS);
        if self.in_multi[conn] && self.rng.percent(20) {
            self.in_multi[conn] = false;
            let word = if self.rng.percent(85) { "EXEC" } else { "DISCARD" };
            return Step::Call { conn, args: vec![word.into()] };
        }
        loop {
            let args = self.command();
            let name = String::from_utf8_lossy(&args[0]).to_ascii_uppercase();
            if self.known(&args) && comparable(&args) {
                match name.as_str() {
                    "MULTI" => self.in_multi[conn] = true,
                    "EXEC" | "DISCARD" => self.in_multi[conn] = false,
                    _ => {}
                }
                return Step::Call { conn, args };
            }
        }
    }

    /// Whether neither the command nor its subcommand is banned.
    fn known(&self, args: &[Vec<u8>]) -> bool {
        let name = String::from_utf8_lossy(&args[0]).to_ascii_uppercase();
        let sub = args.get(1).map(|sub| String::from_utf8_lossy(sub).to_ascii_uppercase()).unwrap_or_default();
        !self.banned.contains(&format!("{name} {sub}")) && !self.banned.contains(&name)
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        let mut at = self.rng.next() % self.weight;
        let mut family = self.families[0];
        for candidate in &self.families {
            if at < candidate.weight {
                family = candidate;
                break;
            }
            at -= candidate.weight;
        }
        if let Some(focus) = self.focus
            && self.rng.percent(80)
        {
            family = focus;
        }
        self.clock += 1;
        let line = *self.rng.pick(family.lines);
        let mut draw = self.draw();
        draw.home = home(family);
        let mut args = draw.expand(line);
        // Another word in a member's place would be a second member in its place.
        if self.rng.percent(6) && args[0] != b"GEOADD" {
            self.damage(&mut args);
        }
        args
    }

    /// What a careless or hostile client would send.
    fn damage(&mut self, args: &mut Vec<Vec<u8>>) {
        let at = if args.len() > 1 { 1 + self.rng.below(args.len() - 1) } else { 0 };
        let edge = self.rng.pick(EDGES).to_vec();
        match self.rng.below(6) {
            0 if at > 0 => {
                args.remove(at);
            }
            1 if at > 0 => args.insert(at, args[at].clone()),
            2 => args.push(edge),
            3 => args.truncate(at.max(1)),
            4 => args[0] = args[0].to_ascii_lowercase(),
            _ if at > 0 => args[at] = edge,
            _ => args.push(edge),
        }
    }

    /// A blocking call that waits for real, and what another client says meanwhile.
    fn block(&mut self) -> Step {
        const PAIRS: &[(&str, &str)] = &[
            ("BLPOP l0 l1 0.4", "RPUSH {l0|l1} $e+"),
            ("BRPOP l0 l1 0.4", "LPUSH {l0|l1} $e+"),
            ("BLMOVE l0 l1 {LEFT|RIGHT} {LEFT|RIGHT} 0.4", "RPUSH l0 $e+"),
            ("BLMOVE l0 l0 {LEFT|RIGHT} {LEFT|RIGHT} 0.4", "RPUSH l0 $e+"),
            ("BRPOPLPUSH l0 {l1|s0} 0.4", "RPUSH l0 $e+"),
            ("BLPOP l0 l1 0.4", "LMOVE t0 l0 LEFT RIGHT"),
            ("BLPOP l0 0.4", "EVAL return{redis.call('RPUSH',KEYS[1],'x','y'),redis.call('DEL',KEYS[1])} 1 l0"),
            ("BLPOP l0 0.4", "EVAL return{redis.call('DEL',KEYS[1]),redis.call('RPUSH',KEYS[1],'x','y')} 1 l0"),
            ("BLPOP l0 0.4", "{RENAME|COPY} l1 l0"),
            ("BLPOP l0 0.4", "SORT l1 ALPHA STORE l0"),
            ("BLPOP l0 0.4", "ZADD l0 1 a"),
            ("BZPOPMIN z0 z1 0.4", "ZADD {z0|z1} $sm+"),
            ("BZPOPMAX z0 z1 0.4", "ZADD {z0|z1} $sm+"),
            ("BZPOPMAX z0 0.4", "ZUNIONSTORE z0 2 z1 z2"),
            ("BLMPOP 0.4 2 l0 l1 {LEFT|RIGHT} {|COUNT 2}", "RPUSH {l0|l1} $e+"),
            ("BZMPOP 0.4 2 z0 z1 {MIN|MAX} {|COUNT 2}", "ZADD {z0|z1} $sm+"),
            ("XREAD BLOCK 400 STREAMS x0 x1 $ $", "XADD {x0|x1} $newid $fv+"),
            ("XREAD COUNT 1 BLOCK 400 STREAMS x0 $id", "XADD x0 $newid $fv+"),
            ("XREADGROUP GROUP g0 c0 BLOCK 400 STREAMS x0 >", "XADD x0 $newid $fv+"),
        ];
        loop {
            let (wait, feed) = *self.rng.pick(PAIRS);
            self.clock += 1;
            let mut draw = self.draw();
            let (args, feed) = (draw.expand(wait), draw.expand(feed));
            let conn = self.rng.below(CONNECTIONS);
            let feeder = (conn + 1 + self.rng.below(CONNECTIONS - 1)) % CONNECTIONS;
            if self.known(&args) && self.known(&feed) {
                let wait = Step::Block { conn, args, feeder, feed };
                if self.rng.percent(30) {
                    return wait;
                }
                // Emptied first, it will really wait.
                self.pending.push(wait);
                let clear = if self.rng.percent(80) { "DEL l0 z0 z1" } else { "DEL l0 l1 x0 x1 z0 z1" };
                return Step::Call {
                    conn: feeder,
                    args: clear.split(' ').map(|word| word.as_bytes().to_vec()).collect(),
                };
            }
            if self.banned.len() > 20 {
                return Step::Call { conn, args: vec![b"PING".to_vec()] };
            }
        }
    }

    fn pubsub(&mut self) -> Step {
        const LISTEN: &[&str] = &[
            "SUBSCRIBE {a|b} {|c a}",
            "PSUBSCRIBE {a*|?|*|[ab]x|\\a}",
            "SSUBSCRIBE {a|b}",
            "SUBSCRIBE a",
            "UNSUBSCRIBE {|a|c}",
            "PUNSUBSCRIBE {|a*}",
            "SUNSUBSCRIBE {|a}",
            "PING",
        ];
        const SAY: &[&str] = &[
            "PUBLISH {a|b|ax|c} $v",
            "PUBLISH a $v",
            "SPUBLISH {a|b} $v",
            "PUBSUB {CHANNELS|NUMSUB a b c|NUMPAT|CHANNELS a*|SHARDCHANNELS|SHARDNUMSUB a b}",
        ];
        let mut many = |lines: &[&str], most: usize| -> Vec<Vec<Vec<u8>>> {
            let count = 1 + self.rng.below(most);
            let drawn = (0..count).map(|_| {
                let line = *self.rng.pick(lines);
                Draw { rng: &mut self.rng, home: None, clock: 1 }.expand(line)
            });
            drawn.collect()
        };
        let (mut subscribe, mut publish) = (many(LISTEN, 4), many(SAY, 4));
        subscribe.retain(|args| self.known(args));
        publish.retain(|args| self.known(args));
        Step::PubSub { subscribe, publish }
    }
}

/// The keys that a family's commands are mostly about.
fn home(family: &Family) -> Option<&'static [&'static [u8]]> {
    match family.name {
        "strings" => Some(STRING_KEYS),
        "hashes" => Some(HASH_KEYS),
        "lists" => Some(LIST_KEYS),
        "sets" => Some(SET_KEYS),
        "zsets" => Some(ZSET_KEYS),
        "streams" => Some(STREAM_KEYS),
        "geo" => Some(GEO_KEYS),
        "hyperloglog" => Some(SKETCH_KEYS),
        _ => None,
    }
}

impl Draw<'_> {
    /// The template's words with everything drawn.
    fn expand(&mut self, template: &str) -> Vec<Vec<u8>> {
        if template == "$script" {
            return self.script();
        }
        let mut out = Vec::new();
        self.words(template, &mut out);
        out
    }

    fn words(&mut self, template: &str, out: &mut Vec<Vec<u8>>) {
        let mut rest = template.trim_start();
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('{') {
                let end = inner.find('}').expect("templates close their braces");
                let choices: Vec<&str> = inner[..end].split('|').collect();
                let choice = *self.rng.pick(&choices);
                self.words(choice, out);
                rest = inner[end + 1..].trim_start();
                continue;
            }
            let end = rest.find(' ').unwrap_or(rest.len());
            self.word(&rest[..end], out);
            rest = rest[end..].trim_start();
        }
    }

    fn word(&mut self, word: &str, out: &mut Vec<Vec<u8>>) {
        let many = 1 + self.rng.below(3);
        match word {
            "$any+" | "$m+" | "$e+" | "$id+" => {
                for _ in 0..many {
                    let one = self.one(&word[..word.len() - 1]);
                    out.push(one);
                }
            }
            "$geo+" => {
                for _ in 0..many {
                    // A member's place is mostly the same, and no other's: equal distances have no order.
                    let at = self.rng.below(MEMBERS.len());
                    let moved = if self.rng.percent(10) { 7 } else { 0 };
                    let longitude = (at * 37 % 360) as f64 - 179.5 + 0.013 * (at + moved) as f64;
                    let latitude = (at * 23 % 170) as f64 - 84.75 + 0.0171 * (at * 3 + moved) as f64;
                    let near = if at.is_multiple_of(2) { 0.05 } else { 1.0 };
                    out.push(format!("{:.6}", longitude * near).into_bytes());
                    out.push(format!("{:.6}", (latitude * near).clamp(-85.0, 85.0)).into_bytes());
                    out.push(MEMBERS[at].to_vec());
                }
            }
            "$fv+" | "$sm+" => {
                let first = if word == "$fv+" { "$m" } else { "$score" };
                let second = if word == "$fv+" { "$v" } else { "$m" };
                for _ in 0..many {
                    let pair = [self.one(first), self.one(second)];
                    out.extend(pair);
                }
            }
            "$" => out.push(b"$".to_vec()),
            _ if word.starts_with('$') => {
                let one = self.one(word);
                out.push(one);
            }
            _ if word.starts_with("($") => {
                let mut one = vec![b'('];
                one.extend(self.one(&word[1..]));
                out.push(one);
            }
            _ => out.push(word.as_bytes().to_vec()),
        }
    }

    fn key(&mut self, own: &[&[u8]]) -> Vec<u8> {
        self.rng.pick(own).to_vec()
    }

    fn one(&mut self, name: &str) -> Vec<u8> {
        let rng = &mut *self.rng;
        match name {
            "$any" | "$k" => {
                if let Some(home) = self.home
                    && rng.percent(75)
                {
                    return rng.pick(home).to_vec();
                }
                let keys = *rng.pick(ALL_KEYS);
                rng.pick(keys).to_vec()
            }
            "$s" => self.key(STRING_KEYS),
            "$h" => self.key(HASH_KEYS),
            "$l" => self.key(LIST_KEYS),
            "$t" => self.key(SET_KEYS),
            "$z" => self.key(ZSET_KEYS),
            "$x" => self.key(STREAM_KEYS),
            "$g" => self.key(GEO_KEYS),
            "$p" => self.key(SKETCH_KEYS),
            "$reach" => rng
                .pick(&["0", "1", "100", "500.5", "1000", "3000", "9000", "25000", "-1", "abc", "inf"])
                .as_bytes()
                .to_vec(),
            "$v" => rng.pick(VALUES).to_vec(),
            "$m" => rng.pick(MEMBERS).to_vec(),
            "$e" => rng.pick(ELEMENTS).to_vec(),
            "$i" => rng.pick(INTS).as_bytes().to_vec(),
            "$f" => rng.pick(FLOATS).as_bytes().to_vec(),
            "$score" => rng.pick(SCORES).as_bytes().to_vec(),
            "$idx" => (rng.below(11) as i64 - 5).to_string().into_bytes(),
            "$pos" => rng.below(60).to_string().into_bytes(),
            "$cnt" => rng.pick(&["1", "2", "3", "10", "100", "0", "-1"]).as_bytes().to_vec(),
            "$abs" => rng
                .pick(&["9999999998", "9999999999", "9999999997", "1", "0", "-1", "9223372036854775807"])
                .as_bytes()
                .to_vec(),
            "$absms" => {
                rng.pick(&["9999999998000", "9999999999500", "9999999997001", "1", "0", "-1"]).as_bytes().to_vec()
            }
            "$pat" => rng
                .pick(&[
                    "*", "?0", "[stz]*", "*1", "s\\0", "[^a]*", "", "**", "h?", "[a-c]", "nothing", "f*o", "[", "\\",
                    "*\u{0}*",
                ])
                .as_bytes()
                .to_vec(),
            "$type" => {
                rng.pick(&["string", "hash", "list", "set", "zset", "stream", "nosuch", "STRING"]).as_bytes().to_vec()
            }
            "$sb" => rng
                .pick(&["-inf", "+inf", "0", "1", "(1", "2", "(2", "3", "(-1", "10", "(inf", "abc", "1.5", "(", "nan"])
                .as_bytes()
                .to_vec(),
            "$lb" => rng
                .pick(&["-", "+", "[a", "(a", "[c", "(c", "[foo", "(zz", "[", "a", "(", "[m", "+x"])
                .as_bytes()
                .to_vec(),
            "$xb" => rng
                .pick(&[
                    "-",
                    "+",
                    "0",
                    "3",
                    "5-1",
                    "(3",
                    "(5-1",
                    "8",
                    "(-",
                    "abc",
                    "18446744073709551615-18446744073709551615",
                    "(18446744073709551615-18446744073709551615",
                    "(0-0",
                    "20",
                ])
                .as_bytes()
                .to_vec(),
            "$group" => rng.pick(&["g0", "g0", "g0", "g0", "g0", "g0", "g0", "g1", "g1", "nosuch"]).as_bytes().to_vec(),
            "$c" => rng.pick(&["c0", "c0", "c1", "c2"]).as_bytes().to_vec(),
            "$newid" => match rng.below(12) {
                0 => format!("{}-*", self.clock).into_bytes(),
                1 => format!("{}", self.clock).into_bytes(),
                2 => self.one("$id"),
                _ => format!("{}-{}", self.clock, rng.below(3)).into_bytes(),
            },
            "$id" => match rng.below(40) {
                0 => b"0-0".to_vec(),
                1 if rng.percent(20) => b"18446744073709551615-18446744073709551615".to_vec(),
                2 => b"abc".to_vec(),
                3 => b"5-1".to_vec(),
                4 => b"1-".to_vec(),
                5 => b"0".to_vec(),
                _ => {
                    // Mostly near the end of the stream: what exists is what is worth reading, claiming and deleting.
                    let reach = if rng.percent(50) { 30 } else { 200 };
                    let back = rng.below(reach) as u64;
                    format!("{}-{}", self.clock.saturating_sub(back), rng.below(3)).into_bytes()
                }
            },
            "$lua" => rng.pick(LUA).0.as_bytes().to_vec(),
            "$lib" => rng.pick(LIBRARIES).as_bytes().to_vec(),
            "$sha" => sha1_hex(rng.pick(LUA).0.as_bytes()).into_bytes(),
            other => unreachable!("no template word {other}"),
        }
    }

    fn script(&mut self) -> Vec<Vec<u8>> {
        let (text, keys, values) = *self.rng.pick(LUA);
        let by_hash = self.rng.percent(25);
        let mut args = if by_hash {
            vec![b"EVALSHA".to_vec(), sha1_hex(text.as_bytes()).into_bytes()]
        } else {
            vec![b"EVAL".to_vec(), text.as_bytes().to_vec()]
        };
        args.push(keys.to_string().into_bytes());
        for _ in 0..keys {
            args.push(self.one("$any"));
        }
        for _ in 0..values {
            args.push(self.one("$m"));
        }
        args
    }
}

/// Whether two correct servers must give the same answer, now and later: false for what depends on a clock or on chance, for what
/// would wait for ever and for what would answer without end.
pub fn comparable(args: &[Vec<u8>]) -> bool {
    let name = args[0].to_ascii_uppercase();
    let word = |at: usize| args.get(at).map(|arg| arg.to_ascii_uppercase()).unwrap_or_default();
    let float = |at: usize| -> Option<f64> {
        let text = std::str::from_utf8(args.get(at)?).ok()?;
        text.parse().ok()
    };
    let int = |at: usize| -> Option<i64> { std::str::from_utf8(args.get(at)?).ok()?.parse().ok() };
    // An expiry that passes while the test runs.
    let near = |value: Option<i64>, unit: i64| value.is_some_and(|value| value > 0 && value < 50_000 * unit);
    let around_now = |value: Option<i64>, unit: i64| {
        value.is_some_and(|value| value > 1_000_000 * unit && value < 9_000_000_000 * unit)
    };
    let brief = |at: usize| match float(at) {
        Some(wait) => wait < 0.0 && wait != -0.0 || wait > 0.0 && wait <= 0.05 || !wait.is_finite(),
        None => true,
    };
    let relative_comparison = |unit: i64| {
        int(2).is_some_and(|value| value > 0 && value < i64::MAX / (2000 / unit))
            && (3..args.len()).any(|at| matches!(&word(at)[..], b"GT" | b"LT"))
    };
    match &name[..] {
        b"SPOP" => match args.len() {
            0 | 1 => true,
            2 => false,
            _ => !int(2).is_some_and(|count| count > 0 && count < 1000),
        },
        b"SRANDMEMBER" | b"HRANDFIELD" | b"ZRANDMEMBER" => {
            !int(2).is_some_and(|count| count < -100 || count > 0 && count < 1000)
        }
        b"BLPOP" | b"BRPOP" | b"BZPOPMIN" | b"BZPOPMAX" | b"BRPOPLPUSH" | b"BLMOVE" => brief(args.len() - 1),
        b"BLMPOP" | b"BZMPOP" => brief(1),
        b"XREAD" | b"XREADGROUP" => (1..args.len())
            .all(|at| word(at) != b"BLOCK" || int(at + 1).is_none_or(|wait| wait < 0 || wait > 0 && wait <= 50)),
        b"EXPIRE" => !near(int(2), 1) && !relative_comparison(1),
        b"PEXPIRE" => !near(int(2), 1000) && !relative_comparison(1000),
        b"SETEX" => !near(int(2), 1),
        b"PSETEX" => !near(int(2), 1000),
        b"EXPIREAT" => !around_now(int(2), 1),
        b"PEXPIREAT" => !around_now(int(2), 1000),
        b"SET" | b"GETEX" => (2..args.len()).all(|at| match &word(at)[..] {
            b"EX" => !near(int(at + 1), 1),
            b"PX" => !near(int(at + 1), 1000),
            b"EXAT" => !around_now(int(at + 1), 1),
            b"PXAT" => !around_now(int(at + 1), 1000),
            _ => true,
        }),
        // An id by the clock, or trimming that may take any amount.
        b"XADD" | b"XTRIM" => (2..args.len().min(9)).all(|at| !matches!(&word(at)[..], b"*" | b"~")),
        b"SETRANGE" => int(2).is_none_or(|at| !(1000..536_870_912).contains(&at)),
        b"SCAN" => args.len() < 2 || int(1).is_none_or(|cursor| cursor == 0 && word(1) == b"0"),
        b"HSCAN" | b"SSCAN" | b"ZSCAN" => args.len() < 3 || int(2).is_none_or(|cursor| cursor == 0 && word(2) == b"0"),
        // Which element comes first in an unordered set is nobody's business.
        b"SORT" | b"SORT_RO" => {
            let unordered = (2..args.len())
                .any(|at| word(at) == b"BY" && !args.get(at + 1).is_some_and(|pattern| pattern.contains(&b'*')));
            let partial = (2..args.len()).any(|at| matches!(&word(at)[..], b"STORE" | b"LIMIT"));
            // Equal weights by ALPHA leave the order to the sorting algorithm.
            let ties = (2..args.len()).any(|at| word(at) == b"BY") && (2..args.len()).any(|at| word(at) == b"ALPHA");
            !(ties || unordered && partial)
        }
        // 7.2 refuses this rank by name, 7.0 takes it.
        b"LPOS" => !args.iter().any(|arg| arg == b"-9223372036854775808"),
        b"ZADD" if args.get(1).is_some_and(|key| key == b"zl") => {
            args[2..].iter().step_by(2).all(|score| score == b"0")
        }
        // WITHSCORE is new in 7.2.
        b"ZRANK" | b"ZREVRANK" => args.len() <= 3,
        b"WATCH" => !args.iter().any(|key| STREAM_KEYS.contains(&&key[..]) || SKETCH_KEYS.contains(&&key[..])),
        b"WAIT" => args.len() == 3 && word(1) == b"0",
        b"CLIENT" => !matches!(&word(1)[..], b"REPLY") || !matches!(&word(2)[..], b"OFF" | b"SKIP"),
        b"HELLO" => args.len() > 1 && !matches!(int(1), Some(2 | 3)) || args.len() > 2,
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" => false,
        // 7.2 looks at the command even where it stands alone.
        b"COMMAND" => word(1) == b"GETKEYS" && args.len() != 3,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seed: u64, count: usize) -> Vec<Step> {
        let mut generator = Generator::new(seed, &[]).unwrap();
        generator.restart();
        (0..count).map(|_| generator.step()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_stream_and_every_template_can_be_drawn() {
        assert_eq!(steps(7, 30_000), steps(7, 30_000));
        assert_ne!(steps(7, 100), steps(8, 100));
    }

    #[test]
    fn what_hangs_on_a_clock_or_on_chance_is_not_comparable() {
        let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        for bad in [
            "SPOP t",
            "SPOP t 3",
            "SET k v EX 10",
            "set k v px 5000",
            "EXPIRE k 100000 GT",
            "EXPIREAT k 1795000000",
            "BLPOP k 0",
            "BLPOP k 10",
            "XREAD BLOCK 0 STREAMS x $",
            "XADD x * f v",
            "XTRIM x MAXLEN ~ 5",
            "SCAN 5",
            "SORT t BY nosort STORE d",
            "SRANDMEMBER t -9223372036854775807",
            "CLIENT REPLY OFF",
        ] {
            assert!(!comparable(&words(bad)), "{bad}");
        }
        for good in
            ["SPOP t 1000", "SET k v EX 100000", "EXPIREAT k 9999999999", "BLPOP k 0.002", "XADD x 5-* f v", "SCAN 0"]
        {
            assert!(comparable(&words(good)), "{good}");
        }
    }
}
