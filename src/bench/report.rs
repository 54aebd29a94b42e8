//! What the bench tells: tables for people, one JSON object for programs, progress for whoever waits at a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use super::figures::{Figures, short};
use super::machine::Machine;
use super::strikes::Effect;
use super::verdict::Verdict;

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Question {
    pub nodes: usize,
    pub clients: usize,
    /// That the clients share; without it each has its own.
    pub connections: Option<usize>,
    pub groups: usize,
    pub size_bytes: usize,
    pub window: usize,
    pub rate_per_s: Option<f64>,
    pub duration_s: f64,
    pub rounds: usize,
}

/// Everything that the bench found.
#[derive(Debug, Clone)]
pub struct Report {
    pub machine: Machine,
    pub question: Question,
    pub figures: Figures,
    pub ratios: Figures,
    pub effects: Vec<Effect>,
    pub verdict: Verdict,
}

impl Report {
    /// One JSON object. The names of figures end in their units.
    pub fn json(&self) -> Value {
        json!({
            "machine": self.machine,
            "settings": self.question,
            "figures": self.figures,
            "ratios": self.ratios,
            "strikes": self.effects,
            "verdict": {
                "good": self.verdict.is_good(),
                "groups": self.verdict.groups,
                "listeners": self.verdict.listeners,
                "messages_acknowledged": self.verdict.messages,
                "messages_heard": self.verdict.heard,
                "faults": self.verdict.faults.count,
                "faults_told": self.verdict.faults.told,
            },
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = self.head();
        table(&mut out, "", &self.figures);
        table(&mut out, "ratios, each of two figures of one round", &self.ratios);
        self.strikes(&mut out);
        out.push('\n');
        out.push_str(&self.judgement());
        out
    }

    fn head(&self) -> String {
        let (machine, question) = (&self.machine, &self.question);
        let load = machine
            .load_average
            .map_or(String::new(), |load| format!(", load {load:.1} before"));
        let rabbitmq = machine.rabbitmq.as_ref();
        let rabbitmq = rabbitmq.map_or(String::new(), |version| format!(", RabbitMQ {version}"));
        let build = if machine.optimized {
            ""
        } else {
            " (a debug build: its figures say nothing)"
        };
        let shared = question
            .connections
            .map_or(String::new(), |count| format!(" on {count} connection(s)"));
        format!(
            "chaley {}{build}{rabbitmq}, {}, {} cores{load}\n{} nodes, {} clients{shared} in {} group(s), messages of {} bytes, {} round(s) of {} s\n",
            machine.chaley,
            machine.kernel,
            machine.cores,
            question.nodes,
            question.clients,
            question.groups,
            question.size_bytes,
            question.rounds,
            question.duration_s,
        )
    }

    fn strikes(&self, out: &mut String) {
        if self.effects.is_empty() {
            return;
        }
        out.push_str("\nat        what                silence   found   relinked   back      silence meanwhile\n");
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{} ms", short(value)));
        for effect in &self.effects {
            let what = format!("{} {} ({})", effect.deed, effect.id, effect.role.as_str());
            let _written = writeln!(
                out,
                "{:<9} {what:<18}  {:<8}  {:<6}  {:<9}  {:<8}  {}",
                format!("{:.2} s", effect.at_s),
                ms(effect.silence_ms),
                ms(effect.detected_ms),
                ms(effect.relinked_ms),
                ms(Some(effect.back_ms)),
                ms(effect.back_silence_ms),
            );
        }
    }

    fn judgement(&self) -> String {
        let verdict = &self.verdict;
        if verdict.is_good() {
            return format!(
                "order: good. {} messages in {} group(s); each was heard exactly once by every listener of its group, all in one order ({} deliveries)\n",
                verdict.messages, verdict.groups, verdict.heard
            );
        }
        let mut out = format!(
            "order: BAD. {} fault(s) in {} messages\n",
            verdict.faults.count, verdict.messages
        );
        for fault in &verdict.faults.told {
            let _written = writeln!(out, "  {fault}");
        }
        out
    }
}

fn table(out: &mut String, title: &str, figures: &Figures) {
    if figures.is_empty() {
        return;
    }
    let _written = writeln!(out, "\n{title:<36}{:>12}{:>12}{:>12}", "median", "min", "max");
    for (name, series) in figures.iter() {
        let _written = writeln!(
            out,
            "{:<36}{:>12}{:>12}{:>12}",
            name.replace('_', " "),
            short(series.median()),
            short(series.min()),
            short(series.max())
        );
    }
}

/// Tells a person at a terminal what is being done; nobody else.
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            is_shown: std::io::stderr().is_terminal(),
        }
    }

    pub fn say(&self, text: &str) {
        if self.is_shown {
            let mut stderr = std::io::stderr().lock();
            let _closed = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.say("");
    }
}

/// To stderr, whatever becomes of it.
pub fn complain(message: &str) {
    let _closed = writeln!(std::io::stderr(), "warning: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict) -> Report {
        let mut figures = Figures::default();
        figures.add("ordered_per_s", 12_345.6);
        Report {
            machine: Machine::look(),
            question: Question {
                nodes: 4,
                clients: 4,
                connections: None,
                groups: 1,
                size_bytes: 100,
                window: 512,
                rate_per_s: None,
                duration_s: 2.0,
                rounds: 5,
            },
            figures,
            ratios: Figures::default(),
            effects: Vec::new(),
            verdict,
        }
    }

    #[test]
    fn a_good_order_is_told() {
        let good = Verdict {
            groups: 1,
            listeners: 4,
            messages: 10,
            heard: 40,
            ..Verdict::default()
        };
        let report = report(good);
        let text = report.text();
        assert!(text.contains("order: good. 10 messages"), "{text}");
        assert!(text.contains("ordered per s") && text.contains("12346"), "{text}");
        let json = report.json();
        assert_eq!(json["verdict"]["good"], true);
        assert_eq!(json["figures"]["ordered_per_s"]["median"], 12_345.6);
    }

    #[test]
    fn a_bad_order_is_told_with_what_is_wrong() {
        let mut bad = Verdict::default();
        bad.judge(
            &std::collections::BTreeMap::from([(0, 1)]),
            vec![super::super::verdict::Hearing::new("c0".to_owned())],
        );
        let report = report(bad);
        assert!(report.text().contains("order: BAD. 1 fault(s)"), "{}", report.text());
        assert!(
            report
                .text()
                .contains("c0 heard 0 messages of c0, of whom 1 were acknowledged")
        );
        assert_eq!(report.json()["verdict"]["good"], false);
    }
}
