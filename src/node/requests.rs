//! Clients' requests at the head, and reads at a session's home.

use std::time::{Duration, Instant};

use super::apply::Chat;
use super::effects::NO_TOKEN;
use super::engine::Engine;
use super::start::Fatal;
use crate::broker::link::{Exchange, Lane, OUTBOX_BYTES, Publication, RequestTag};
use crate::chat::{Admit, Command, ErrorCode, GroupEvent, GroupView, Outcome, Presence, SessionId, home};
use crate::control::{GroupMemberState, GroupState, MAX_LINE_BYTES};
use crate::ring::Index;
use crate::store::Store;
use crate::wire::client::valid_reply_to;
use crate::wire::client::{Event, GroupMember, Incoming, RequestLimits, ResumedGroup, encode_delivery, parse_requests};
use crate::wire::frame::{Payload, Read, ReadWhat};

/// Reads that wait for this node to apply what they must see. When as many do, further ones are dropped; clients ask again.
const READS: usize = 4096;

/// About the most bytes of text in the reply to one `history`; `last` tells the client that there is more.
const HISTORY_BYTES: usize = 512 * 1024;

/// Reads are answered while so many bytes have room in the outbox towards clients. When not, they wait.
const ANSWERS_ROOM: usize = OUTBOX_BYTES / 2;

/// Time and bytes for telling one publish the outcomes of requests that it repeats, which are read from the store and may
/// be much larger than what asks for them. Past either the rest is not told; the client asks again for what it still lacks.
const REPEATS: Duration = Duration::from_millis(50);
const REPEATS_BYTES: usize = 2 * 1024 * 1024;

/// Replies to one publish travel together up to about so many bytes. The broker ends the channel of whoever publishes a
/// message that is too large for it.
const REPLY_BYTES: usize = 256 * 1024;

/// What is answered at once to one publish.
struct Replies {
    /// When it began to be dealt with.
    began: Instant,
    queue: Option<String>,
    waiting: Vec<Event>,
    waiting_bytes: usize,
    bytes: usize,
}

impl Replies {
    fn push(&mut self, event: Event) {
        let bytes = encoded_bytes(&event);
        self.waiting_bytes += bytes;
        self.bytes += bytes;
        self.waiting.push(event);
    }

    /// No time or no room for another outcome.
    fn are_enough(&self) -> bool {
        self.began.elapsed() >= REPEATS || self.bytes >= REPEATS_BYTES
    }
}

/// About the most that a reply takes as JSON, where a control character is written as six bytes.
fn encoded_bytes(event: &Event) -> usize {
    const AROUND: usize = 1024;
    match event {
        Event::Message(message) => AROUND + 6 * message.text.len(),
        _ => AROUND,
    }
}

/// The report of all groups for `state` ends before it is about this large: far enough below the longest line that the
/// supervisor reads.
const GROUPS_BYTES: usize = MAX_LINE_BYTES / 2;

/// What a group and a member take in that report, names at their longest, in bytes. A user's name may double by escaping.
const GROUP_BYTES: usize = 192;
const MEMBER_BYTES: usize = 192;

impl Engine {
    /// One publish of a client: a request or an array of them.
    pub(super) fn request_in(&mut self, body: &[u8], reply_to: Option<String>, tag: RequestTag) -> Result<(), Fatal> {
        let prefix = self.names.client_prefix();
        let limits = RequestLimits {
            queue_prefix: &prefix,
            max_text_bytes: self.settings.chat.max_text_bytes,
        };
        let reply_to = reply_to.filter(|queue| valid_reply_to(&prefix, queue));
        let requests = parse_requests(body, reply_to.as_deref(), &limits);
        let mut replies = Replies {
            began: Instant::now(),
            queue: reply_to,
            waiting: Vec::new(),
            waiting_bytes: 0,
            bytes: 0,
        };
        for request in requests {
            match request {
                Ok(incoming) => self.incoming(incoming, &mut replies)?,
                Err(error) => {
                    self.dropped("refused request");
                    replies.push(Event::from(error));
                }
            }
            if replies.waiting_bytes >= REPLY_BYTES {
                self.flush(&mut replies);
            }
        }
        self.flush(&mut replies);
        match &mut self.head {
            Some(head) => head.read(tag),
            None => {
                let _ = self.link.ack_request(tag, false);
            }
        }
        Ok(())
    }

    fn flush(&mut self, replies: &mut Replies) {
        let events = std::mem::take(&mut replies.waiting);
        replies.waiting_bytes = 0;
        if let (Some(queue), false) = (&replies.queue, events.is_empty()) {
            self.reply(queue.clone(), &events);
        }
    }

