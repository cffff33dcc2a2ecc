//! Runs this node's health checks and proposes what has changed. When each runs and what its result means is
//! [`discovery::check`]'s word; how one is made is in `probe`.

use std::sync::Arc;
use std::time::Duration;

use discovery::change::Change;
use discovery::check::{Action, Runner};
use discovery::model::{CheckForm, NodeForm, Status};
use doors::registry::Registry;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::cluster::alive::{ALIVE, ALIVE_OUTPUT};

mod grpc;
mod probe;
mod tls;

/// How long it waits before it registers this node again where somebody took it away.
const REGISTER_AGAIN: Duration = Duration::from_secs(5);

/// What makes the checks of one node.
pub struct Checks {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The checks. Locked after the catalog.
    pub runner: Arc<Mutex<Runner>>,
    /// This node, as it registers itself.
    pub node: NodeForm,
    /// Rings when a run has ended.
    pub ended: Arc<Notify>,
}

impl Checks {
    /// Registers this node, then makes its checks until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut registered = None::<tokio::time::Instant>;
        loop {
            let now = clock::now();
            let (index, is_registered, actions) = {
                let catalog = self.registry.read();
                let mut runner = self.runner.lock();
                runner.sync(&catalog, now);
                let own = catalog.node(&self.node.name).is_some_and(|node| node.form == self.node);
                let alive = catalog.check_on(&self.node.name, ALIVE).is_some();
                (catalog.index(), own && alive, runner.next(now))
            };
            for action in actions {
                self.obey(action);
            }
            let mut again = None;
            if !is_registered {
                let is_due = registered.is_none_or(|at| at.elapsed() >= REGISTER_AGAIN);
                if is_due {
                    registered = Some(tokio::time::Instant::now());
                    self.propose(register(&self.node));
                }
                again = registered.map(|at| at + REGISTER_AGAIN);
            }
            let deadline = self.runner.lock().deadline().map(|at| at.since(clock::now()));
            let deadline = deadline.map(|span| tokio::time::Instant::now() + span);
            let wake = [deadline, again].into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = self.registry.changed(index) => {}
                () = self.ended.notified() => {}
                () = sleep => {}
            }
        }
    }

    fn obey(&self, action: Action) {
        match action {
            Action::Propose(change) => self.propose(change),
            Action::Run { check, run, probe, timeout, output_bytes_max } => {
                let (runner, ended) = (self.runner.clone(), self.ended.clone());
                tokio::spawn(async move {
                    let made = tokio::time::timeout(timeout, probe::make(&probe, output_bytes_max)).await;
                    let (status, output) = made.unwrap_or_else(|_| {
                        (Status::Critical, format!("{}: no answer within {timeout:?}", probe::subject(&probe)))
                    });
                    runner.lock().finished(&check, run, status, output, clock::now());
                    ended.notify_one();
                });
            }
        }
    }

    /// What comes of it shows in the catalog; what is refused is proposed again.
    fn propose(&self, change: Change) {
        let changing = self.registry.change(&change);
        tokio::spawn(async move {
            let _ = changing.await;
        });
    }
}

/// The registration of a node by itself.
pub fn register(node: &NodeForm) -> Change {
    let alive = CheckForm {
        id: ALIVE.into(),
        name: "Serf Health Status".into(),
        status: Status::Passing,
        output: ALIVE_OUTPUT.into(),
        ..CheckForm::default()
    };
    Change::Register { node: node.clone(), keep_node: false, service: None, checks: vec![alive], replace_checks: false }
}
