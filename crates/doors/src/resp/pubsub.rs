//! Who listens to which channels, and the bytes of messages and confirmations, as Redis 7.2 sends them.
//!
//! Knows nothing about connections but their ids: whoever delivers a message asks [`Registry::publish`] for whom it is.
//! Deterministic: names in byte order, clients by id.

use std::collections::{BTreeMap, BTreeSet};

use base::{Limit, Limits, glob_matches};
use shard::command::is;
use shard::error::CommandError;
use shard::reply::Reply;

use super::text;

/// What a client can listen to. Channels and patterns are counted together, shard channels on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

impl Kind {
    fn subscribe_word(self) -> &'static [u8] {
        match self {
            Kind::Channel => b"subscribe",
            Kind::Pattern => b"psubscribe",
            Kind::Shard => b"ssubscribe",
        }
    }

    fn unsubscribe_word(self) -> &'static [u8] {
        match self {
            Kind::Channel => b"unsubscribe",
            Kind::Pattern => b"punsubscribe",
            Kind::Shard => b"sunsubscribe",
        }
    }
}

/// One client that a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The client's id.
    pub client: u64,
    /// How it listens; decides the form of the message.
    pub kind: Kind,
    /// The pattern that matched, for [`Kind::Pattern`].
    pub pattern: Option<&'a [u8]>,
}

type Listeners = BTreeMap<Vec<u8>, BTreeSet<u64>>;

/// All subscriptions of a door.
#[derive(Debug)]
pub struct Registry {
    listeners: [Listeners; 3],
    clients: BTreeMap<u64, [BTreeSet<Vec<u8>>; 3]>,
    limits: Limits,
}

/// A client is subscribed to as much as it may be.
const TOO_MANY: CommandError = CommandError::new("ERR max number of subscriptions of a client reached");

impl Registry {
    /// Nobody listens. A client may be subscribed to `subscriptions_max` channels and patterns.
    pub fn new(limits: Limits) -> Registry {
        Registry { listeners: Default::default(), clients: BTreeMap::new(), limits }
    }

    /// Makes `client` listen. Again is allowed and changes nothing.
    pub fn subscribe(&mut self, kind: Kind, client: u64, name: &[u8]) -> Result<(), CommandError> {
        let own = self.clients.entry(client).or_default();
        let total: usize = own.iter().map(BTreeSet::len).sum();
        if own[kind as usize].contains(name) {
            return Ok(());
        }
        if total >= self.limits.subscriptions_max {
            self.limits.hit(Limit::subscriptions_max);
            if total == 0 {
                self.clients.remove(&client);
            }
            return Err(TOO_MANY);
        }
        own[kind as usize].insert(name.to_vec());
        self.listeners[kind as usize].entry(name.to_vec()).or_default().insert(client);
        Ok(())
    }

    /// Ends one subscription; nothing happens if there is none.
    pub fn unsubscribe(&mut self, kind: Kind, client: u64, name: &[u8]) {
        let Some(own) = self.clients.get_mut(&client) else { return };
        if !own[kind as usize].remove(name) {
            return;
        }
        if own.iter().all(BTreeSet::is_empty) {
            self.clients.remove(&client);
        }
        self.forget(kind, client, name);
    }

    /// Ends all subscriptions of a client: it is closed, or RESET.
    pub fn unsubscribe_all(&mut self, client: u64) {
        let Some(own) = self.clients.remove(&client) else { return };
        for (kind, names) in [Kind::Channel, Kind::Pattern, Kind::Shard].into_iter().zip(own) {
            for name in names {
                self.forget(kind, client, &name);
            }
        }
    }

    fn forget(&mut self, kind: Kind, client: u64, name: &[u8]) {
        let listeners = &mut self.listeners[kind as usize];
        let clients = listeners.get_mut(name).expect("a client's subscription stands in both directions");
        clients.remove(&client);
        if clients.is_empty() {
            listeners.remove(name);
        }
    }

    /// How many subscriptions of one kind a client has.
    pub fn count(&self, kind: Kind, client: u64) -> usize {
        self.clients.get(&client).map_or(0, |own| own[kind as usize].len())
    }

    /// Whether this holds of everything that the client listens to; patterns are said to be some.
    pub fn all_of(&self, client: u64, holds: impl Fn(&[u8], bool) -> bool) -> bool {
        self.clients.get(&client).is_none_or(|own| {
            let named = |kind: Kind| own[kind as usize].iter().all(|name| holds(name, matches!(kind, Kind::Pattern)));
            [Kind::Channel, Kind::Pattern, Kind::Shard].into_iter().all(named)
        })
    }

