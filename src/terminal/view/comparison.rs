//! Whether all have seen one history.

use std::collections::BTreeMap;

use crate::wire::client::NodeDigest;

/// What the nodes have told so far, one answer each: of a node that answers again, the newest.
#[derive(Debug, Default)]
pub struct Answers {
    told: BTreeMap<u16, NodeDigest>,
    missing: Vec<u16>,
    left_out: Vec<u16>,
}

impl Answers {
    /// Takes one node's answer, with the members of the ring that have not answered, and those that no longer are members
    /// and have not. Returns whether it was the last one.
    pub fn take(&mut self, answer: NodeDigest, missing: Vec<u16>, left_out: Vec<u16>) -> bool {
        self.told.insert(answer.node, answer);
        (self.missing, self.left_out) = (missing, left_out);
        self.missing.is_empty()
    }

    /// One answer of each node, in the order of their ids.
    pub fn told(&self) -> Vec<NodeDigest> {
        self.told.values().cloned().collect()
    }

    /// Nodes that have not answered, in the order of their ids.
    pub fn missing(&self) -> Vec<u16> {
        let silent = self.missing.iter().chain(&self.left_out);
        let mut silent: Vec<u16> = silent.filter(|id| !self.told.contains_key(id)).copied().collect();
        silent.sort_unstable();
        silent.dedup();
        silent
    }
}

/// Digests of one place in a group's history.
#[derive(Debug)]
pub struct Comparison<'a> {
    pub group: &'a str,
    pub seq: u64,
    pub answers: &'a [NodeDigest],
    /// Nodes that did not answer in time.
    pub missing: &'a [u16],
    /// The digest of what was shown here, if it was.
    pub own: Option<&'a str>,
    /// The digest that somebody else was shown, or its beginning.
    pub friend: Option<&'a str>,
}

