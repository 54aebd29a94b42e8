//! What a line does. Questions are put down, to be asked when it is their turn.

use super::paste::Waiting;
use super::questions::Question;
use super::{Chat, End, Group, Phase};
use crate::client::Ask;
use crate::terminal::grammar::{self, Line};
use crate::terminal::outbox::Outbox;
use crate::terminal::pace::Held;
use crate::terminal::query::Query;

impl Chat {
    pub(super) async fn take_line(&mut self, line: Waiting) {
        match line.parse() {
            Ok(parsed) => self.obey(parsed).await,
            Err(advice) => self.refuse(&advice),
        }
    }

    async fn obey(&mut self, line: Line) {
        match line {
            Line::Empty => {}
            Line::Help => self.view.text(&grammar::help()),
            Line::Quit => self.end = Some(if self.is_for_people() { End::Now } else { End::Input }),
            Line::Status => self.view.status(),
            Line::Join { group, user } => self.join(group, user).await,
            Line::Leave { group } => {
                if let Some(group) = self.group_or_present(group) {
                    self.leave(&group).await;
                }
            }
            Line::Switch { group } => self.switch(group),
            Line::Say(text) => {
                if let Some(group) = self.group_or_present(None) {
                    self.say(&group, None, text).await;
                }
            }
            Line::Tell { to, text } => {
                if let Some(group) = self.group_or_present(None) {
                    self.say(&group, Some(to), text).await;
                }
            }
            Line::Groups => self.question = Some(Question::Groups),
            Line::Who { group } => {
                self.question = match group {
                    Some(group) => Some(Question::Who(group)),
                    None => self.group_or_present(None).map(Question::Who),
                };
            }
            Line::History(span) => {
                self.question = self.group_or_present(None).map(|group| self.past(&group, span));
            }
            Line::Search(text) => {
                self.question = self
                    .group_or_present(None)
                    .map(|group| Question::Past(Query::search(&group, &text)));
            }
            Line::Verify(proof) => {
                self.question = self
                    .group_or_present(None)
                    .map(|group| Question::Verify { group, proof });
            }
        }
    }

    /// The group that is meant; if the session is not in it, that is said.
    fn group_or_present(&mut self, group: Option<String>) -> Option<String> {
        match group.or_else(|| self.present.clone()) {
            Some(group) if self.groups.contains_key(&group) => Some(group),
            Some(group) => {
                self.refuse(&format!(
                    "you are not in group {group}; JOINGROUP {group} <user> joins it"
                ));
                None
            }
            None => {
                let group = self.last.as_ref().map_or("<group>", |(group, _)| group).to_owned();
                self.refuse(&format!("you are in no group; JOINGROUP {group} <user> joins one"));
                None
            }
        }
    }

    async fn join(&mut self, group: String, user: Option<String>) {
        if let Some(known) = self.groups.get(&group) {
            let nick = known.user.clone();
            match user {
                Some(user) if user != nick => {
                    self.refuse(&format!("you are in group {group} as {nick}; /leave {group} leaves it"));
                }
                _ if self.present.as_ref() == Some(&group) && self.is_for_people() => {
                    self.view.notice(&format!("you are in group {group} as {nick} already"));
                }
                _ => self.turn_to(Some(group)),
            }
            return;
        }
        let Some(user) = user.or_else(|| self.last.as_ref().map(|(_, user)| user.clone())) else {
            return self.refuse(&format!("as whom? /join {group} <user>"));
        };
        self.last = Some((group.clone(), user.clone()));
        self.joins_instead(&group, &user);
        self.enter(group, user).await;
    }

    /// Asks the ring to let a user in.
    pub(super) async fn enter(&mut self, group: String, user: String) {
        self.view.joining(&group, &user);
        let outbox = self.open_outbox(&group, &user);
        let entry = Group {
            phase: Phase::Joining,
            user: user.clone(),
            outbox,
            marked: 0,
        };
        self.groups.insert(group.clone(), entry);
        self.ask(Ask::Join { group, user }).await;
    }

    /// Lines of a person survive the program; scripts have exit codes.
    fn open_outbox(&mut self, group: &str, user: &str) -> Option<Outbox> {
        let directory = self.manner.keep.as_ref().filter(|_| self.is_for_people())?;
        match Outbox::open(directory, group, user) {
            Ok(outbox) => Some(outbox),
            // The same nick at another prompt: the ring will refuse one of the two.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => {
                let place = directory.display();
                self.view
                    .trouble(&format!("unsent lines will not survive this program: {place}: {error}"));
                None
            }
        }
    }

    pub(super) async fn leave(&mut self, group: &str) {
        self.mark_group(group).await;
        if let Some(it) = self.groups.get_mut(group) {
            it.phase = Phase::Leaving {
                is_heard: false,
                is_acknowledged: false,
            };
            let group = group.to_owned();
            self.ask(Ask::Leave { group }).await;
        }
    }

    fn switch(&mut self, group: Option<String>) {
        let next = group.or_else(|| {
            let present = self.present.clone().unwrap_or_default();
            let after = self
                .groups
                .range::<String, _>((std::ops::Bound::Excluded(present), std::ops::Bound::Unbounded));
            after.chain(&self.groups).next().map(|(group, _)| group.clone())
        });
        if let Some(group) = self.group_or_present(next) {
            self.turn_to(Some(group));
        }
    }

    /// Lines go there from now on.
    pub(super) fn turn_to(&mut self, group: Option<String>) {
        if self.present != group
            && self.groups.len() > 1
            && self.is_for_people()
            && let Some(group) = &group
        {
            self.view.notice(&format!("you type into group {group} now"));
        }
        self.view.switch(group.as_deref());
        self.present = group;
    }

    /// Sends a text to everybody, or to one.
    async fn say(&mut self, group: &str, to: Option<String>, text: String) {
        let outbox = self.groups.get_mut(group).and_then(|it| it.outbox.as_mut());
        let key = match outbox.map(|outbox| outbox.add(to.as_deref(), &text)) {
            None => None,
            Some(Ok(key)) => Some(key),
            Some(Err(error)) => {
                self.view
                    .trouble(&format!("this line will not survive this program: {error}"));
                None
            }
        };
        self.send_new(group, to, text, key).await;
    }

    pub(super) async fn send_new(&mut self, group: &str, to: Option<String>, text: String, key: Option<String>) {
        let tag = self.send(group, to.clone(), text.clone(), key).await;
        let now = self.now();
        self.view.under_way(tag, group, to.as_deref(), &text, now);
    }

    /// A line that came too fast goes again, under its key.
    pub(super) async fn send_again(&mut self, held: Held) {
        let Ask::Say { group, text, key } = held.ask else {
            return;
        };
        self.pending = self.pending.saturating_sub(1);
        let tag = self.send(&group, None, text, key).await;
        self.view.sent_again(held.tag, tag, self.now());
        self.pace.sent(tag);
    }

    async fn send(&mut self, group: &str, to: Option<String>, text: String, key: Option<String>) -> u64 {
        self.pending += 1;
        let group = group.to_owned();
        let ask = match to {
            None => Ask::Say { group, text, key },
            Some(to) => Ask::Tell { group, to, text, key },
        };
        self.ask(ask).await
    }
}