    /// Whether a client has any subscription: in RESP2 it may then do little else.
    pub fn is_subscribed(&self, client: u64) -> bool {
        self.clients.contains_key(&client)
    }

    /// The number that confirmations show.
    fn shown_count(&self, kind: Kind, client: u64) -> usize {
        match kind {
            Kind::Shard => self.count(Kind::Shard, client),
            _ => self.count(Kind::Channel, client) + self.count(Kind::Pattern, client),
        }
    }

    /// For whom a PUBLISH is: those of the channel, then those of each pattern that matches. A client with several
    /// subscriptions that match gets several messages. PUBLISH answers how many there are.
    pub fn publish<'a>(&'a self, channel: &'a [u8]) -> impl Iterator<Item = Delivery<'a>> {
        let patterns = self.listeners[Kind::Pattern as usize].iter();
        self.of(Kind::Channel, channel).chain(
            patterns.filter(move |(pattern, _)| glob_matches(pattern, channel)).flat_map(|(pattern, clients)| {
                let pattern = Some(pattern.as_slice());
                clients.iter().map(move |client| Delivery { client: *client, kind: Kind::Pattern, pattern })
            }),
        )
    }

    /// For whom an SPUBLISH is.
    pub fn publish_shard<'a>(&'a self, channel: &[u8]) -> impl Iterator<Item = Delivery<'a>> {
        self.of(Kind::Shard, channel)
    }

    fn of<'a>(&'a self, kind: Kind, name: &[u8]) -> impl Iterator<Item = Delivery<'a>> + use<'a> {
        let clients = self.listeners[kind as usize].get(name);
        clients.into_iter().flatten().map(move |client| Delivery { client: *client, kind, pattern: None })
    }

    /// SUBSCRIBE, PSUBSCRIBE and SSUBSCRIBE: one confirmation per name. Stops with an error behind the confirmations at the
    /// bound.
    pub fn subscribe_command(&mut self, kind: Kind, client: u64, names: &[&[u8]], reply: &mut Reply) {
        for name in names {
            if let Err(error) = self.subscribe(kind, client, name) {
                return reply.error(&error.0);
            }
            write_confirmation(kind.subscribe_word(), Some(name), self.shown_count(kind, client), reply);
        }
    }

    /// UNSUBSCRIBE, PUNSUBSCRIBE and SUNSUBSCRIBE: one confirmation per name; without names all of that kind, and if there
    /// are none, one confirmation of nothing.
    pub fn unsubscribe_command(&mut self, kind: Kind, client: u64, names: &[&[u8]], reply: &mut Reply) {
        for name in names {
            self.unsubscribe(kind, client, name);
            write_confirmation(kind.unsubscribe_word(), Some(name), self.shown_count(kind, client), reply);
        }
        if !names.is_empty() {
            return;
        }
        let own = self.clients.get(&client).map(|own| own[kind as usize].clone()).unwrap_or_default();
        if own.is_empty() {
            return write_confirmation(kind.unsubscribe_word(), None, self.shown_count(kind, client), reply);
        }
        for name in own {
            self.unsubscribe(kind, client, &name);
            write_confirmation(kind.unsubscribe_word(), Some(&name), self.shown_count(kind, client), reply);
        }
    }

    /// PUBSUB with a subcommand that exists and has the words it needs (see `introspect::check`).
    pub fn pubsub_command(&self, args: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
        let (channels, shards) = (&self.listeners[Kind::Channel as usize], &self.listeners[Kind::Shard as usize]);
        match args[1] {
            word if is(word, "channels") && args.len() <= 3 => write_names(channels, args.get(2), reply),
            word if is(word, "shardchannels") && args.len() <= 3 => write_names(shards, args.get(2), reply),
            word if is(word, "numsub") => write_numbers(channels, &args[2..], reply),
            word if is(word, "shardnumsub") => write_numbers(shards, &args[2..], reply),
            word if is(word, "numpat") => reply.int(self.listeners[Kind::Pattern as usize].len() as i64),
            word if is(word, "help") => text::help("PUBSUB", HELP, reply),
            _ => return Err(text::subcommand_syntax(args)),
        }
        Ok(())
    }

    /// How many channels and how many patterns somebody listens to, and how many shard channels, for INFO.
    pub fn totals(&self) -> [usize; 3] {
        [self.listeners[0].len(), self.listeners[1].len(), self.listeners[2].len()]
    }
}