impl Comparison<'_> {
    /// The verdict for programs.
    pub fn json(&self) -> String {
        let value = serde_json::json!({
            "type": "verified", "group": self.group, "seq": self.seq, "agreed": self.verdict().0,
            "nodes": self.answers, "missing": self.missing,
        });
        value.to_string()
    }

    /// Whether all that answered have seen one history, and what to say of it, in lines.
    pub fn verdict(&self) -> (bool, String) {
        let Comparison { group, seq, .. } = self;
        let known: Vec<&NodeDigest> = self.answers.iter().filter(|it| it.digest.is_some()).collect();
        let behind: Vec<String> = self
            .answers
            .iter()
            .filter(|it| it.digest.is_none())
            .map(|it| it.node.to_string())
            .collect();
        let Some(first) = known.first().and_then(|it| it.digest.as_deref()) else {
            let text = match self.answers.iter().map(|it| it.last).max() {
                None => format!("no node has told its digest of group {group} at {seq}; try again in a moment"),
                Some(0) => format!("nothing has happened in group {group} yet"),
                Some(last) => format!("group {group} has come to number {last}: there is no {seq} yet"),
            };
            return (false, text);
        };
        let same = |other: &str| first.starts_with(&other.to_ascii_lowercase());
        let odd: Vec<String> = known
            .iter()
            .filter(|it| it.digest.as_deref() != Some(first))
            .map(|it| it.node.to_string())
            .collect();
        if !odd.is_empty() {
            let text = format!(
                "nodes have different histories of group {group} up to {seq}: {} against the others",
                odd.join(", ")
            );
            return (false, text);
        }
        if self.own.is_some_and(|own| !same(own)) {
            return (
                false,
                format!("the nodes' history of group {group} up to {seq} is not the one shown here"),
            );
        }
        if self.friend.is_some_and(|friend| !same(friend)) {
            return (
                false,
                format!("at {seq} of group {group} the nodes have {first}: not what you were given"),
            );
        }
        let mut who = match known.len() {
            1 => format!(
                "node {} has",
                known.iter().map(|it| it.node.to_string()).collect::<String>()
            ),
            count => format!("{count} nodes have"),
        };
        if self.own.is_some() {
            who = who
                .replace(" has", " and you have")
                .replace(" nodes have", " nodes and you have");
        }
        if self.friend.is_some() {
            who.push_str(", and whoever gave you that digest has,");
        }
        let missing: Vec<String> = self.missing.iter().map(u16::to_string).collect();
        let mut text = format!("{who} one history of group {group} up to {seq}");
        if !behind.is_empty() {
            text.push_str(&format!("; not that far yet: {}", behind.join(", ")));
        }
        if !missing.is_empty() {
            text.push_str(&format!("; no answer from {}", missing.join(", ")));
        }
        // In a line of its own, which fits most windows, it can be copied as a whole.
        text.push_str(&format!("; for a friend to compare:\n/verify {seq}:{first}"));
        (true, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(node: u16, digest: Option<&str>) -> NodeDigest {
        NodeDigest {
            node,
            digest: digest.map(str::to_owned),
            last: 9,
        }
    }

    #[test]
    fn a_node_counts_once_and_one_that_was_left_out_is_missing() {
        let same = "5d41402abc4b2a765d41402abc4b2a76";
        let mut answers = Answers::default();
        assert!(!answers.take(digest(1, None), vec![2, 3, 4], vec![]));
        assert!(!answers.take(digest(2, Some(same)), vec![3, 4], vec![]));
        assert!(!answers.take(digest(4, Some(same)), vec![3], vec![]));
        // The ring goes on without node 3: the question is repeated, and node 1 has come further by then.
        assert!(answers.take(digest(1, Some(same)), vec![], vec![3]));
        let comparison = Comparison {
            group: "1",
            seq: 9,
            answers: &answers.told(),
            missing: &answers.missing(),
            own: None,
            friend: None,
        };
        let (ok, text) = comparison.verdict();
        assert!(ok && text.starts_with("3 nodes have one history"), "{text}");
        assert!(text.contains("; no answer from 3"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&comparison.json()).expect("JSON");
        let nodes = json["nodes"].as_array().expect("nodes").iter();
        assert_eq!(
            nodes.map(|it| it["node"].as_u64()).collect::<Vec<_>>(),
            [1, 2, 4].map(Some)
        );
        assert_eq!(json["missing"], serde_json::json!([3]));
    }

    #[test]
    fn digests_are_compared_with_everybody() {
        let same = "5d41402abc4b2a765d41402abc4b2a76";
        let other = "00000000000000000000000000000000";
        let verdict = |answers: &[NodeDigest], missing: &[u16], own, friend| {
            let (group, seq) = ("1", 9);
            let comparison = Comparison {
                group,
                seq,
                answers,
                missing,
                own,
                friend,
            };
            comparison.verdict()
        };
        let all = [digest(1, Some(same)), digest(2, Some(same))];
        let (ok, text) = verdict(&all, &[], Some(same), None);
        assert!(ok);
        assert_eq!(
            text,
            format!("2 nodes and you have one history of group 1 up to 9; for a friend to compare:\n/verify 9:{same}")
        );
        assert!(verdict(&all, &[], None, Some("5D41402A")).0);
        assert!(!verdict(&all, &[], Some(same), Some("00000000")).0);
        assert!(!verdict(&all, &[], Some(other), None).0);
        let (ok, text) = verdict(&[digest(1, Some(same)), digest(3, Some(other))], &[], None, None);
        assert!(!ok && text.contains("3 against the others"), "{text}");
        let (ok, text) = verdict(&[digest(1, Some(same)), digest(4, None)], &[2], None, None);
        assert!(
            ok && text.contains("not that far yet: 4") && text.contains("no answer from 2"),
            "{text}"
        );
        let (ok, text) = verdict(&[], &[1, 2], None, None);
        assert!(!ok && text.contains("no node has told"), "{text}");
        let behind = NodeDigest {
            node: 1,
            digest: None,
            last: 7,
        };
        let (ok, text) = verdict(&[behind], &[], None, Some("00000000"));
        assert!(!ok);
        assert_eq!(text, "group 1 has come to number 7: there is no 9 yet");
    }
}