    fn incoming(&mut self, incoming: Incoming, replies: &mut Replies) -> Result<(), Fatal> {
        let reply_to = replies.queue.clone();
        let (session, n, what) = match incoming {
            Incoming::Ordered { session, n, action } => {
                let answer = match &mut self.head {
                    Some(head) => head.request(&self.chat.state, session, n, action),
                    None => None,
                };
                match answer {
                    Some(Admit::Answer(_)) if replies.are_enough() => self.dropped("too many repeated requests"),
                    Some(answer) => self.answer(n, answer, replies)?,
                    None => {}
                }
                return Ok(());
            }
            Incoming::History {
                session,
                n,
                group,
                after,
                limit,
            } => (session, n, ReadWhat::History { group, after, limit }),
            Incoming::Who { session, n, group } => (session, n, ReadWhat::Who { group }),
            Incoming::Resume {
                session,
                n,
                queue,
                groups: _,
                cluster,
            } => {
                // Whoever means another cluster is told so, and its queue is not this session's.
                if cluster.as_ref().is_none_or(|cluster| *cluster == self.cluster_id()) {
                    self.attach(session, queue);
                }
                (session, n, ReadWhat::Resume { cluster })
            }
        };
        let read = Read {
            session,
            n,
            reply_to,
            what,
        };
        if !self.head.as_mut().is_some_and(|head| head.read_later(read)) {
            self.dropped("too many reads");
        }
        Ok(())
    }

    /// What needs no new place in the order is answered at once.
    fn answer(&self, n: u64, answer: Admit, replies: &mut Replies) -> Result<(), Fatal> {
        let event = match answer {
            Admit::Order(_) | Admit::InFlight => return Ok(()),
            Admit::Refuse { code, expected } => Event::error(code, Some(n), expected),
            Admit::Answer(Outcome::Refused { code }) => Event::error(code, Some(n), None),
            Admit::Answer(Outcome::Forgotten) => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
            Admit::Answer(Outcome::Done { group, seq }) => {
                let found = history(&self.chat, &self.store, &group, seq - 1, 1, usize::MAX)?;
                match found.first() {
                    Some(event) => Event::from(event),
                    None => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
                }
            }
        };
        replies.push(event);
        Ok(())
    }

    /// A resumed session's queue is ordered, so that every node knows where it is.
    fn attach(&mut self, session: SessionId, queue: String) {
        let state = &self.chat.state;
        let needed = match state.session(session) {
            Some(known) => known.queue() != queue || known.presence() != Presence::Here,
            None => !state.has_ended(session),
        };
        if let (true, Some(head)) = (needed, &mut self.head) {
            head.command(Command::Attach { session, queue });
        }
    }

    // ---- reads ----------------------------------------------------------------------------------------------------

    /// The session's home answers, once it has applied what the head has ordered by now.
    pub(super) fn hand_to_home(&mut self, read: Read) {
        let at = self.ring.progress().log_end;
        let view = self.ring.view();
        match home(read.session, &view.members) {
            Some(member) if member != self.ring.me() => {
                let epoch = view.epoch;
                self.send_payload(member, epoch, Payload::Read { read, at }, NO_TOKEN);
            }
            _ => self.read_in(read, at),
        }
    }

    pub(super) fn read_in(&mut self, read: Read, at: Index) {
        if self.reads.len() < READS {
            self.reads.push((at, read));
        } else {
            self.dropped("too many reads");
        }
    }

    pub(super) fn answer_reads(&mut self) -> Result<(), Fatal> {
        if self.reads.is_empty() {
            return Ok(());
        }
        let applied = self.chat.state.applied();
        let (ready, later) = std::mem::take(&mut self.reads)
            .into_iter()
            .partition(|(at, _)| *at <= applied);
        self.reads = later;
        let mut ready = Vec::<(Index, Read)>::into_iter(ready);
        // Answers leave room for deliveries, and a turn has time for a few of them only: the first come first.
        while self.link.has_room(Lane::Deliver, ANSWERS_ROOM)
            && let Some((_, read)) = ready.next()
        {
            if self.lacks_its_attach(&read) {
                self.dropped("a resume whose attach was lost");
                continue;
            }
            let event = self.read(&read)?;
            let prefix = self.names.client_prefix();
            let session_queue = || {
                self.chat
                    .state
                    .session(read.session)
                    .map(|session| session.queue().to_owned())
            };
            let queue = read.reply_to.clone().or_else(session_queue);
            if let Some(queue) = queue.filter(|queue| valid_reply_to(&prefix, queue)) {
                self.reply(queue, &[event]);
            }
            if self.turn_is_over() {
                self.leave_for_next_turn();
                break;
            }
        }
        self.reads.splice(0..0, ready);
        Ok(())
    }

    /// The head that ordered a resume's attach may have died with it, and others have its place in the log by now. An
    /// answer would tell the client that it is back while its old queue is watched: no answer, and it asks again.
    fn lacks_its_attach(&self, read: &Read) -> bool {
        let session = self.chat.state.session(read.session);
        matches!(read.what, ReadWhat::Resume { .. })
            && session.is_some_and(|session| Some(session.queue()) != read.reply_to.as_deref())
    }

