//! A nick that is taken: perhaps by a former chat of the same user that was killed, which the ring gives up after
//! `chat.away_grace_ms`. So long the join is tried again by itself, and what is said waits for it.

use super::paste::Waiting;
use super::{Chat, Phase};
use crate::ring::Millis;
use crate::terminal::sanitize::harmless;

/// So long a join is tried again, counted from the first refusal.
const PATIENCE_MS: Millis = 40_000;
/// How often.
const AGAIN_MS: Millis = 2000;

/// A join that was refused because the nick is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patience {
    group: String,
    user: String,
    until: Millis,
    /// When it is tried again; none while it is under way.
    again_at: Option<Millis>,
}

impl Patience {
    fn new(group: &str, user: &str, now: Millis) -> Patience {
        Patience {
            group: group.to_owned(),
            user: user.to_owned(),
            until: now + PATIENCE_MS,
            again_at: Some(now + AGAIN_MS),
        }
    }

    /// Refused once more. Returns whether it is tried again.
    fn refused(&mut self, now: Millis) -> bool {
        self.again_at = Some(now + AGAIN_MS).filter(|at| *at <= self.until);
        self.again_at.is_some()
    }

    /// Whether it is to be tried now; then it is under way.
    fn is_due(&mut self, now: Millis) -> bool {
        self.again_at.take_if(|at| now >= *at).is_some()
    }

    /// A try that is under way is the last one.
    fn give_up(&mut self) {
        self.until = 0;
    }

    fn is_given_up(&self) -> bool {
        self.until == 0
    }

    fn is_for(&self, group: &str, user: &str) -> bool {
        self.group == group && self.user == user
    }
}

impl Chat {
    /// The ring refused a join for its nick. Returns whether it is tried again.
    pub(super) fn is_patient(&mut self, group: &str, user: &str, now: Millis) -> bool {
        match self.patience.as_mut().filter(|it| it.is_for(group, user)) {
            Some(patience) => patience.refused(now),
            None => {
                self.patience = Some(Patience::new(group, user, now));
                let (user, seconds) = (harmless(user), PATIENCE_MS / 1000);
                self.view.notice(&format!(
                    "the nick {user} is taken in group {group}, perhaps by a former chat of yours that died; trying again for \
                     {seconds} s, Ctrl-C or another JOINGROUP ends that"
                ));
                true
            }
        }
    }

    /// When the join is tried again.
    pub(super) fn nick_due(&self) -> Option<Millis> {
        self.patience.as_ref()?.again_at
    }

    pub(super) async fn try_nick(&mut self, now: Millis) {
        if let Some(patience) = self.patience.as_mut().filter(|it| it.again_at.is_some())
            && patience.is_due(now)
        {
            let (group, user) = (patience.group.clone(), patience.user.clone());
            self.enter(group, user).await;
        }
    }

    /// Whether lines wait for such a join. Who is in another group goes on talking there.
    pub(super) fn waits_for_nick(&self) -> bool {
        self.groups.is_empty() && self.nick_due().is_some()
    }

    /// There is another join: one for the same nick goes on trying, any other ends that.
    pub(super) fn joins_instead(&mut self, group: &str, user: &str) {
        match &mut self.patience {
            Some(patience) if patience.is_for(group, user) => patience.again_at = None,
            Some(_) => self.end_patience(),
            None => {}
        }
    }

    /// The join came through. Returns whether it was waited for.
    pub(super) fn has_joined(&mut self, group: &str) -> bool {
        self.patience.take_if(|it| it.group == group).is_some()
    }

    /// The ring refused the join for good.
    pub(super) fn cannot_join(&mut self, group: &str) {
        if self.patience.as_ref().is_some_and(|it| it.group == group) {
            self.end_patience();
        }
    }

    /// The user does not want to wait any longer. A try that is under way may still come through, but it is the last one.
    pub(super) fn cancel_patience(&mut self) {
        let mut under_way = self.patience.take_if(|it| it.again_at.is_none());
        under_way.iter_mut().for_each(Patience::give_up);
        self.end_patience();
        self.patience = under_way;
    }

    /// Whether a join is being tried that the user has not given up: then Ctrl-C gives it up, and ends nothing else.
    pub(super) fn is_trying(&self) -> bool {
        self.patience.as_ref().is_some_and(|it| !it.is_given_up())
    }

    /// The join is not tried any more. What was to be said there goes nowhere else.
    pub(super) fn end_patience(&mut self) {
        self.patience = None;
        if self.groups.values().all(|group| group.phase == Phase::Joining) {
            let (said, others): (Vec<Waiting>, Vec<Waiting>) = self.lines.drain(..).partition(Waiting::is_said);
            self.lines.extend(others);
            let said: Vec<String> = said.iter().map(Waiting::typed).collect();
            self.tell_not_sent(&said);
            if self.end.is_some() {
                self.not_kept += said.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_is_tried_every_two_seconds_for_forty() {
        let mut patience = Patience::new("1", "bob", 100);
        let (mut now, mut tries) = (100, 0);
        loop {
            assert!(!patience.is_due(now + AGAIN_MS - 1));
            now += AGAIN_MS;
            assert!(patience.is_due(now));
            assert!(!patience.is_due(now + PATIENCE_MS), "it is under way");
            tries += 1;
            if !patience.refused(now) {
                break;
            }
        }
        assert_eq!((tries, now), (20, 100 + PATIENCE_MS));
        assert!(!patience.is_given_up());
        let mut patience = Patience::new("1", "bob", 100);
        assert!(patience.is_due(100 + AGAIN_MS));
        patience.give_up();
        assert!(
            patience.is_given_up() && !patience.refused(200 + AGAIN_MS),
            "the last one"
        );
        assert!(patience.is_for("1", "bob") && !patience.is_for("2", "bob") && !patience.is_for("1", "eve"));
    }
}