const HELP: &[&str] = &[
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
];

fn write_names(listeners: &Listeners, pattern: Option<&&[u8]>, reply: &mut Reply) {
    let wanted = |name: &&Vec<u8>| pattern.is_none_or(|pattern| glob_matches(pattern, name));
    reply.array(listeners.keys().filter(wanted).count());
    listeners.keys().filter(wanted).for_each(|name| reply.bulk(name));
}

fn write_numbers(listeners: &Listeners, names: &[&[u8]], reply: &mut Reply) {
    reply.array(names.len() * 2);
    for name in names {
        reply.bulk(name);
        reply.int(listeners.get(*name).map_or(0, BTreeSet::len) as i64);
    }
}

fn write_confirmation(word: &[u8], name: Option<&[u8]>, count: usize, reply: &mut Reply) {
    reply.push(3);
    reply.bulk(word);
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.int(count as i64);
}

/// Writes a published message in the form for one client, whose protocol `reply` has.
pub fn write_message(kind: Kind, pattern: Option<&[u8]>, channel: &[u8], message: &[u8], reply: &mut Reply) {
    match (kind, pattern) {
        (Kind::Pattern, pattern) => {
            reply.push(4);
            reply.bulk(b"pmessage");
            reply.bulk(pattern.unwrap_or_default());
        }
        (Kind::Channel, _) => {
            reply.push(3);
            reply.bulk(b"message");
        }
        (Kind::Shard, _) => {
            reply.push(3);
            reply.bulk(b"smessage");
        }
    }
    reply.bulk(channel);
    reply.bulk(message);
}

#[cfg(test)]
mod tests {
    use base::Limits;
    use shard::reply::{Protocol, Reply};

    use super::{Kind, Registry, write_message};

    fn answer(protocol: Protocol, write: impl FnOnce(&mut Reply)) -> String {
        let mut reply = Reply::new(protocol);
        write(&mut reply);
        String::from_utf8(reply.bytes).expect("these tests use plain text").replace("\r\n", " ")
    }

    fn deliveries(registry: &Registry, channel: &str) -> Vec<(u64, Option<String>)> {
        let text = |pattern: &[u8]| String::from_utf8_lossy(pattern).into_owned();
        registry.publish(channel.as_bytes()).map(|to| (to.client, to.pattern.map(text))).collect()
    }

    fn registry(subscriptions_max: usize) -> Registry {
        Registry::new(Limits { subscriptions_max, ..Limits::DEFAULT })
    }

    #[test]
    fn confirmations_count_channels_and_patterns_together() {
        let mut registry = registry(10);
        let resp2 = answer(Protocol::Resp2, |reply| {
            registry.subscribe_command(Kind::Channel, 1, &[b"a", b"b", b"a"], reply);
            registry.subscribe_command(Kind::Pattern, 1, &[b"a*"], reply);
            registry.subscribe_command(Kind::Shard, 1, &[b"s"], reply);
        });
        assert_eq!(
            resp2,
            "*3 $9 subscribe $1 a :1 *3 $9 subscribe $1 b :2 *3 $9 subscribe $1 a :2 *3 $10 psubscribe $2 a* :3 \
             *3 $10 ssubscribe $1 s :1 "
        );
        let resp3 = answer(Protocol::Resp3, |reply| {
            registry.unsubscribe_command(Kind::Channel, 1, &[], reply);
            registry.unsubscribe_command(Kind::Channel, 1, &[], reply);
            registry.unsubscribe_command(Kind::Channel, 1, &[b"zz"], reply);
            registry.unsubscribe_command(Kind::Pattern, 1, &[b"a*"], reply);
        });
        assert_eq!(
            resp3,
            ">3 $11 unsubscribe $1 a :2 >3 $11 unsubscribe $1 b :1 >3 $11 unsubscribe _ :1 >3 $11 unsubscribe $2 zz :1 \
             >3 $12 punsubscribe $2 a* :0 "
        );
        assert!(registry.is_subscribed(1), "a shard channel is left");
        let resp2 = answer(Protocol::Resp2, |reply| {
            registry.unsubscribe_command(Kind::Shard, 1, &[], reply);
            registry.unsubscribe_command(Kind::Pattern, 1, &[], reply);
        });
        assert_eq!(resp2, "*3 $12 sunsubscribe $1 s :0 *3 $12 punsubscribe $-1 :0 ");
        assert!(!registry.is_subscribed(1) && registry.totals() == [0; 3]);
    }

