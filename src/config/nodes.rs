//! The two settings that may be one thing or a list: node ids and broker URLs.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `cluster.nodes`: how many, or which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// The nodes 1 to N.
    Count(u16),
    /// Exactly these ids: the others of the ring run on other hosts.
    List(Vec<u16>),
}

impl Nodes {
    /// The ids in the order in which they are started.
    pub fn ids(&self) -> Vec<u16> {
        match self {
            Nodes::Count(count) => (1..=*count).collect(),
            Nodes::List(ids) => ids.clone(),
        }
    }
}

impl Serialize for Nodes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Nodes::Count(count) => count.serialize(serializer),
            Nodes::List(ids) => ids.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Nodes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of nodes, or a list of node ids such as [3, 4]")
            }

            fn visit_i64<E: Error>(self, count: i64) -> Result<Nodes, E> {
                let count =
                    u16::try_from(count).map_err(|_| E::custom(format_args!("{count} is no number of nodes")))?;
                Ok(Nodes::Count(count))
            }

            fn visit_u64<E: Error>(self, count: u64) -> Result<Nodes, E> {
                let count =
                    u16::try_from(count).map_err(|_| E::custom(format_args!("{count} is no number of nodes")))?;
                Ok(Nodes::Count(count))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Nodes, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = items.next_element()? {
                    ids.push(id);
                }
                Ok(Nodes::List(ids))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `broker.url`: none, one or several (one string may hold several, with commas between).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Urls(pub Vec<String>);

impl Urls {
    fn from_text(text: &str) -> Urls {
        let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
        Urls(urls.map(str::to_owned).collect())
    }
}

impl Serialize for Urls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [] => "".serialize(serializer),
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Urls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AMQP URL, or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Urls, E> {
                Ok(Urls::from_text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Urls, A::Error> {
                let mut urls = Vec::new();
                while let Some(text) = items.next_element::<String>()? {
                    urls.extend(Urls::from_text(&text).0);
                }
                Ok(Urls(urls))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::Urls;

    #[test]
    fn one_string_holds_several_urls() {
        let urls = Urls::from_text("amqp://a, amqp://b,");
        assert_eq!(urls.0, ["amqp://a", "amqp://b"]);
    }
}
