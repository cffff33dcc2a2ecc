//! Whom the gateway believes, and who it is, towards upstreams that speak TLS: files, read again when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::gateway::Config;
use ::gateway::balance::Endpoint;
use ::gateway::model::UpstreamTls;
use proxy::{Trust, UpstreamAuth};

use super::files::{Stamp, read};
use crate::authorities;

/// What upstreams share that say the same: authorities, whether anybody is believed, own chain and key.
type Key = (String, bool, String, String);

fn key(tls: &UpstreamTls) -> Key {
    (tls.authorities.clone(), tls.insecure, tls.chain.clone(), tls.key.clone())
}

struct Known {
    auth: Arc<UpstreamAuth>,
    seen: Stamp,
    /// Why its files could not be read the last time; what was read before is used.
    wrong: Option<String>,
}

/// All that is known.
#[derive(Default)]
pub struct Auths {
    known: BTreeMap<Key, Known>,
    /// Upstreams with TLS.
    users: BTreeMap<String, Key>,
}

/// Upstreams, and what a person should know of their TLS.
pub type Told = Vec<(String, Option<String>)>;

impl Auths {
    /// Follows the configuration.
    pub fn follow(&mut self, config: &Config) -> Told {
        let upstreams = config.upstreams().iter();
        let users: BTreeMap<String, Key> =
            upstreams.filter_map(|(name, upstream)| Some((name.clone(), key(upstream.tls.as_ref()?)))).collect();
        let used: BTreeSet<&Key> = users.values().collect();
        self.known.retain(|key, _| used.contains(key));
        for key in used {
            self.known.entry(key.clone()).or_insert_with(|| {
                // Until its files can be read nobody is believed: no connection rather than an unprotected one.
                let (auth, seen) = (UpstreamAuth::nobody(), stamp(key));
                let wrong = load(&auth, key).err();
                Known { auth, seen, wrong }
            });
        }
        let gone: Told =
            self.users.keys().filter(|name| !users.contains_key(*name)).map(|name| (name.clone(), None)).collect();
        self.users = users;
        self.told().into_iter().chain(gone).collect()
    }

    /// Reads again what has changed; nothing where nothing has. Connections that stand go on.
    pub fn reload(&mut self) -> Option<Told> {
        let mut changed = false;
        for (key, known) in &mut self.known {
            let now = stamp(key);
            if now == known.seen && known.wrong.is_none() {
                continue;
            }
            known.seen = now;
            let wrong = load(&known.auth, key).err();
            changed |= wrong != known.wrong;
            known.wrong = wrong;
        }
        changed.then(|| self.told())
    }

    fn told(&self) -> Told {
        let tell = |(name, key): (&String, &Key)| {
            let wrong = self.known.get(key).and_then(|known| known.wrong.clone());
            let loose = key.1.then(|| {
                "tls.insecure = true: ANY certificate is believed, so whoever stands between can read and change everything; \
                 only for tests. Name the authority in tls.authorities instead"
                    .to_owned()
            });
            (name.clone(), wrong.or(loose))
        };
        self.users.iter().map(tell).collect()
    }

    /// How an endpoint is spoken to; an error where its host is no name that a certificate could have.
    pub fn of(&self, endpoint: &Endpoint, tls: &UpstreamTls) -> Result<proxy::UpstreamTls, String> {
        let auth = self.known.get(&key(tls)).map_or_else(UpstreamAuth::nobody, |known| known.auth.clone());
        let name = if tls.server_name.is_empty() { &*endpoint.host } else { tls.server_name.as_str() };
        proxy::UpstreamTls::of(name, auth).map_err(|error| error.to_string())
    }
}

fn stamp((named_by, _, chain, own_key): &Key) -> Stamp {
    let named = [named_by, chain, own_key].into_iter().map(String::as_str).filter(|path| !path.is_empty());
    // The system's list is looked at too: packages renew it.
    let system = if named_by.is_empty() { authorities::places() } else { Vec::new() };
    Stamp::of(named.chain(system.iter().map(String::as_str)))
}

fn load(auth: &UpstreamAuth, (named_by, insecure, chain, own_key): &Key) -> Result<(), String> {
    let own = if chain.is_empty() { None } else { Some((read(chain)?, read(own_key)?)) };
    let own = own.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice()));
    let done = match named_by.as_str() {
        _ if *insecure => auth.replace(Trust::Anybody, own),
        "" => {
            let (_, pem) = authorities::read().map_err(|why| format!("{why}, or tls.authorities to a PEM file"))?;
            auth.replace(Trust::System(&pem), own)
        }
        path => auth.replace(Trust::Authorities(&read(path)?), own),
    };
    let named = [named_by, chain, own_key].map(String::as_str);
    let named: Vec<&str> = named.into_iter().filter(|path| !path.is_empty()).collect();
    done.map_err(|error| format!("{}: {error}", named.join(", ")))
}
