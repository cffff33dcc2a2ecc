//! CLIENT TRACKING: clients that keep copies of what they read, and are told when it changes
//! (<https://redis.io/docs/latest/develop/reference/client-side-caching/>).
//!
//! ```text
//!   read by a tracking client ── keys remembered ──┐
//!   entry applied on this node ── keys that changed ┴──► `invalidate` (RESP3), or a message on `__redis__:invalidate`
//! ```
//!
//! Each node tells its own clients, by what it applies itself: so nothing is asked of the shard's leader, and a change is told
//! when this node has it. Keys are remembered before they are read, so a change in between is told too. What a script reads is
//! what it declares. Keys of shards of which this node has no copy are told as changed at once, as nothing would tell of them later.
//!
//! Bounds: `tracking-table-max-keys` keys are remembered (beyond it one is told as changed, and forgotten); a client may have
//! [`PREFIXES_MAX`] prefixes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use shard::command::is;
use shard::error::{CommandError, NOT_INTEGER, SYNTAX};
use shard::reply::{Protocol, Reply};
use smallvec::SmallVec;

use super::door::{Client, Door};

/// Prefixes of one client.
const PREFIXES_MAX: usize = 1000;
/// Keys that are remembered, unless `tracking-table-max-keys` says otherwise.
const KEYS_MAX: usize = 1_000_000;
/// Where RESP2 clients that others redirect to listen.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// What CLIENT TRACKING ON asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    redirect: u64,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<Vec<u8>>,
}

struct Tracker {
    client: Client,
    options: Options,
    prefixes: BTreeSet<Vec<u8>>,
    is_broken: bool,
}

struct Inner {
    trackers: BTreeMap<u64, Tracker>,
    /// Who has read a key.
    keys: HashMap<Vec<u8>, SmallVec<[u64; 2]>, store::hash::State>,
    keys_max: usize,
}

/// The clients of a door that track.
pub struct Tracking {
    is_on: AtomicBool,
    inner: Mutex<Inner>,
}

impl Default for Tracking {
    fn default() -> Tracking {
        let inner = Inner { trackers: BTreeMap::new(), keys: HashMap::default(), keys_max: KEYS_MAX };
        Tracking { is_on: AtomicBool::new(false), inner: Mutex::new(inner) }
    }
}

/// Reads the words of CLIENT TRACKING. `None` is OFF.
pub fn parse(args: &[&[u8]], exists: impl Fn(u64) -> bool) -> Result<Option<Options>, CommandError> {
    let mut options = Options::default();
    let mut words = args[3..].iter();
    while let Some(word) = words.next() {
        match word {
            word if is(word, "bcast") => options.broadcast = true,
            word if is(word, "optin") => options.opt_in = true,
            word if is(word, "optout") => options.opt_out = true,
            word if is(word, "noloop") => options.no_loop = true,
            word if is(word, "prefix") => options.prefixes.push(words.next().ok_or(SYNTAX)?.to_vec()),
            word if is(word, "redirect") => {
                if options.redirect != 0 {
                    return Err(CommandError::new("ERR A client can only redirect to a single other client"));
                }
                let id = base::parse_i64(words.next().ok_or(SYNTAX)?).ok_or(NOT_INTEGER)?;
                options.redirect = u64::try_from(id)
                    .ok()
                    .filter(|id| exists(*id))
                    .ok_or(CommandError::new("ERR The client ID you want redirect to does not exist"))?;
            }
            _ => return Err(SYNTAX),
        }
    }
    match args[2] {
        word if is(word, "on") => Ok(Some(options)),
        word if is(word, "off") => Ok(None),
        _ => Err(SYNTAX),
    }
}

