//! Clients' requests at the head, and reads at a session's home.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::answers;
use super::effects::NO_TOKEN;
use super::engine::Engine;
use super::start::Fatal;
use crate::broker::link::{Exchange, Lane, OUTBOX_BYTES, Publication, RequestTag};
use crate::chat::{Admit, Command, GroupView, SessionId, State, home};
use crate::control::{GroupMemberState, GroupState, MAX_LINE_BYTES};
use crate::ring::Index;
use crate::wire::client::{
    Address, Event, Incoming, RequestLimits, Told, encode_delivery_to, encode_told, parse_requests, told_together,
};
use crate::wire::frame::{Payload, Read, ReadWhat};

/// Reads that wait for this node to apply what they must see. When as many do, further ones are dropped; clients ask again.
const READS: usize = 4096;

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
    /// Where to: of the requests that are being dealt with. The tags may change, the queue does not.
    address: Option<String>,
    /// By the tag, for as many publications leave as there are changes between none and any.
    waiting: BTreeMap<Option<String>, Vec<Event>>,
    waiting_bytes: usize,
    bytes: usize,
}

impl Replies {
    fn push(&mut self, event: Event) {
        let bytes = encoded_bytes(&event);
        self.waiting_bytes += bytes;
        self.bytes += bytes;
        let tag = self.address.as_deref().and_then(|address| Address::of(address).tag);
        self.waiting.entry(tag.map(str::to_owned)).or_default().push(event);
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
        Event::Private(private) => AROUND + 6 * private.text.len(),
        _ => AROUND,
    }
}

/// The report of all groups for `state` ends before it is about this large: far enough below the longest line that the
/// supervisor reads.
const GROUPS_BYTES: usize = MAX_LINE_BYTES / 2;

/// What a group and a member take in that report, names at their longest, in bytes. A user's name may double by escaping.
const GROUP_BYTES: usize = 192;
const MEMBER_BYTES: usize = 192;

/// What a probe orders: the end of a grace of a session that does not exist, which changes nothing on any node.
pub(super) fn probe_command(session: SessionId) -> Command {
    Command::Expire { session, away_at: 0 }
}

