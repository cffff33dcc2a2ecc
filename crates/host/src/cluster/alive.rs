//! The nodes of the cluster as nodes of the registry: who is not heard of any more is critical there, who has left for good goes.
//!
//! Every node listens (so that whoever leads next knows how the others usually sound), the meta leader alone writes down what it hears.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::cluster::Cluster;
use ::cluster::detector::Detector;
use base::{GroupId, Instant, NodeId};
use discovery::change::{Change, Registered};
use discovery::model::Status;
use discovery::{Catalog, Outcome};
use doors::registry::Registry;
use tokio::sync::watch;

use super::Member;
use crate::clock;

/// How often the links are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often what was heard is held against the catalog.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Another node's word that it hears somebody holds for so long.
const WORD_HOLDS: Duration = Duration::from_secs(3);

/// The pair of a node's metadata that says which node of the cluster it is.
pub const NODE_KEY: &str = "quorate-node";
/// The check of a node that says whether it is there.
pub const ALIVE: &str = "serfHealth";
/// What it says then (Consul's words).
pub const ALIVE_OUTPUT: &str = "Agent alive and reachable";
const FAILED_OUTPUT: &str = "Agent not live or unreachable";

/// Listens, and writes down, until told to stop.
pub async fn watch(member: Arc<Member>, registry: Arc<Registry>, mut stop: watch::Receiver<bool>) {
    let mut detector = Detector::default();
    let mut told = Instant::default();
    loop {
        let now = clock::now();
        let cluster = member.cluster();
        if cluster.nodes().len() > 1 {
            let links = member.links();
            let heard = cluster.nodes().keys().filter(|node| **node != member.own).map(|node| {
                let link = links.iter().find(|link| link.node == node.0);
                (*node, link.and_then(|link| link.heard).map(|ago| now - ago))
            });
            detector.look(now, heard, &vouched(&member));
        }
        let leads =
            !cluster.is_empty() && member.status.lock().iter().any(|group| group.group == GroupId::META && group.leads);
        if leads && now.since(told) >= TELL_EVERY {
            told = now;
            let news = news(&registry.read(), &cluster, member.own, |node| detector.is_failed(node));
            for change in news {
                // One at a time: what is not taken is seen again at the next look.
                match registry.change(&change).await {
                    Ok(Outcome::Refused(_, why)) => eprintln!("quorate: the registry refuses a node's state: {why}"),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Nodes that another one said a moment ago that it hears.
fn vouched(member: &Member) -> BTreeSet<NodeId> {
    let now = clock::now();
    let reports = member.reports.lock();
    let fresh = reports.values().filter(|(at, _)| now.since(*at) < WORD_HOLDS);
    fresh.flat_map(|(_, report)| report.hears.iter().copied().map(NodeId)).collect()
}

/// What the catalog should hear of the cluster's nodes.
fn news(catalog: &Catalog, cluster: &Cluster, own: NodeId, is_failed: impl Fn(NodeId) -> bool) -> Vec<Change> {
    let mut found = Vec::new();
    let numbered = catalog.nodes().filter_map(|node| {
        let number = node.form.meta.get(NODE_KEY)?.parse().ok()?;
        Some((node.form.name.as_str(), NodeId(number)))
    });
    // Of a node that was given another name, the registration by the old one has the same number: both are as it is.
    for (name, node) in numbered {
        let Some(check) = catalog.check_on(name, ALIVE) else { continue };
        if !cluster.nodes().contains_key(&node) {
            found.push(Change::Deregister { node: name.to_owned(), what: Registered::Node });
            continue;
        }
        let (status, output) = match node != own && is_failed(node) {
            true => (Status::Critical, FAILED_OUTPUT),
            false => (Status::Passing, ALIVE_OUTPUT),
        };
        if check.form.status != status {
            let (node, check) = (name.to_owned(), ALIVE.to_owned());
            found.push(Change::CheckStatus { node, check, status, output: output.to_owned() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ::cluster::{Authority, Change as ClusterChange, Place, Roles};
    use base::ClusterId;
    use discovery::model::NodeForm;

    use super::*;
    use crate::checks;

    fn cluster(count: u64) -> Cluster {
        let mut cluster = Cluster::default();
        let place = |at: u64| Place {
            peer: format!("127.0.0.1:740{at}"),
            redis: String::new(),
            redis_cluster: String::new(),
            admin: String::new(),
            kafka: String::new(),
            etcd: String::new(),
            zone: String::new(),
            roles: Roles::ALL,
        };
        let authority = Authority { certificate: Vec::new(), token: [0; 32] };
        let key = |at: u64| [at as u8; 32];
        let found = ClusterChange::Found {
            id: ClusterId([7; 16]),
            authority,
            node: NodeId(1),
            key: key(1),
            place: place(1),
            groups: vec![GroupId(0), GroupId(1)],
        };
        cluster.apply(&found, 1, 0);
        for at in 2..=count {
            cluster.apply(&ClusterChange::Join { key: key(at), place: place(at) }, at, 0);
        }
        cluster
    }

    fn node(number: u64) -> Change {
        let meta = BTreeMap::from([(NODE_KEY.to_owned(), number.to_string())]);
        checks::register(&NodeForm {
            name: format!("node{number}"),
            address: "::1".into(),
            meta,
            ..NodeForm::default()
        })
    }

    #[test]
    fn nodes_fail_come_back_and_leave() {
        let mut catalog = Catalog::default();
        for number in 1..=4 {
            catalog.apply(&node(number), number);
        }
        // Registered by somebody else: none of ours.
        let foreign = NodeForm { name: "db".into(), address: "10.0.0.1".into(), ..NodeForm::default() };
        catalog.apply(&checks::register(&foreign), 5);
        let cluster = cluster(3);
        let look =
            |catalog: &Catalog, failed: &[u64]| news(catalog, &cluster, NodeId(1), |node| failed.contains(&node.0));
        let gone = look(&catalog, &[]);
        assert_eq!(gone, [Change::Deregister { node: "node4".into(), what: Registered::Node }]);
        gone.iter().for_each(|change| drop(catalog.apply(change, 6)));
        assert_eq!(look(&catalog, &[]), []);
        // Nobody judges himself.
        let failed = look(&catalog, &[1, 2]);
        assert_eq!(failed.len(), 1);
        failed.iter().for_each(|change| drop(catalog.apply(change, 7)));
        let status = |catalog: &Catalog| catalog.check_on("node2", ALIVE).map(|check| check.form.status);
        assert_eq!((status(&catalog), look(&catalog, &[2])), (Some(Status::Critical), vec![]));
        look(&catalog, &[]).iter().for_each(|change| drop(catalog.apply(change, 8)));
        assert_eq!((status(&catalog), look(&catalog, &[])), (Some(Status::Passing), vec![]));
    }
}