impl Options {
    fn check(&self, before: Option<&Tracker>) -> Result<(), CommandError> {
        const OTHER_MODE: &str =
            "before disabling tracking for this client, and then re-enabling it with a different mode.";
        if !self.broadcast && !self.prefixes.is_empty() {
            return Err(CommandError::new("ERR PREFIX option requires BCAST mode to be enabled"));
        }
        if before.is_some_and(|before| before.options.broadcast != self.broadcast) {
            return Err(format!("ERR You can't switch BCAST mode on/off {OTHER_MODE}").into());
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err(CommandError::new("ERR OPTIN and OPTOUT are not compatible with BCAST"));
        }
        if self.opt_in && self.opt_out {
            return Err(CommandError::new("ERR You can't specify both OPTIN mode and OPTOUT mode"));
        }
        let switches =
            |before: &Tracker| self.opt_in && before.options.opt_out || self.opt_out && before.options.opt_in;
        if before.is_some_and(switches) {
            return Err(format!("ERR You can't switch OPTIN/OPTOUT mode {OTHER_MODE}").into());
        }
        let overlap = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
        let text = |prefix: &[u8]| String::from_utf8_lossy(prefix).into_owned();
        for (at, prefix) in self.prefixes.iter().enumerate() {
            let existing = before.and_then(|before| before.prefixes.iter().find(|own| overlap(own, prefix)));
            let given = self.prefixes[at + 1..].iter().find(|other| overlap(other, prefix));
            let (kind, other) = match (existing, given) {
                (Some(other), _) => ("an existing", other),
                (None, Some(other)) => ("another provided", other),
                (None, None) => continue,
            };
            return Err(format!(
                "ERR Prefix '{}' overlaps with {kind} prefix '{}'. Prefixes for a single client must not overlap.",
                text(prefix),
                text(other)
            )
            .into());
        }
        if before.map_or(0, |before| before.prefixes.len()) + self.prefixes.len() > PREFIXES_MAX {
            return Err(CommandError::new("ERR Too many prefixes"));
        }
        Ok(())
    }
}

impl Tracking {
    /// Whether anybody tracks: the one thing that every command pays for.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// A client begins to track, or changes how. Returns whether it is the first one.
    pub fn start(&self, client: &Client, options: Options) -> Result<bool, CommandError> {
        let mut inner = self.inner.lock();
        let before = inner.trackers.get(&client.id);
        options.check(before)?;
        let mut prefixes = before.map(|before| before.prefixes.clone()).unwrap_or_default();
        prefixes.extend(options.prefixes.iter().cloned());
        if options.broadcast && prefixes.is_empty() {
            prefixes.insert(Vec::new());
        }
        inner.trackers.insert(client.id, Tracker { client: client.clone(), options, prefixes, is_broken: false });
        Ok(!self.is_on.swap(true, Ordering::Relaxed))
    }

