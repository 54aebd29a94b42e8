//! Where a session is told what is for it alone: in a queue, and under a tag if the queue serves several sessions.
//!
//! The ring keeps an address as one text, the queue's name and, behind a line feed, the tag: no queue that the ring
//! answers to has a line feed in its name ([`valid_reply_to`]).

use std::fmt;

use super::MAX_QUEUE_NAME_BYTES;

/// Longest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 32;

/// Longest text of an address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = MAX_QUEUE_NAME_BYTES + 1 + MAX_TAG_BYTES;

/// An address, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    pub queue: &'a str,
    /// Comes back with everything that is for the session alone.
    pub tag: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// Every text is an address: without a line feed it is a queue.
    pub fn of(text: &'a str) -> Address<'a> {
        match text.split_once('\n') {
            Some((queue, tag)) => Address { queue, tag: Some(tag) },
            None => Address { queue: text, tag: None },
        }
    }

    /// Whether the ring may send there for a client; see [`valid_reply_to`].
    pub fn is_valid(&self, queue_prefix: &str) -> bool {
        valid_reply_to(queue_prefix, self.queue) && self.tag.is_none_or(valid_tag)
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.queue)?;
        match self.tag {
            Some(tag) => write!(f, "\n{tag}"),
            None => Ok(()),
        }
    }
}

/// Whether the ring may send to this queue for a client: it is one of this cluster's clients' queues. Anything else
/// could be a node's mailbox.
pub fn valid_reply_to(queue_prefix: &str, reply_to: &str) -> bool {
    reply_to.len() <= MAX_QUEUE_NAME_BYTES
        && reply_to.len() > queue_prefix.len()
        && reply_to.starts_with(queue_prefix)
        && !reply_to.contains('\n')
}

/// A tag is 1 to [`MAX_TAG_BYTES`] of `A-Za-z0-9_-`.
pub fn valid_tag(tag: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !tag.is_empty() && tag.len() <= MAX_TAG_BYTES && tag.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "chaley.c.client.";

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for (queue, tag) in [("q", None), ("chaley.c.client.0f", Some("17")), ("q", Some("a_B-9"))] {
            let address = Address { queue, tag };
            assert_eq!(Address::of(&address.to_string()), address);
        }
    }

    #[test]
    fn only_a_clients_queue_and_a_proper_tag_make_a_valid_one() {
        let longest = format!("{PREFIX}0f\n{}", "x".repeat(MAX_TAG_BYTES));
        for good in ["chaley.c.client.0f", "chaley.c.client.0f\n17", &longest] {
            assert!(Address::of(good).is_valid(PREFIX), "{good:?}");
        }
        let too_long = format!("{longest}x");
        for bad in [
            "",
            "\n17",
            "chaley.c.client.",
            "chaley.c.client.\n17",
            "chaley.c.node.1.0000000000000001\n17",
            "chaley.c.client.0f\n",
            "chaley.c.client.0f\n1\n7",
            "chaley.c.client.0f\nä",
            &too_long,
        ] {
            assert!(!Address::of(bad).is_valid(PREFIX), "{bad:?}");
        }
    }
}
