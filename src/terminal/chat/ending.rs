//! How a conversation ends: groups are left, what had no turn is kept or told, and the exit code says what is open.

use std::time::Duration;

use super::paste::Waiting;
use super::{Chat, Phase};
use crate::client::{Exit, Failure, Update};
use crate::terminal::grammar::Line;
use crate::terminal::keys::Key;
use crate::terminal::prompt::Input;
use crate::terminal::sanitize::harmless;
use crate::terminal::{LEAVE_TIMEOUT, shorten};

/// How long what is shown while the groups are left may take to be drawn.
const LAST_SHOW_TIMEOUT: Duration = Duration::from_millis(500);
/// Lines shown of those that were not sent and are not kept; the others are counted.
const NOT_KEPT_SHOWN: usize = 10;

impl Chat {
    /// Leaves all groups; the own leaves are ordered behind all that was typed.
    pub(super) async fn leave_orderly(&mut self) {
        let here: Vec<String> = self
            .groups
            .iter()
            .filter(|(_, it)| it.phase == Phase::In)
            .map(|(group, _)| group.clone())
            .collect();
        let waiting = async {
            for group in here {
                self.leave(&group).await;
            }
            if self.view.is_interrupted() && self.is_moving() {
                self.view.notice("leaving; Ctrl-C does not wait for the ring");
            }
            // A terminal that takes nothing holds no leave back.
            let _ = tokio::time::timeout(LAST_SHOW_TIMEOUT, self.show()).await;
            while self.is_moving() {
                tokio::select! {
                    update = self.session.updates.recv() => match update {
                        Some(Update::Event(event)) => self.hear_event(*event).await,
                        Some(_) => {}
                        None => return,
                    },
                    input = self.screen.inputs.recv(), if !self.is_closed => match input {
                        Some(Input::Keys(bytes)) if self.screen.keys(&bytes).contains(&Key::Ctrl('c')) => return,
                        Some(_) => {}
                        None => self.is_closed = true,
                    },
                }
            }
        };
        // The ring finds a lost leave by itself: it is not worth waiting long.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, waiting).await;
    }

    /// Lines that were typed and had no turn are kept as if they had been sent, if it is certain where they would have
    /// gone. The others are told.
    pub(super) fn keep_the_rest(&mut self) {
        let is_certain = !self.is_moving();
        let mut outbox = self
            .present
            .as_ref()
            .and_then(|group| self.groups.get_mut(group)?.outbox.as_mut());
        let mut keep = |text: &str| outbox.as_mut().is_some_and(|outbox| outbox.add(None, text).is_ok());
        let (kept, not_kept) = without_turn(self.lines.drain(..), is_certain, &mut keep);
        self.pending += kept;
        self.not_kept += not_kept.len();
        self.tell_not_sent(&not_kept);
    }

    /// Lines that are not sent.
    pub(super) fn tell_not_sent(&mut self, lines: &[String]) {
        for line in lines.iter().take(NOT_KEPT_SHOWN) {
            self.view.trouble(&format!("not sent: {}", harmless(&shorten(line))));
        }
        match lines.len().saturating_sub(NOT_KEPT_SHOWN) {
            0 => {}
            more => self.view.trouble(&format!("and {more} more were not sent")),
        }
        // The arrow keys bring them back.
        lines.iter().for_each(|line| self.screen.record(line));
    }

    pub(super) async fn finish(mut self, talked: Result<(), Failure>) -> Result<(), Failure> {
        let (unanswered, is_for_people) = (self.pending + self.not_kept, self.is_for_people());
        let outboxes = self.groups.values().filter_map(|group| group.outbox.as_ref());
        let kept: usize = self.kept + outboxes.map(|outbox| outbox.public().count()).sum::<usize>();
        let shown = self.view.drain();
        let written = self.screen.close(shown).await;
        self.session.close().await;
        talked?;
        written?;
        match self.refused {
            Some(exit) if !is_for_people => Err(Failure::new(exit, "not every line was accepted (see above)")),
            _ if unanswered > 0 => {
                let advice = match kept {
                    0 => String::new(),
                    kept if kept >= unanswered => "; kept, and sent when you join again".to_owned(),
                    kept => format!("; {kept} of them kept, and sent when you join again"),
                };
                let message = format!("lines without a number at the end: {unanswered}{advice}");
                Err(Failure::new(Exit::Unavailable, message))
            }
            _ => Ok(()),
        }
    }
}

/// Goes through lines that had no turn: how many `keep` took, and those that are not kept. Behind a change of the group,
/// or with one under way (not `is_certain`), nobody knows where a line would have gone; and whom a private one would reach
/// later, under the same nick, is not known either.
fn without_turn(
    lines: impl Iterator<Item = Waiting>,
    mut is_certain: bool,
    keep: &mut dyn FnMut(&str) -> bool,
) -> (usize, Vec<String>) {
    let (mut kept, mut not_kept) = (0, Vec::new());
    for line in lines {
        match line.parse() {
            Ok(Line::Join { .. } | Line::Leave { .. } | Line::Switch { .. }) => is_certain = false,
            Ok(Line::Say(text)) if is_certain && keep(&text) => kept += 1,
            Ok(Line::Say(_) | Line::Tell { .. }) => not_kept.push(line.typed()),
            _ => {}
        }
    }
    (kept, not_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(lines: &[&str], is_certain: bool) -> (Vec<String>, Vec<String>) {
        let mut kept = Vec::new();
        let mut keep = |text: &str| {
            kept.push(text.to_owned());
            true
        };
        let (count, not_kept) = without_turn(
            lines.iter().map(|it| Waiting::Typed((*it).to_owned())),
            is_certain,
            &mut keep,
        );
        assert_eq!(count, kept.len());
        (kept, not_kept)
    }

    #[test]
    fn nothing_is_kept_for_a_group_that_is_not_certain() {
        let (kept, not_kept) = rest(&["one", "/who", "//two", "@ eve psst", "three"], true);
        assert_eq!(
            (kept, not_kept),
            (
                ["one", "/two", "three"].map(str::to_owned).to_vec(),
                vec!["@ eve psst".to_owned()]
            )
        );
        for change in ["JOINGROUP 2 bob", "/join 2", "/switch", "/leave", "LEAVEGROUP"] {
            let (kept, not_kept) = rest(&["for 1", change, "secret for 2"], true);
            assert_eq!(kept, ["for 1"], "{change}");
            assert_eq!(not_kept, ["secret for 2"], "{change}");
        }
        let (kept, not_kept) = rest(&["secret for 2"], false);
        assert_eq!((kept, not_kept), (Vec::new(), vec!["secret for 2".to_owned()]));
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        let lines = ["one".to_owned(), "two".to_owned()];
        let told = without_turn(lines.clone().into_iter().map(Waiting::Typed), true, &mut |_| false);
        assert_eq!(told, (0, lines.to_vec()));
    }
}