    /// A client tracks no more. Returns whether it was the last one.
    pub fn stop(&self, id: u64) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut inner = self.inner.lock();
        let was_there = inner.trackers.remove(&id).is_some();
        let is_last = was_there && inner.trackers.is_empty();
        if is_last {
            inner.keys = HashMap::default();
            self.is_on.store(false, Ordering::Relaxed);
        }
        is_last
    }

    /// Whether a client wants what it reads to be remembered. `caching`: CLIENT CACHING came right before.
    pub fn remembers(&self, id: u64, caching: bool) -> bool {
        self.is_on()
            && self.inner.lock().trackers.get(&id).is_some_and(|tracker| {
                let options = &tracker.options;
                let against = if caching { options.opt_out } else { options.opt_in };
                !options.broadcast && !against
            })
    }

    /// A client is about to read a key.
    pub fn remember(&self, id: u64, key: &[u8], door: &Door, wakers: &mut Vec<Waker>) {
        let mut inner = self.inner.lock();
        match inner.keys.get_mut(key) {
            Some(ids) if ids.contains(&id) => {}
            Some(ids) => ids.push(id),
            None => {
                if inner.keys.len() >= inner.keys_max
                    && let Some(other) = inner.keys.keys().next().cloned()
                {
                    inner.invalidate(0, &other, door, wakers);
                }
                inner.keys.insert(key.to_vec(), SmallVec::from_slice(&[id]));
            }
        }
    }

    /// `tracking-table-max-keys`.
    pub fn set_keys_max(&self, count: usize) {
        self.inner.lock().keys_max = if count == 0 { usize::MAX } else { count };
    }

    /// CLIENT CACHING: refused where it makes no sense.
    pub fn check_caching(&self, id: u64, word: &[u8]) -> Result<(), CommandError> {
        let inner = self.inner.lock();
        let tracker = inner.trackers.get(&id).ok_or(CommandError::new(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ))?;
        match word {
            word if is(word, "yes") && !tracker.options.opt_in => {
                Err(CommandError::new("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."))
            }
            word if is(word, "no") && !tracker.options.opt_out => {
                Err(CommandError::new("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."))
            }
            word if is(word, "yes") || is(word, "no") => Ok(()),
            _ => Err(SYNTAX),
        }
    }

    /// CLIENT GETREDIR.
    pub fn redirect_of(&self, id: u64) -> i64 {
        self.inner.lock().trackers.get(&id).map_or(-1, |tracker| tracker.options.redirect as i64)
    }

    /// The letters of CLIENT LIST: tracks, redirects to nobody, broadcasts.
    pub fn letters(&self, id: u64) -> (bool, bool, bool) {
        let inner = self.inner.lock();
        inner.trackers.get(&id).map_or((false, false, false), |own| (true, own.is_broken, own.options.broadcast))
    }

    /// CLIENT TRACKINGINFO.
    pub fn info(&self, id: u64, caching: bool, reply: &mut Reply) {
        let inner = self.inner.lock();
        let tracker = inner.trackers.get(&id);
        let options = tracker.map(|tracker| &tracker.options);
        let is = |flag: fn(&Options) -> bool| options.is_some_and(flag);
        let flags = [
            (tracker.is_some(), "on"),
            (tracker.is_none(), "off"),
            (is(|own| own.broadcast), "bcast"),
            (is(|own| own.opt_in), "optin"),
            (is(|own| own.opt_in) && caching, "caching-yes"),
            (is(|own| own.opt_out), "optout"),
            (is(|own| own.opt_out) && caching, "caching-no"),
            (is(|own| own.no_loop), "noloop"),
            (tracker.is_some_and(|own| own.is_broken), "broken_redirect"),
        ];
        let flags: Vec<&str> = flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
        reply.map(3);
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
        reply.bulk(b"redirect");
        reply.int(options.map_or(-1, |options| options.redirect as i64));
        reply.bulk(b"prefixes");
        let prefixes = tracker.filter(|own| own.options.broadcast).map(|own| &own.prefixes);
        reply.array(prefixes.map_or(0, BTreeSet::len));
        prefixes.into_iter().flatten().for_each(|prefix| reply.bulk(prefix));
    }

    /// Clients that track, keys that are remembered, how often, and prefixes.
    pub fn counts(&self) -> [u64; 4] {
        let inner = self.inner.lock();
        let items: usize = inner.keys.values().map(SmallVec::len).sum();
        let prefixes: BTreeSet<&Vec<u8>> =
            inner.trackers.values().filter(|own| own.options.broadcast).flat_map(|own| &own.prefixes).collect();
        [inner.trackers.len() as u64, inner.keys.len() as u64, items as u64, prefixes.len() as u64]
    }

    /// A unit of this client's (0 for nobody's) has changed these keys.
    pub fn changed(&self, by: u64, keys: &BTreeSet<&[u8]>, door: &Door, wakers: &mut Vec<Waker>) {
        if !self.is_on() {
            return;
        }
        let mut inner = self.inner.lock();
        for key in keys {
            inner.invalidate(by, key, door, wakers);
        }
        let broadcasts: Vec<(u64, Vec<u8>)> = inner
            .trackers
            .iter()
            .filter(|(id, own)| own.options.broadcast && !(own.options.no_loop && **id == by))
            .flat_map(|(id, own)| own.prefixes.iter().map(|prefix| (*id, prefix.clone())))
            .collect();
        for (id, prefix) in broadcasts {
            let found: Vec<&[u8]> = keys.iter().copied().filter(|key| key.starts_with(&prefix)).collect();
            if !found.is_empty() {
                inner.send(id, Some(&found), door, wakers);
            }
        }
    }

    /// Any key may have changed: FLUSHALL and kin, or a state that came from elsewhere.
    pub fn all_changed(&self, door: &Door, wakers: &mut Vec<Waker>) {
        if !self.is_on() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.keys.clear();
        let ids: Vec<u64> = inner.trackers.keys().copied().collect();
        for id in ids {
            inner.send(id, None, door, wakers);
        }
    }
}

