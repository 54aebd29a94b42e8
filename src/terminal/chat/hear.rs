//! What the session tells.

use std::collections::VecDeque;

use super::super::pace::Held;
use super::questions::Job;
use super::{CATCH_UP_MAX, Chat, End, Phase};
use crate::chat::ErrorCode;
use crate::client::{Ask, Failure, SessionEvent, Update};
use crate::ring::Millis;
use crate::terminal::grammar;
use crate::terminal::outbox::Unsent;
use crate::terminal::query::Query;
use crate::terminal::{ended, exit_of, refusal, sanitize, shorten, uncertain};
use crate::wire::client::Event;

impl Chat {
    pub(super) async fn hear(&mut self, update: Update) -> Result<(), Failure> {
        match update {
            Update::Failed(failure) => Err(failure),
            Update::Online => Ok(()),
            Update::Event(event) => {
                self.hear_event(*event).await;
                Ok(())
            }
        }
    }

    pub(super) async fn hear_event(&mut self, event: SessionEvent) {
        let now = self.now();
        match event {
            SessionEvent::Deliver { ref event, own: true } if matches!(event, Event::Joined(_)) => {
                self.hear_own_join(event, now).await;
            }
            SessionEvent::Deliver {
                event: Event::Left(ref it),
                own: true,
            } => {
                let (group, is_lost) = (it.group.clone(), it.reason.as_deref() == Some("lost"));
                self.view.hear(&event, now);
                // With one who is lost the session ends, which tells the outcomes first.
                if !is_lost {
                    self.leave_goes_on(&group, true, now);
                }
            }
            SessionEvent::Acknowledged {
                tag,
                ask,
                seq,
                repeated,
            } => self.hear_acknowledged(tag, ask, seq, repeated).await,
            SessionEvent::Refused { .. } => self.hear_refused(event),
            SessionEvent::Recent { .. }
            | SessionEvent::History { .. }
            | SessionEvent::Members { .. }
            | SessionEvent::Groups { .. }
            | SessionEvent::Digest { .. } => self.hear_answer(event).await,
            SessionEvent::Removed { group } => {
                self.forget(&group, now);
                self.view.trouble(&format!(
                    "you are no longer in group {group}; JOINGROUP {group} <user> joins again"
                ));
            }
            SessionEvent::Ended { message, groups, .. } => self.hear_ended(&message, &groups, now),
            SessionEvent::Trouble { message, .. } => {
                let text = format!("the ring says: {}", sanitize::harmless(&message));
                self.view.trouble(&text);
            }
            SessionEvent::LastRead { ref group, seq } => {
                if let Some(it) = self.groups.get_mut(group) {
                    it.marked = seq;
                }
                self.view.hear(&event, now);
            }
            SessionEvent::Deliver { .. }
            | SessionEvent::Interrupted { .. }
            | SessionEvent::View { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Missing { .. } => self.view.hear(&event, now),
        }
    }

    /// The own join has its number: the group's last lines are asked for, and shown before it.
    async fn hear_own_join(&mut self, event: &Event, now: Millis) {
        let Event::Joined(it) = event else { return };
        let (group, before) = (it.group.clone(), it.seq);
        let read = self.view.read(&group).unwrap_or(before);
        let wanted = match self.manner.history {
            0 => 0,
            history => history
                .max((before - 1).saturating_sub(read).min(CATCH_UP_MAX))
                .min(before - 1),
        };
        if wanted > 0 {
            self.view.open(&group, now);
        }
        let (event, own) = (event.clone(), true);
        self.view.hear(&SessionEvent::Deliver { event, own }, now);
        if self.is_for_people() {
            let group = group.clone();
            let tag = self.ask(Ask::Who { group }).await;
            self.jobs.insert(tag, Job::Nicks);
        }
        if wanted > 0 {
            let mut query = Query::between(&group, before - 1 - wanted, before);
            let tag = self.ask(query.start()).await;
            self.jobs.insert(tag, Job::Opening { query, before });
        }
    }

    async fn hear_acknowledged(&mut self, tag: u64, ask: Ask, seq: u64, repeated: bool) {
        match ask {
            Ask::Join { group, .. } => {
                if let Some(it) = self.groups.get_mut(&group) {
                    it.phase = Phase::In;
                }
                match self.has_joined(&group) && self.present.is_some() {
                    // Nobody is turned to another group in the middle of a line.
                    true => self.view.notice(&format!(
                        "you are in group {group} now, too; /switch {group} goes there"
                    )),
                    false => self.turn_to(Some(group.clone())),
                }
                self.send_what_was_left(&group).await;
            }
            Ask::Say { group, key, text, .. } | Ask::Tell { group, key, text, .. } => {
                self.settle(tag, &group, key.as_deref());
                if repeated && self.is_for_people() {
                    let text = sanitize::harmless(&shorten(&text)).into_owned();
                    self.view
                        .notice(&format!("that line was there already, as number {seq}: {text}"));
                }
            }
            Ask::Leave { group } => self.leave_goes_on(&group, false, self.now()),
            Ask::MarkRead { group, seq: asked } => {
                if let Some(it) = self.groups.get_mut(&group) {
                    it.marked = it.marked.max(asked);
                }
            }
            _ => {}
        }
    }

    /// A group that is being left: its end was `heard`, or the ring acknowledged the leave.
    fn leave_goes_on(&mut self, group: &str, heard: bool, now: Millis) {
        if let Some(it) = self.groups.get_mut(group)
            && let Phase::Leaving {
                is_heard,
                is_acknowledged,
            } = &mut it.phase
        {
            *is_heard |= heard;
            *is_acknowledged |= !heard;
            if !(*is_heard && *is_acknowledged) {
                return;
            }
        }
        self.forget(group, now);
    }

    /// Lines that an earlier life of this program could not see through. A private one is only shown: by now its nick may
    /// be somebody else's.
    async fn send_what_was_left(&mut self, group: &str) {
        let outbox = self.groups.get(group).and_then(|it| it.outbox.as_ref());
        let left = outbox.map(|outbox| outbox.waiting().to_vec()).unwrap_or_default();
        let (private, left): (Vec<Unsent>, Vec<Unsent>) = left.into_iter().partition(|unsent| unsent.to.is_some());
        for unsent in private {
            let typed = grammar::typed(unsent.to.as_deref(), &unsent.text);
            self.view.trouble(&format!(
                "perhaps not sent before: {}; the arrow keys bring it back, if the nick is still whom you mean",
                sanitize::harmless(&shorten(&typed))
            ));
            self.screen.record(&typed);
            self.is_done(group, &unsent.key);
        }
        match left.len() {
            0 => return,
            1 => self
                .view
                .notice("a line of yours from before had no number; it is sent again, and counts once"),
            count => self.view.notice(&format!(
                "{count} lines of yours from before had no numbers; they are sent again, and count once"
            )),
        }
        for unsent in left {
            self.send_new(group, None, unsent.text, Some(unsent.key)).await;
        }
    }

    /// A line has its outcome.
    pub(super) fn settle(&mut self, tag: u64, group: &str, key: Option<&str>) {
        self.pending = self.pending.saturating_sub(1);
        self.pace.settled(tag);
        self.view.settled(tag, self.now());
        if let Some(key) = key {
            self.is_done(group, key);
        }
    }

    /// The outbox need not keep a line any longer.
    fn is_done(&mut self, group: &str, key: &str) {
        let outbox = self.groups.get_mut(group).and_then(|it| it.outbox.as_mut());
        if let Some(outbox) = outbox
            && let Err(error) = outbox.done(key)
        {
            self.view
                .trouble(&format!("the file of unsent lines cannot be written: {error}"));
        }
    }

    fn hear_refused(&mut self, event: SessionEvent) {
        let SessionEvent::Refused {
            tag,
            ask,
            code,
            message,
            perhaps_ordered,
        } = event
        else {
            return;
        };
        let now = self.now();
        match self.jobs.remove(&tag) {
            Some(Job::Opening { query, before }) => return self.view.opened(query.group(), &[], before, now),
            Some(Job::Nicks) => return,
            _ => {}
        }
        match &ask {
            Ask::Say { .. } if code == Some(ErrorCode::TooFast) && self.is_for_people() => {
                self.view.held(tag);
                if self.pace.hold(Held { tag, ask }, now) {
                    self.view.notice(
                        "you say more than this ring takes of one client; your lines wait and follow by themselves",
                    );
                }
                return;
            }
            Ask::Join { group, user } => {
                let (group, user) = (group.clone(), user.clone());
                self.forget(&group, now);
                let is_taken = code == Some(ErrorCode::NickTaken) && self.is_for_people() && self.end.is_none();
                if is_taken && self.is_patient(&group, &user, now) {
                    return;
                }
                self.cannot_join(&group);
            }
            Ask::Leave { group } => {
                let group = group.clone();
                self.forget(&group, now);
            }
            Ask::Say {
                group, key: Some(_), ..
            } if perhaps_ordered => {
                // It stays in the outbox: its key makes the next sending harmless.
                let group = group.clone();
                self.pending = self.pending.saturating_sub(1);
                self.pace.settled(tag);
                self.view.settled(tag, self.now());
                self.view.trouble(&format!(
                    "a line is kept; it is sent, and counts once, when you join group {group} again"
                ));
                return;
            }
            Ask::Say { group, key, text, .. } | Ask::Tell { group, key, text, .. } => {
                // A line of a paste was never typed; now it can be brought back, too.
                let to = match &ask {
                    Ask::Tell { to, .. } => Some(to.as_str()),
                    _ => None,
                };
                self.screen.record(&grammar::typed(to, text));
                let (group, key) = (group.clone(), key.clone());
                self.settle(tag, &group, key.as_deref());
            }
            // The next mark says the same and more.
            Ask::MarkRead { .. } => return,
            _ => {}
        }
        self.refused.get_or_insert(exit_of(code));
        let text = match &ask {
            Ask::Say { text, .. } | Ask::Tell { text, .. } if perhaps_ordered => uncertain(text, &message, true),
            _ => refusal(&ask, code, &message, true),
        };
        self.view.trouble(&text);
    }

    fn hear_ended(&mut self, message: &str, groups: &[String], now: Millis) {
        let again = groups.first().map(|group| {
            let last = self.last.as_ref().filter(|(it, _)| it == group).map(|(_, user)| user);
            let user = self.groups.get(group).map(|it| &it.user).or(last);
            let user = user.map_or("<user>", String::as_str);
            format!("JOINGROUP {group} {}", sanitize::harmless(user))
        });
        let known: Vec<String> = self.groups.keys().cloned().collect();
        known.iter().for_each(|group| self.forget(group, now));
        // In no group nothing is lost with a session: the next JOINGROUP begins another one.
        let Some(again) = again else { return };
        self.view.ended();
        self.view.trouble(&format!("{}; {again} joins anew", ended(message)));
    }

    /// Lines that came too fast, and whose group is gone.
    fn let_go(&mut self, group: &str, held: VecDeque<Held>, is_kept: bool) {
        for it in &held {
            self.pending = self.pending.saturating_sub(1);
            self.view.settled(it.tag, self.now());
            if let (false, Ask::Say { text, .. }) = (is_kept, &it.ask) {
                self.view
                    .trouble(&format!("not sent: {}", sanitize::harmless(&shorten(text))));
                self.screen.record(&grammar::typed(None, text));
            }
        }
        if is_kept && !held.is_empty() {
            self.view.trouble(&format!(
                "lines that were not sent: {}; they are kept, and sent when you join group {group} again",
                held.len()
            ));
        }
    }

    /// The session is no longer in a group.
    pub(super) fn forget(&mut self, group: &str, now: Millis) {
        let outbox = self.groups.remove(group).and_then(|it| it.outbox);
        let held = self.pace.forget(group);
        match self.end {
            // Nothing more is sent: what has no number is told at the end.
            Some(End::Now) => self.kept += outbox.map_or(0, |outbox| outbox.public().count()),
            _ => self.let_go(group, held, outbox.is_some()),
        }
        self.view.gone(group, now);
        if self.present.as_deref() == Some(group) {
            let other = self.groups.keys().next().cloned();
            self.present = None;
            if other.is_some() {
                self.turn_to(other);
            }
        }
    }
}
