//! Which node of which cluster this is: what the data directory says, or a cluster that is joined or founded now.

use std::path::Path;

use host::cluster::{Details, Welcome};
use host::peers::identity::{Identity, joining_key};
use host::peers::join;
use host::peers::token::Token;

use crate::config::Settings;
use crate::config::cluster::Bound;

/// Data shards of the cluster that was joined, until the directory says so itself.
const WELCOME: &str = "WELCOME";

/// Who this node is.
pub struct Who {
    /// Proof of it.
    pub identity: Identity,
    /// How many data shards its data directory has, or is to have.
    pub data_shards: usize,
    /// In words, what has just happened; empty if nothing has.
    pub told: String,
}

/// Reads or makes the node's identity.
///
/// # Errors
/// A sentence that says what to do.
pub async fn of(settings: &Settings, bound: Bound) -> Result<Who, String> {
    let directory = settings.data_dir.as_path();
    let (disk, _lock) = host::start::lock(directory)?;
    let identity = Identity::load(directory)?;
    let node = identity.as_ref().map_or(host::start::FIRST_NODE, |identity| identity.node);
    let stored = shard::open::known_shards(&disk)
        .map_err(|error| format!("{}: {error}. {}", directory.display(), host::start::go_on(node)))?;
    let wanted = settings.given.contains("data_shards").then_some(settings.data_shards);
    // A directory that was made with fewer than are wanted goes on with them; they are split while it serves.
    let shards = |of_cluster: Option<usize>| match (wanted, stored.or(of_cluster)) {
        (Some(wanted), Some(made)) => wanted.min(made),
        (wanted, made) => made.or(wanted).unwrap_or(settings.data_shards),
    };
    if let Some(identity) = identity {
        if identity.started && stored.is_none() {
            return Err(format!(
                "{} holds the IDENTITY of node {} and nothing else: the log of a node that has been up is gone, with SHARDS, and with it what the \
                 node has told others. {}",
                directory.display(),
                identity.node.0,
                host::start::go_on(identity.node)
            ));
        }
        return Ok(Who { identity, data_shards: shards(welcome(directory)), told: String::new() });
    }
    if directory.join(WELCOME).exists() && stored.is_some() {
        return Err(format!(
            "{} holds replicas of a cluster, and the file IDENTITY, which proves which node this is, is gone. Restore it from a backup; or join \
             as a new node with a new directory, and remove the old one (`quorate cluster remove N` on a member)",
            directory.display()
        ));
    }
    if settings.cluster.join.is_empty() {
        let identity = Identity::found()?;
        identity.store(directory)?;
        return Ok(Who { identity, data_shards: shards(None), told: String::new() });
    }
    if stored.is_some() {
        return Err(format!(
            "{} holds data of a node that was alone, and a node joins with nothing of its own. Set data_dir (--data) to a new directory, \
             or leave out --join to go on with that data",
            directory.display()
        ));
    }
    let member = settings.cluster.join.as_str();
    let Some(token) = &settings.cluster.token else {
        return Err(format!(
            "joining {member} needs the cluster's token. The first node prints it at its first start, `quorate cluster token` makes a new \
             one; pass it by --token, QUORATE_JOIN_TOKEN or cluster.token_file"
        ));
    };
    let token = Token::decode(token.reveal())?;
    let key = joining_key(directory)?;
    let details = Details::of(&settings.cluster.place(bound, &settings.kafka_advertise)).encode();
    let seeds = [member.to_owned()];
    let (identity, answer) =
        join::join(&token, &seeds, &key, details.into()).await.map_err(|error| error.to_string())?;
    let welcome = Welcome::decode(&answer)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted < welcome.data_shards) {
        return Err(format!(
            "the cluster has data_shards = {}, and {wanted} is set; leave it out: a node takes the cluster's",
            welcome.data_shards
        ));
    }
    std::fs::write(directory.join(WELCOME), format!("{}\n", welcome.data_shards))
        .map_err(|error| format!("{}: {error}", directory.join(WELCOME).display()))?;
    identity.store(directory)?;
    let told = format!("joined the cluster of {member} as node {}", identity.node.0);
    Ok(Who { identity, data_shards: welcome.data_shards, told })
}

fn welcome(directory: &Path) -> Option<usize> {
    std::fs::read_to_string(directory.join(WELCOME)).ok()?.trim().parse().ok()
}