impl Inner {
    fn invalidate(&mut self, by: u64, key: &[u8], door: &Door, wakers: &mut Vec<Waker>) {
        let Some(ids) = self.keys.remove(key) else { return };
        for id in ids {
            let is_wanted =
                self.trackers.get(&id).is_some_and(|own| !own.options.broadcast && (id != by || !own.options.no_loop));
            if is_wanted {
                self.send(id, Some(&[key]), door, wakers);
            }
        }
    }

    /// Tells a client of keys, `None` for all.
    fn send(&mut self, id: u64, keys: Option<&[&[u8]]>, door: &Door, wakers: &mut Vec<Waker>) {
        let Some(tracker) = self.trackers.get_mut(&id) else { return };
        let speaks_3 = |client: &Client| client.card.lock().resp == 3;
        let redirect = tracker.options.redirect;
        let target = match redirect {
            0 => Some(tracker.client.clone()),
            id => door.clients.lock().get(&id).cloned(),
        };
        let Some(target) = target else {
            tracker.is_broken = true;
            if speaks_3(&tracker.client) {
                let mut reply = Reply::new(Protocol::Resp3);
                reply.push(2);
                reply.bulk(b"tracking-redir-broken");
                reply.int(redirect as i64);
                wakers.extend(tracker.client.message(&reply.bytes));
            }
            return;
        };
        let mut reply;
        if speaks_3(&target) {
            reply = Reply::new(Protocol::Resp3);
            reply.push(2);
            reply.bulk(b"invalidate");
        } else if redirect != 0 && door.channels.read().is_subscribed(target.id) {
            reply = Reply::new(Protocol::Resp2);
            reply.push(3);
            reply.bulk(b"message");
            reply.bulk(CHANNEL);
        } else {
            return;
        }
        match keys {
            None => reply.null(),
            Some(keys) => {
                reply.array(keys.len());
                keys.iter().for_each(|key| reply.bulk(key));
            }
        }
        wakers.extend(target.message(&reply.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn parsed(line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        match parse(&args, |id| id == 7) {
            Ok(None) => "off".into(),
            Ok(Some(options)) => options.check(None).map_or_else(|error| error.0.into_owned(), |()| "on".into()),
            Err(error) => error.0.into_owned(),
        }
    }

    #[test]
    fn options_are_checked_with_redis_s_texts() {
        for (line, answer) in [
            ("CLIENT TRACKING on", "on"),
            ("CLIENT TRACKING OFF", "off"),
            ("CLIENT TRACKING on REDIRECT 7 NOLOOP OPTIN", "on"),
            ("CLIENT TRACKING on BCAST PREFIX a PREFIX b", "on"),
            ("CLIENT TRACKING maybe", "ERR syntax error"),
            ("CLIENT TRACKING on PREFIX", "ERR syntax error"),
            ("CLIENT TRACKING on REDIRECT 8", "ERR The client ID you want redirect to does not exist"),
            ("CLIENT TRACKING on REDIRECT x", "ERR value is not an integer or out of range"),
            ("CLIENT TRACKING on REDIRECT 7 REDIRECT 7", "ERR A client can only redirect to a single other client"),
            ("CLIENT TRACKING on PREFIX a", "ERR PREFIX option requires BCAST mode to be enabled"),
            ("CLIENT TRACKING on OPTIN OPTOUT", "ERR You can't specify both OPTIN mode and OPTOUT mode"),
            ("CLIENT TRACKING on BCAST OPTIN", "ERR OPTIN and OPTOUT are not compatible with BCAST"),
            (
                "CLIENT TRACKING on BCAST PREFIX FOOBAR PREFIX FOO",
                "ERR Prefix 'FOOBAR' overlaps with another provided prefix 'FOO'. Prefixes for a single client must not overlap.",
            ),
        ] {
            assert_eq!(parsed(line), answer, "{line}");
        }
    }
}
