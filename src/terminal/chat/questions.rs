//! Questions, which wait for the outcomes of the messages before them, and their answers.

use super::{Chat, DIGESTS_MS, GROUPS_MAX, HISTORY_MAX};
use crate::client::{Ask, Exit, SessionEvent};
use crate::ring::Millis;
use crate::terminal::grammar::{Proof, Span};
use crate::terminal::query::{DAY_MAX, Found, Query, Step};
use crate::terminal::render;
use crate::terminal::text::{NORMAL, Styled};
use crate::terminal::view::{Answers, Comparison, Form};
use crate::wire::client::{Event, GroupSummary};

/// A question that waits for the outcomes of the messages before it.
pub(super) enum Question {
    Who(String),
    Groups,
    Past(Query),
    Verify { group: String, proof: Option<Proof> },
}

/// A question that was asked.
pub(super) enum Job {
    Who,
    /// Who is there, for completion: asked after a join, and not shown.
    Nicks,
    Groups(Vec<GroupSummary>),
    Past(Query),
    /// The lines before a join, and the number of that.
    Opening {
        query: Query,
        before: u64,
    },
    Verify(Verification),
}

pub(super) struct Verification {
    group: String,
    seq: u64,
    friend: Option<String>,
    own: Option<String>,
    answers: Answers,
    pub(super) until: Millis,
}

impl Job {
    /// Whether somebody typed it.
    pub(super) fn is_typed(&self) -> bool {
        !matches!(self, Job::Opening { .. } | Job::Nicks)
    }
}

impl Chat {
    pub(super) fn past(&mut self, group: &str, span: Span) -> Question {
        Question::Past(match span {
            Span::Last(count) => {
                if count > HISTORY_MAX {
                    self.view.notice(&format!(
                        "the newest {HISTORY_MAX}; `chaley history -n {count}` prints more"
                    ));
                }
                Query::last(group, count.min(HISTORY_MAX))
            }
            Span::Today => Query::day(group, self.clock.today(), DAY_MAX),
            Span::Day(day) => Query::day(group, day, DAY_MAX),
        })
    }

    /// What waited for the messages before it goes out. A person's question waits for none: while the ring is away it would
    /// hold up every line that is typed behind it.
    pub(super) async fn ask_what_waits(&mut self) {
        if self.pending > 0 && !self.is_for_people() {
            return;
        }
        let (ask, job) = match self.question.take() {
            None => return,
            Some(Question::Who(group)) => (Ask::Who { group }, Job::Who),
            Some(Question::Groups) => (groups_after(String::new()), Job::Groups(Vec::new())),
            Some(Question::Past(mut query)) => (query.start(), Job::Past(query)),
            Some(Question::Verify { group, proof }) => {
                let shown = self.view.position(&group).map(|(seq, digest)| (seq, digest.to_owned()));
                let Some(seq) = proof
                    .as_ref()
                    .map(|proof| proof.seq)
                    .or(shown.as_ref().map(|(seq, _)| *seq))
                else {
                    return self.refuse("nothing of the group was shown yet");
                };
                let own = shown.filter(|(at, _)| *at == seq).map(|(_, digest)| digest);
                let verification = Verification {
                    group: group.clone(),
                    seq,
                    friend: proof.map(|proof| proof.digest),
                    own,
                    answers: Answers::default(),
                    until: self.now() + DIGESTS_MS,
                };
                (Ask::Digest { group, seq }, Job::Verify(verification))
            }
        };
        let tag = self.ask(ask).await;
        self.jobs.insert(tag, job);
    }

    pub(super) async fn hear_answer(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Members { tag, group, members } => match self.jobs.remove(&tag) {
                Some(Job::Nicks) => self.view.know(&group, &members),
                Some(_) => self.view.members(&group, &members),
                None => {}
            },
            SessionEvent::Groups { tag, groups, more } => self.hear_groups(tag, groups, more).await,
            SessionEvent::History { tag, events, last, .. } => self.hear_history(tag, events, last).await,
            SessionEvent::Digest {
                tag,
                answer,
                missing,
                left_out,
                ..
            } => {
                let Some(Job::Verify(it)) = self.jobs.get_mut(&tag) else {
                    return;
                };
                if it.answers.take(answer, missing, left_out)
                    && let Some(Job::Verify(it)) = self.jobs.remove(&tag)
                {
                    self.judge(&it);
                }
            }
            _ => {}
        }
    }

    async fn hear_groups(&mut self, tag: u64, page: Vec<GroupSummary>, more: bool) {
        let Some(Job::Groups(mut groups)) = self.jobs.remove(&tag) else {
            return;
        };
        let last = page.last().map(|it| it.group.clone());
        groups.extend(page);
        if let Some(last) = last.filter(|_| more && groups.len() < GROUPS_MAX) {
            let tag = self.ask(groups_after(last)).await;
            self.jobs.insert(tag, Job::Groups(groups));
            return;
        }
        if groups.is_empty() {
            self.view
                .notice("there is no group yet; JOINGROUP <group> <user> makes one");
        }
        for it in &groups {
            let line = group_line(it, self.manner.form, self.groups.contains_key(&it.group));
            self.view.answer(line);
        }
        if more {
            self.view.notice("and more; `chaley groups` prints them all");
        }
    }

    async fn hear_history(&mut self, tag: u64, events: Vec<Event>, last: u64) {
        let now = self.now();
        let Some(mut job) = self.jobs.remove(&tag) else { return };
        let (Job::Past(query) | Job::Opening { query, .. }) = &mut job else {
            return;
        };
        match query.take(events, last, &self.clock) {
            Step::Ask(ask) => {
                let tag = self.ask(ask).await;
                self.jobs.insert(tag, job);
            }
            Step::Done(Found { events, note }) => {
                match &job {
                    Job::Opening { query, before } => self.view.opened(query.group(), &events, *before, now),
                    Job::Past(query) => self.view.show_past_apart(query.group(), &events, now),
                    _ => {}
                }
                if let Some(note) = note {
                    self.view.notice(&note);
                }
            }
        }
    }

    pub(super) fn judge(&mut self, it: &Verification) {
        let comparison = Comparison {
            group: &it.group,
            seq: it.seq,
            answers: &it.answers.told(),
            missing: &it.answers.missing(),
            own: it.own.as_deref(),
            friend: it.friend.as_deref(),
        };
        if !self.view.verdict(&comparison) {
            self.refused.get_or_insert(Exit::Failed);
        }
    }
}

fn groups_after(after: String) -> Ask {
    let limit = u32::try_from(GROUPS_MAX).unwrap_or(u32::MAX);
    Ask::Groups { after, limit }
}

/// A group in a list.
pub fn group_line(it: &GroupSummary, form: Form, joined: bool) -> Styled {
    if form == Form::Json {
        let line = serde_json::json!({"type": "group", "group": it.group, "members": it.members, "seq": it.seq});
        return Styled::new(NORMAL, line.to_string());
    }
    let members = match it.members {
        1 => "1 member".to_owned(),
        count => format!("{count} members"),
    };
    let joined = if joined { ", you too" } else { "" };
    let text = format!("group {}: {members}{joined}, {} events", it.group, it.seq);
    match form {
        Form::Plain => Styled::new(NORMAL, format!("notice: {text}")),
        _ => render::notice(&text),
    }
}
