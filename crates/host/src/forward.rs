//! The links under [`doors::resp::forward`]: its frames out and in, and its clock.

use std::sync::Arc;
use std::time::Duration;

use base::NodeId;
use bytes::Bytes;
use doors::registry::Reads;
use doors::resp::door::Door;
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::cluster::Forwarded;

/// How often what waits for a leader or a link is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Gives a door what comes over the links.
pub struct Forwards(Arc<Door>);

impl Forwards {
    /// For this door and the registry's reads, whose time it keeps from now on.
    pub fn new(door: Arc<Door>, reads: Arc<Reads>) -> Forwards {
        tokio::spawn(tick(door.clone(), reads));
        Forwards(door)
    }
}

impl Forwarded for Forwards {
    fn take(&self, from: NodeId, bytes: Bytes) {
        self.0.forwarded(from, &bytes);
    }
    fn link(&self, node: NodeId, up: bool) {
        self.0.linked(node, up);
    }
}

async fn tick(door: Arc<Door>, reads: Arc<Reads>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        door.forward_tick();
        reads.tick(clock::now());
    }
}