    fn read(&self, read: &Read) -> Result<Event, Fatal> {
        let state = &self.chat.state;
        let Some(session) = state.session(read.session) else {
            let ended = state.has_ended(read.session);
            let code = if ended {
                ErrorCode::SessionExpired
            } else {
                ErrorCode::NoSession
            };
            return Ok(Event::error(code, Some(read.n), None));
        };
        Ok(match &read.what {
            ReadWhat::Who { group } => {
                let members = state.who(group).into_iter().map(|member| GroupMember {
                    member: member.member,
                    user: member.user.to_owned(),
                    status: presence(member.presence).to_owned(),
                });
                Event::Members {
                    group: group.clone(),
                    members: members.collect(),
                    reference: read.n,
                }
            }
            ReadWhat::History { group, after, limit } => {
                let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                let events = history(&self.chat, &self.store, group, *after, limit, HISTORY_BYTES)?;
                Event::History {
                    group: group.clone(),
                    events: events.iter().map(Event::from).collect(),
                    first: 1,
                    last: state.group_latest(group).unwrap_or(0),
                    reference: read.n,
                }
            }
            ReadWhat::Resume { cluster } => {
                let own = self.cluster_id();
                if cluster.as_ref().is_some_and(|cluster| *cluster != own) {
                    return Ok(Event::error(ErrorCode::AnotherCluster, Some(read.n), None));
                }
                let groups = session.groups().map(|(group, member, _)| {
                    let seq = state.group_latest(group).unwrap_or(0);
                    (group.to_owned(), ResumedGroup { member, seq })
                });
                Event::Resumed {
                    cluster: own,
                    last: session.last(),
                    groups: groups.collect(),
                    reference: read.n,
                }
            }
        })
    }

    // ---- sessions whose home this is ------------------------------------------------------------------------------

    pub(super) fn look_after_sessions(&mut self) {
        if !self.ring.is_linked() {
            return;
        }
        let now = self.now();
        if !self.home.is_due(now) {
            return;
        }
        let (me, cluster) = (self.ring.me(), self.cluster_id());
        let turn = self.home.turn(now, me, self.ring.view(), &self.chat.state, &cluster);
        let epoch = self.ring.view().epoch;
        for (queue, event) in turn.beats {
            self.publish_to_client(queue, encode_delivery(epoch, &[event]), true);
        }
        if turn.commands.is_empty() {
            return;
        }
        match (&mut self.head, self.ring.view().head()) {
            (Some(head), _) => {
                for command in turn.commands {
                    head.command(command);
                }
            }
            (None, Some(head)) => self.send_payload(head, epoch, Payload::Order(turn.commands), NO_TOKEN),
            (None, None) => {}
        }
    }

    fn reply(&mut self, queue: String, events: &[Event]) {
        let body = encode_delivery(self.ring.view().epoch, events);
        self.publish_to_client(queue, body, false);
    }

    fn publish_to_client(&mut self, queue: String, body: Vec<u8>, mandatory: bool) {
        let publication = Publication {
            lane: Lane::Deliver,
            exchange: Exchange::Default,
            routing_key: queue,
            body,
            mandatory,
            expiry_ms: None,
            token: NO_TOKEN,
        };
        if let Err(error) = self.link.publish(publication) {
            self.dropped(&error.to_string());
        }
    }

    pub(super) fn cluster_id(&self) -> String {
        self.ring
            .cluster()
            .map(|cluster| cluster.to_string())
            .unwrap_or_default()
    }

    /// For `state`: no session id is in it. The second one is how many groups found no room in the first one.
    pub(super) fn group_states(&self) -> (Vec<GroupState>, usize) {
        let members = &self.ring.view().members;
        let mut bytes = 0;
        let with_room = |group: &GroupView<'_>| {
            let described: usize = group.members().map(|member| MEMBER_BYTES + member.user.len()).sum();
            bytes += GROUP_BYTES + described;
            bytes <= GROUPS_BYTES
        };
        let group = |group: GroupView<'_>| GroupState {
            group: group.name().to_owned(),
            seq: group.seq(),
            digest: group.digest().to_string(),
            members: group
                .members()
                .map(|member| GroupMemberState {
                    member: member.member,
                    user: member.user.to_owned(),
                    status: presence(member.presence).to_owned(),
                    home: home(member.session, members).map_or(0, |home| home.id.0),
                })
                .collect(),
        };
        let groups: Vec<GroupState> = self.chat.state.groups().take_while(with_room).map(group).collect();
        let omitted = self.chat.state.groups().count() - groups.len();
        (groups, omitted)
    }
}

fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Here => "here",
        Presence::Away { .. } => "away",
    }
}

/// Events of a group with a number above `after`, oldest first, at most `limit` and about `max_bytes` of text.
fn history(
    chat: &Chat,
    store: &Store,
    group: &str,
    after: u64,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<GroupEvent>, Fatal> {
    let mut events = Vec::new();
    let mut bytes = 0;
    for index in store.history(group, after)? {
        let index = index?;
        if index > chat.state.applied() {
            break;
        }
        let result = chat.result(store, index)?;
        for event in result
            .events()
            .filter(|event| event.group == group && event.seq > after)
        {
            if events.len() >= limit || bytes > max_bytes {
                return Ok(events);
            }
            bytes += event.kind.text().len() + 200;
            events.push(event.clone());
        }
    }
    Ok(events)
}
