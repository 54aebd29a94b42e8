//! Answers that are no events of a group: outcomes of a kind of their own, and what the user asked for.

use super::reads::Purpose;
use super::window::Outcome;
use super::{Ask, Core, SessionEvent};
use crate::ring::Millis;
use crate::wire::client::NodeDigest;

impl Core {
    /// An answer that is no event of a group: to a read mark, or to something said before under the same key.
    pub(super) fn on_outcome(&mut self, group: &str, n: u64, outcome: Outcome, now: Millis) {
        let Outcome::Ordered { repeated, .. } = outcome else {
            return;
        };
        let Some(pending) = self.window.unresolved(n) else {
            return;
        };
        let fits = match &pending.ask {
            Ask::MarkRead { .. } => !repeated,
            Ask::Say { key, .. } | Ask::Tell { key, .. } => repeated && key.is_some(),
            _ => false,
        };
        if fits && pending.ask.group() == group {
            self.resolve(n, outcome, now);
        }
    }

    /// The question of the user that has this one answer.
    pub(super) fn take_page(&mut self, reference: u64, asked: impl Fn(&Ask) -> bool) -> Option<(u64, Ask)> {
        match self.reads.get_mut(reference) {
            Some(Purpose::Page { ask, .. }) if asked(ask) => {}
            _ => return None,
        }
        match self.reads.take(reference)?.purpose {
            Purpose::Page { tag, ask } => Some((tag, ask)),
            _ => None,
        }
    }

    /// One node's answer; the question stays until all members have answered.
    pub(super) fn on_digest(&mut self, answer: NodeDigest, members: Vec<u16>, reference: u64) {
        let Some(Purpose::Digest {
            tag,
            ask,
            answered,
            named,
        }) = self.reads.get_mut(reference)
        else {
            return;
        };
        if !members.contains(&answer.node) {
            return;
        }
        let is_new = answered.insert(answer.node, answer.clone()).as_ref() != Some(&answer);
        named.extend(&members);
        let missing: Vec<u16> = members
            .iter()
            .filter(|id| !answered.contains_key(id))
            .copied()
            .collect();
        // Who has answered before may tell that the ring has left out whom the question was still waiting for.
        if !is_new && !missing.is_empty() {
            return;
        }
        let left_out = named
            .iter()
            .filter(|id| !members.contains(id) && !answered.contains_key(id));
        let left_out = left_out.copied().collect();
        let (tag, ask) = (*tag, ask.clone());
        if missing.is_empty() {
            self.reads.take(reference);
        }
        if let Ask::Digest { group, seq } = ask {
            self.tell(SessionEvent::Digest {
                tag,
                group,
                seq,
                answer,
                missing,
                left_out,
            });
        }
    }
}