    #[test]
    fn a_message_goes_to_the_channel_s_clients_and_then_to_each_pattern_s() {
        let mut registry = registry(10);
        for (kind, client, name) in [
            (Kind::Pattern, 7, "n*"),
            (Kind::Pattern, 2, "n*"),
            (Kind::Pattern, 2, "*s"),
            (Kind::Channel, 9, "news"),
            (Kind::Channel, 2, "news"),
            (Kind::Channel, 3, "other"),
            (Kind::Shard, 4, "news"),
        ] {
            registry.subscribe(kind, client, name.as_bytes()).expect("within the bound");
        }
        let pattern = |text: &str| Some(text.to_string());
        let to = vec![(2, None), (9, None), (2, pattern("*s")), (2, pattern("n*")), (7, pattern("n*"))];
        assert_eq!(deliveries(&registry, "news"), to);
        assert_eq!(deliveries(&registry, "nobody"), [(2, pattern("n*")), (7, pattern("n*"))]);
        assert_eq!(registry.publish_shard(b"news").map(|to| to.client).collect::<Vec<_>>(), [4]);
        registry.unsubscribe_all(2);
        registry.unsubscribe_all(2);
        assert_eq!(deliveries(&registry, "news"), [(9, None), (7, pattern("n*"))]);
        assert_eq!(registry.totals(), [2, 1, 1]);
    }

    #[test]
    fn messages_have_redis_s_shapes() {
        let written = |protocol, kind, pattern: Option<&[u8]>| {
            answer(protocol, |reply| write_message(kind, pattern, b"c", b"hi", reply))
        };
        assert_eq!(written(Protocol::Resp2, Kind::Channel, None), "*3 $7 message $1 c $2 hi ");
        assert_eq!(written(Protocol::Resp3, Kind::Channel, None), ">3 $7 message $1 c $2 hi ");
        assert_eq!(written(Protocol::Resp2, Kind::Pattern, Some(b"*")), "*4 $8 pmessage $1 * $1 c $2 hi ");
        assert_eq!(written(Protocol::Resp3, Kind::Shard, None), ">3 $8 smessage $1 c $2 hi ");
    }

    #[test]
    fn a_client_s_subscriptions_are_bounded() {
        let mut registry = registry(2);
        let text = answer(Protocol::Resp2, |reply| {
            registry.subscribe_command(Kind::Channel, 1, &[b"a", b"b", b"c", b"d"], reply);
        });
        assert!(text.ends_with(":2 -ERR max number of subscriptions of a client reached "), "{text}");
        assert_eq!(registry.subscribe(Kind::Channel, 1, b"b"), Ok(()));
        assert_eq!(registry.totals(), [2, 0, 0]);
    }

    #[test]
    fn pubsub_shows_who_is_listened_to() {
        let mut registry = registry(9);
        for (kind, client, name) in [
            (Kind::Channel, 1, "news"),
            (Kind::Channel, 2, "news"),
            (Kind::Channel, 2, "art"),
            (Kind::Pattern, 1, "x*"),
            (Kind::Pattern, 2, "x*"),
            (Kind::Shard, 1, "s1"),
        ] {
            registry.subscribe(kind, client, name.as_bytes()).expect("within the bound");
        }
        let pubsub = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            answer(Protocol::Resp2, |reply| {
                if let Err(error) = registry.pubsub_command(&args, reply) {
                    reply.error(&error.0);
                }
            })
        };
        assert_eq!(pubsub("PUBSUB CHANNELS"), "*2 $3 art $4 news ");
        assert_eq!(pubsub("pubsub channels n*"), "*1 $4 news ");
        assert_eq!(pubsub("PUBSUB NUMSUB"), "*0 ");
        assert_eq!(pubsub("PUBSUB NUMSUB news none"), "*4 $4 news :2 $4 none :0 ");
        assert_eq!(pubsub("PUBSUB NUMPAT"), ":1 ");
        assert_eq!(pubsub("PUBSUB SHARDCHANNELS"), "*1 $2 s1 ");
        assert_eq!(pubsub("PUBSUB SHARDNUMSUB s1"), "*2 $2 s1 :1 ");
        let error = "-ERR unknown subcommand or wrong number of arguments for 'channels'. Try PUBSUB HELP. ";
        assert_eq!(pubsub("pubsub channels a b"), error);
        assert!(pubsub("pubsub help").starts_with("*14 +PUBSUB <subcommand> "));
    }
}
