//! What a cluster is: its nodes, where the replicas of each group belong, and what to do next so that they stand there.
//!
//! ```text
//!   operator, joining node ─► Change ─► entry of the meta group ─► Cluster (the same on every node)
//!                                                │
//!      meta leader:   plan(cluster, sight) ──────┘  where replicas belong (Change::Assign)
//!      group leaders: reconcile(assignment, group) ─► one step of consensus towards it
//! ```
//!
//! [`Cluster`] is replicated state, changed only by entries of the meta group. [`plan`](plan::plan) decides where replicas and leads
//! belong, from that and from what the meta leader sees at the moment (who answers, what is how loaded); it writes its
//! decisions into the log, so every leader knows them. [`reconcile`](reconcile::step) is asked by the leader of one group and says the
//! one next step: add a learner, make voters of those that have caught up, hand the lead over.
//!
//! **Invariant:** pure: no clocks, no sockets. A plan moves no replica while the group has not arrived at the last plan, and
//! takes no replica away from a group that would lose its majority by it.

pub mod change;
pub mod detector;
mod form;
pub mod growth;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod slots;

pub use change::{Change, Outcome};
pub use model::{Assignment, Authority, Cluster, Node, NodeState, Place, Roles};
pub use slots::{Move, SlotMap};
