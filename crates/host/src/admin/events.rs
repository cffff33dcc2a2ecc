//! `/events`: the tape of commits as they happen and the status once a second, as server-sent events.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doors::admin::tape::{self, Client, Commit};
use serde_json::json;
use shard::driver::Applied;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Admin;

/// How often the tape is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Commits told at once; of more only the newest are told, and how many were passed over.
const COMMITS_MAX: usize = 20;
/// Commits told to somebody who has just come.
const WELCOME_COMMITS_MAX: usize = 60;

/// Tells a follower until it leaves or the door closes. `last` is the number of the last commit that it has seen.
pub(super) async fn tell(
    admin: Arc<Admin>,
    last: Option<u64>,
    sender: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
) {
    let mut stop = admin.stop.clone();
    let mut told = admin.told.subscribe();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    told.mark_changed();
    let (total, _) = admin.node.tape.after(u64::MAX);
    // A number from before a restart may lie ahead of this node's tape.
    let mut last = last.filter(|last| *last <= total).unwrap_or(0);
    let mut at_most = WELCOME_COMMITS_MAX;
    let mut piece = String::from("retry: 1000\n\n");
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = sender.closed() => return,
            _ = told.changed() => {
                let status = told.borrow_and_update().clone();
                if !status.is_empty() {
                    write!(piece, "event: status\ndata: {status}\n\n").expect("a string takes everything");
                }
            }
            _ = look.tick() => {
                let (total, commits) = admin.node.tape.after(last);
                if total > last {
                    let shown = commits.len().min(at_most);
                    let skipped = if at_most == COMMITS_MAX { total - last - shown as u64 } else { 0 };
                    let commits: Vec<Commit> =
                        commits[commits.len() - shown..].iter().map(|(number, applied)| commit(&admin, *number, applied)).collect();
                    let data = json!({ "total": total, "skipped": skipped, "commits": commits });
                    write!(piece, "id: {total}\nevent: commits\ndata: {data}\n\n").expect("a string takes everything");
                    last = total;
                }
                at_most = COMMITS_MAX;
            }
        }
        // A follower that reads slowly waits here, and is told of what it missed by number.
        if !piece.is_empty() && sender.send(Bytes::from(std::mem::take(&mut piece))).await.is_err() {
            return;
        }
    }
}

fn commit(admin: &Admin, number: u64, applied: &Applied) -> Commit {
    let clients = applied.clients.iter().map(|id| match admin.node.door.client(*id) {
        None => Client { id: *id, gone: true, ..Client::default() },
        Some(peer) => {
            let name = tape::printable(&peer.card.lock().name);
            Client { id: *id, address: peer.addr.clone(), name, gone: peer.is_closed() }
        }
    });
    Commit {
        number,
        group: applied.group.to_string(),
        index: applied.index,
        time_ms: applied.stamp,
        bytes: applied.bytes,
        requests: applied.requests,
        held: tape::read(&applied.data),
        clients: clients.collect(),
        more_clients: applied.more_clients,
    }
}
