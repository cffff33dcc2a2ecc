//! What a leader does about a transaction whose door says nothing more: units out, answers in, like [`super::Coordinator`].

use std::collections::BTreeSet;

use base::GroupId;

use super::{Act, Answer, Due, Heard, Step, TxId};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Resolving,
    /// These have not answered yet; those have finished.
    Finishing(BTreeSet<GroupId>, Vec<GroupId>),
    Forgetting,
    Over,
}

/// One transaction, for the shard whose leader this is.
#[derive(Debug)]
pub struct Recovery {
    own: GroupId,
    tx: TxId,
    stage: Stage,
}

impl Recovery {
    /// Begins with what [`super::Commits::overdue`] has found in the state of `own`.
    pub fn begin(own: GroupId, due: Due, acts: &mut Vec<Act>) -> Recovery {
        match due {
            Due::Prepared { tx, deadline } => {
                let unit = Step::Resolve { tx, deadline, from: own }.bytes();
                acts.push(Act::Ask { group: tx.home, unit });
                Recovery { own, tx, stage: Stage::Resolving }
            }
            Due::Decided { tx, writes } => {
                let groups = writes.iter().map(|(group, _)| *group).collect();
                for (group, records) in &writes {
                    let unit = Step::Finish { tx, writes: Some(records) }.bytes();
                    acts.push(Act::Ask { group: *group, unit });
                }
                Recovery { own, tx, stage: Stage::Finishing(groups, Vec::new()) }
            }
        }
    }

    /// Which transaction.
    pub fn tx(&self) -> TxId {
        self.tx
    }

    /// For which shard.
    pub fn own(&self) -> GroupId {
        self.own
    }

    /// What came of the question to this group.
    pub fn heard(&mut self, group: GroupId, heard: Heard<'_>, acts: &mut Vec<Act>) {
        let answer = match heard {
            Heard::Answer(bytes) => Answer::read(bytes).ok(),
            Heard::Unknown => None,
        };
        match (&mut self.stage, answer) {
            (Stage::Resolving, Some(Answer::Committed { writes, .. })) => {
                let own = writes.into_iter().find(|(group, _)| *group == self.own);
                let records = own.map(|(_, records)| records).unwrap_or_default();
                let unit = Step::Finish { tx: self.tx, writes: Some(&records) }.bytes();
                acts.push(Act::Ask { group: self.own, unit });
                self.stage = Stage::Finishing([self.own].into(), Vec::new());
            }
            (Stage::Resolving, Some(Answer::Aborted)) => {
                let unit = Step::Finish { tx: self.tx, writes: None }.bytes();
                acts.push(Act::Ask { group: self.own, unit });
                self.stage = Stage::Forgetting;
            }
            (Stage::Finishing(waiting, done), answer) => {
                waiting.remove(&group);
                if answer == Some(Answer::Done) {
                    done.push(group);
                }
                if !waiting.is_empty() {
                    return;
                }
                if done.is_empty() {
                    self.stage = Stage::Over;
                    return acts.push(Act::Over);
                }
                let unit = Step::Forget { tx: self.tx, groups: std::mem::take(done) }.bytes();
                acts.push(Act::Ask { group: self.tx.home, unit });
                self.stage = Stage::Forgetting;
            }
            (Stage::Over, _) => {}
            // Whatever is left undone is found again.
            _ => {
                self.stage = Stage::Over;
                acts.push(Act::Over);
            }
        }
    }
}
