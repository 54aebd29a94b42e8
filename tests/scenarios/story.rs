//! How an effect reads in a story.

use chaley::ring::{Cause, Effect, Evidence, Halt, Index, Member, Message, Note, Role, View, ViewRecord};

/// One line, or nothing for what would only repeat itself: heartbeats of a tick, heartbeats to oneself, drops.
pub fn line(effect: &Effect, routine: bool) -> Option<String> {
    Some(match effect {
        Effect::Send {
            message: Message::Beat { .. },
            ..
        } if routine => return None,
        Effect::Send {
            message: Message::Loop { .. },
            ..
        } => return None,
        Effect::Send { to, epoch, message } => format!("-> {}  {} (epoch {epoch})", to.id, said(message)),
        Effect::SendEntries {
            to,
            epoch,
            first,
            last,
            progress,
            catch_up,
        } => {
            let what = if *catch_up { "catch-up" } else { "entries" };
            let (range, commit) = (range(*first, *last), progress.commit);
            format!("-> {}  {what} {range}, commit {commit} (epoch {epoch})", to.id)
        }
        Effect::Append(entries) => {
            let (first, last) = (entries.first()?, entries.last()?);
            format!("appends {} of epoch {}", range(first.index, last.index), last.epoch)
        }
        Effect::Commit { upto } => format!("commits up to {upto}"),
        Effect::Propose(record) => format!("proposes {}", proposal(record)),
        Effect::Restore { from } => format!("appends the views from {from} on to the register again"),
        Effect::Enter { view, synced, .. } => {
            let standing = if *synced { "synced" } else { "not synced" };
            format!("enters {}, {standing}", shown(view))
        }
        Effect::Relink { view, role } => format!("links {} as {}", shown(view), role_name(*role)),
        Effect::Synced { epoch } => format!("is synced in view {epoch}"),
        Effect::LeftOut { epoch, keep } => format!("is left out of view {epoch}, keeps its log up to {keep}"),
        Effect::Note(note) => noted(note)?,
        Effect::Halt(why) => format!("HALTS: {}", reason(why)),
    })
}

pub fn range(first: Index, last: Index) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

fn ids(members: &[Member]) -> String {
    let ids: Vec<String> = members.iter().map(|member| member.id.to_string()).collect();
    ids.join(" ")
}

fn shown(view: &View) -> String {
    format!("view {} [{}]", view.epoch, ids(&view.members))
}

fn proposal(record: &ViewRecord) -> String {
    let cause = match &record.cause {
        Cause::Founded => "founded".to_owned(),
        Cause::Joined(member) => format!("{} joined", member.id),
        Cause::Left(member) => format!("{} left", member.id),
        Cause::Failed(members) => format!("{} failed", ids(members)),
    };
    format!("view {} [{}]: {cause}", record.epoch, ids(&record.members))
}

fn said(message: &Message) -> String {
    match message {
        Message::Beat { progress, want_sync } => {
            let want = if *want_sync { ", wants a sync" } else { "" };
            format!("beat, log end {}, commit {}{want}", progress.log_end, progress.commit)
        }
        Message::Loop { .. } => "loop".to_owned(),
        Message::Entries { entries, progress, .. } => {
            format!("entries: {} more, commit {}", entries.len(), progress.commit)
        }
        Message::Sync { log_end, .. } => format!("sync from {log_end}"),
        Message::Probe { .. } => "probe".to_owned(),
        Message::ProbeReply { .. } => "probe reply".to_owned(),
        Message::Join { log_end, .. } => format!("join from {log_end}"),
        Message::CatchUp { entries, progress, .. } => {
            format!("catch-up: {} more, commit {}", entries.len(), progress.commit)
        }
        Message::IdTaken => "id taken".to_owned(),
        Message::Diverged { log_end } => format!("diverged, log end {log_end}"),
        Message::Leave => "leave".to_owned(),
    }
}

fn noted(note: &Note) -> Option<String> {
    Some(match note {
        Note::Suspected { whom, evidence } => format!("suspects {}: {}", whom.id, evidence_name(*evidence)),
        Note::Cleared { whom } => format!("clears {}", whom.id),
        Note::Linked { epoch } => format!("is linked in view {epoch}"),
        Note::ProposalLost { epoch } => format!("has lost the vote on view {epoch}"),
        Note::Slept { for_ms } => format!("did not run for {for_ms} ms"),
        Note::Dropped(_) => return None,
    })
}

fn evidence_name(evidence: Evidence) -> &'static str {
    evidence.as_str()
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Head => "head",
        Role::Middle => "middle",
        Role::Tail => "tail",
        Role::Single => "head and tail",
        Role::Outside => "an outsider",
    }
}

fn reason(why: &Halt) -> String {
    match why {
        Halt::Left => "it has left".to_owned(),
        Halt::RegisterConflict { epoch } => format!("the register tells another view {epoch}"),
        Halt::RegisterLost { known } => format!("the register is empty, view {known} is known"),
        Halt::Diverged { log_end, theirs } => format!("its log of {log_end} is no prefix of one of {theirs}"),
        Halt::Deaf => "it does not hear itself".to_owned(),
        Halt::RegisterSilent => "the register is silent".to_owned(),
        Halt::NobodyThere { .. } => "nobody answers".to_owned(),
        Halt::IdTaken { id } => format!("node {id} lives elsewhere"),
    }
}