impl Engine {
    /// One publish of a client: a request or an array of them.
    pub(super) fn request_in(&mut self, body: &[u8], reply_to: Option<String>, tag: RequestTag) -> Result<(), Fatal> {
        let prefix = self.names.client_prefix();
        let limits = RequestLimits {
            queue_prefix: &prefix,
            max_text_bytes: self.settings.chat.max_text_bytes,
        };
        let parcels = parse_requests(body, reply_to.as_deref(), &limits);
        let mut replies = Replies {
            began: Instant::now(),
            address: None,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            bytes: 0,
        };
        for parcel in parcels {
            replies.address = parcel.address;
            for request in parcel.requests {
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
        let told: Vec<Told> = std::mem::take(&mut replies.waiting).into_iter().collect();
        replies.waiting_bytes = 0;
        let Some(address) = &replies.address else { return };
        let epoch = self.ring.view().epoch;
        for told in told_together(&told) {
            self.publish_to_client(Address::of(address).queue, encode_told(epoch, told), false);
        }
    }

    fn incoming(&mut self, incoming: Incoming, replies: &mut Replies) -> Result<(), Fatal> {
        let (session, n, what) = match incoming {
            Incoming::Ordered { session, n, action } => {
                let now = self.now();
                let answer = match &mut self.head {
                    Some(head) => head.request(now, &self.chat.state, session, n, action),
                    None => None,
                };
                match answer {
                    Some(Admit::Answer(_)) if replies.are_enough() => self.dropped("too many repeated requests"),
                    Some(answer) => {
                        let event = answers::admitted(&self.past(), n, answer)?;
                        event.into_iter().for_each(|event| replies.push(event));
                    }
                    None => {}
                }
                return Ok(());
            }
            Incoming::Read { session, n, what } => (session, n, what),
            Incoming::Resume {
                session,
                n,
                queue,
                groups: _,
                cluster,
            } => {
                // Whoever means another cluster is told so, and its queue is not this session's.
                if cluster.as_ref().is_none_or(|cluster| *cluster == self.cluster_id()) {
                    self.order_presence(session, |state, is_beginning| {
                        answers::attach(state, session, queue, is_beginning)
                    });
                }
                (session, n, ReadWhat::Resume { cluster })
            }
            Incoming::Gone { session, address } => {
                self.order_presence(session, |state, is_beginning| {
                    answers::gone(state, session, address, is_beginning)
                });
                return Ok(());
            }
        };
        let read = Read {
            session,
            n,
            reply_to: replies.address.clone(),
            what,
        };
        if !self.head.as_mut().is_some_and(|head| head.read_later(read)) {
            self.dropped("too many reads");
        }
        Ok(())
    }

    /// Orders what is to be, if anything: by what is applied, and whether the session has requests on the way there.
    fn order_presence(&mut self, session: SessionId, what: impl FnOnce(&State, bool) -> Option<Command>) {
        let now = self.now();
        if let Some(head) = &mut self.head
            && let Some(command) = what(&self.chat.state, head.has_in_flight(session))
        {
            head.command(now, command);
        }
    }

    // ---- reads ----------------------------------------------------------------------------------------------------

    /// Who is to answer does, once it has applied what the head has ordered by now.
    pub(super) fn hand_on(&mut self, read: Read) {
        let at = self.ring.progress().log_end;
        let (me, epoch) = (self.ring.me(), self.ring.view().epoch);
        for member in answers::readers(self.ring.view(), me, &read) {
            let read = read.clone();
            match member == me {
                true => self.read_in(read, at),
                false => self.send_payload(member, epoch, Payload::Read { read, at }, NO_TOKEN),
            }
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
        let cluster = self.cluster_id();
        // Answers leave room for deliveries, and a turn has time for a few of them only: the first come first.
        while self.link.has_room(Lane::Deliver, ANSWERS_ROOM)
            && let Some((_, read)) = ready.next()
        {
            if answers::lacks_its_attach(&self.chat.state, &cluster, &read) {
                self.dropped("a resume whose attach was lost");
                continue;
            }
            let here = answers::Here {
                cluster: &cluster,
                me: self.ring.me(),
                view: self.ring.view(),
            };
            let event = answers::read(&self.past(), &here, &read)?;
            let prefix = self.names.client_prefix();
            let session_queue = || {
                self.chat
                    .state
                    .session(read.session)
                    .map(|session| session.queue().to_owned())
            };
            let address = read.reply_to.clone().or_else(session_queue);
            if let Some(address) = address.filter(|address| Address::of(address).is_valid(&prefix)) {
                let Address { queue, tag } = Address::of(&address);
                let body = encode_delivery_to(self.ring.view().epoch, tag, &[event]);
                self.publish_to_client(queue, body, false);
            }
            if self.turn_is_over() {
                self.leave_for_next_turn();
                break;
            }
        }
        self.reads.splice(0..0, ready);
        Ok(())
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
        for (queue, beats) in turn.beats {
            for beats in told_together(&beats) {
                self.publish_to_client(&queue, encode_told(epoch, beats), true);
            }
        }
        self.ask_head(turn.commands);
    }

    /// Asks the head, which may be this node, to order commands that are not a client's. They may get lost.
    fn ask_head(&mut self, commands: Vec<Command>) {
        if commands.is_empty() {
            return;
        }
        let (now, epoch) = (self.now(), self.ring.view().epoch);
        match (&mut self.head, self.ring.view().head()) {
            (Some(head), _) => {
                for command in commands {
                    head.command(now, command);
                }
            }
            (None, Some(head)) => self.send_payload(head, epoch, Payload::Order(commands), NO_TOKEN),
            (None, None) => {}
        }
    }

    /// The supervisor asks whether what is ordered reaches every node.
    pub(super) fn probe(&mut self, number: u64) {
        // Without randomness there is no probe; the supervisor asks another node.
        let Ok(bytes) = crate::random::random() else { return };
        let session = SessionId(u128::from_le_bytes(bytes));
        self.probe = Some((number, session));
        self.ask_head(vec![probe_command(session)]);
    }

    fn publish_to_client(&mut self, queue: &str, body: Vec<u8>, mandatory: bool) {
        let publication = Publication {
            lane: Lane::Deliver,
            exchange: Exchange::Default,
            routing_key: queue.to_owned(),
            copies_to: Vec::new(),
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
                    status: answers::presence(member.presence).to_owned(),
                    home: home(member.session, members).map_or(0, |home| home.id.0),
                })
                .collect(),
        };
        let groups: Vec<GroupState> = self.chat.state.groups().take_while(with_room).map(group).collect();
        let omitted = self.chat.state.groups().count() - groups.len();
        (groups, omitted)
    }
}
