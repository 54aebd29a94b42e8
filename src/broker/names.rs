//! What the broker's objects are called: all start with `chaley.<cluster>.`, because RabbitMQ's permissions are regular
//! expressions over names, and the names are what fences clients from nodes.

use std::fmt;

use crate::ring::{Incarnation, Member, NodeId};

/// Longest cluster name in bytes. It keeps every object's name far below AMQP's 255 bytes.
pub const MAX_CLUSTER_BYTES: usize = 64;

/// Longest queue name that AMQP 0-9-1 can carry (a short string).
pub const MAX_QUEUE_BYTES: usize = 255;

/// The object names of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    cluster: String,
}

/// A cluster name that is not 1 to [`MAX_CLUSTER_BYTES`] of `A-Za-z0-9_-`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster name {0:?} is not 1 to {MAX_CLUSTER_BYTES} characters of A-Z a-z 0-9 _ -; choose another with --cluster NAME"
)]
pub struct BadClusterName(pub String);

impl Names {
    /// The names of `cluster`, if that is 1 to 64 of `A-Za-z0-9_-`.
    pub fn new(cluster: &str) -> Result<Names, BadClusterName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if cluster.is_empty() || cluster.len() > MAX_CLUSTER_BYTES || !cluster.bytes().all(allowed) {
            return Err(BadClusterName(cluster.to_owned()));
        }
        Ok(Names {
            cluster: cluster.to_owned(),
        })
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// `chaley.<cluster>.`, with which every name below starts.
    pub fn prefix(&self) -> String {
        format!("chaley.{}.", self.cluster)
    }

    /// Fanout exchange to which clients publish.
    pub fn requests_exchange(&self) -> String {
        self.prefix() + "requests"
    }

    /// Topic exchange from which clients are told; see [`Names::group_key`] and [`Names::VIEW_KEY`].
    pub fn deliver_exchange(&self) -> String {
        self.prefix() + "deliver"
    }

    /// The stream that is the view register.
    pub fn views(&self) -> String {
        self.prefix() + "views"
    }

    /// The mailbox of a node in one of its incarnations.
    pub fn mailbox(&self, member: Member) -> String {
        format!("{}node.{member}", self.prefix())
    }

    /// The queue that the head `member` binds to the requests exchange.
    pub fn requests_queue(&self, member: Member) -> String {
        format!("{}requests.{member}", self.prefix())
    }

    /// Start of every client's queue name; the client adds something unguessable.
    pub fn client_prefix(&self) -> String {
        self.prefix() + "client."
    }

    /// A client's queue. `secret` is to be unguessable: whoever knows the name can have deliveries sent there.
    pub fn client_queue(&self, secret: &str) -> String {
        self.client_prefix() + secret
    }

    /// Whether `queue`, typically a request's `reply_to`, is a client's queue of this cluster: only such a queue is ever
    /// written to on a client's behalf.
    pub fn is_client_queue(&self, queue: &str) -> bool {
        let rest = queue.strip_prefix(&self.client_prefix());
        queue.len() <= MAX_QUEUE_BYTES && rest.is_some_and(|rest| !rest.is_empty())
    }

    /// Which member's mailbox `queue` is.
    pub fn mailbox_member(&self, queue: &str) -> Option<Member> {
        parse_member(queue.strip_prefix(&self.prefix())?.strip_prefix("node.")?)
    }

    /// Routing key of a group's events in the deliver exchange.
    pub fn group_key(group: &str) -> String {
        format!("group.{group}")
    }

    /// Routing key under which a new view is announced in the deliver exchange.
    pub const VIEW_KEY: &'static str = "view";
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cluster)
    }
}

/// Reads `<id>.<incarnation>` as [`Member`] prints it.
fn parse_member(text: &str) -> Option<Member> {
    let (id, incarnation) = text.split_once('.')?;
    if incarnation.len() != 16 {
        return None;
    }
    Some(Member {
        id: NodeId(id.parse().ok()?),
        incarnation: Incarnation(u64::from_str_radix(incarnation, 16).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("c-1").expect("a good name")
    }

    fn member() -> Member {
        Member {
            id: NodeId(3),
            incarnation: Incarnation(0xabc),
        }
    }

    #[test]
    fn names_are_those_of_the_protocol() {
        assert_eq!(names().requests_exchange(), "chaley.c-1.requests");
        assert_eq!(names().deliver_exchange(), "chaley.c-1.deliver");
        assert_eq!(names().views(), "chaley.c-1.views");
        assert_eq!(names().mailbox(member()), "chaley.c-1.node.3.0000000000000abc");
        assert_eq!(
            names().requests_queue(member()),
            "chaley.c-1.requests.3.0000000000000abc"
        );
        assert_eq!(names().client_queue("x"), "chaley.c-1.client.x");
        assert_eq!(Names::group_key("1"), "group.1");
    }

    #[test]
    fn cluster_names_are_checked() {
        for good in ["chaley", "A_b-9", &"x".repeat(64)] {
            assert!(Names::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a b", "ü", "a\n", ".*", &"x".repeat(65)] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_client_queue_of_this_cluster_is_one() {
        assert!(names().is_client_queue("chaley.c-1.client.0f"));
        let too_long = names().client_queue(&"x".repeat(255));
        for other in [
            "",
            "chaley.c-1.client.",
            "chaley.c-2.client.0f",
            "chaley.c-1.node.1.0000000000000000",
            "chaley.c-1.views",
            &too_long,
        ] {
            assert!(!names().is_client_queue(other), "{other}");
        }
    }

    #[test]
    fn a_mailbox_name_gives_its_member_back() {
        assert_eq!(names().mailbox_member(&names().mailbox(member())), Some(member()));
        for other in ["chaley.c-1.node.3", "chaley.c-1.node.3.abc", "chaley.c-1.views", "x"] {
            assert_eq!(names().mailbox_member(other), None, "{other}");
        }
    }
}
