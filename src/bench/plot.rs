//! Deliveries over time as an SVG: a line for each listener, and what was done to the ring.

use std::fmt::Write as _;

use super::pace::Micros;
use super::timeline::Timeline;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
/// Room for the axes' numbers.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;
/// Points of a line at most; the steps in which deliveries are counted are as long as that takes, but not shorter than
/// [`SHORTEST_STEP_US`].
const POINTS_MAX: u64 = 2000;
const SHORTEST_STEP_US: Micros = 10_000;
/// Listeners that are drawn: with more, one could not be told from another.
const LINES_MAX: usize = 4;
/// How many times the mean the chart is high.
const MEANS_SHOWN: f64 = 2.0;
const COLOURS: [&str; LINES_MAX] = ["#1b6ca8", "#d1495b", "#2e8b57", "#8a5fbf"];

/// Something that was done to the ring.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub at_us: Micros,
    pub label: String,
}

/// Draws what the listeners were told from `from_us` to `until_us`.
pub fn svg(title: &str, timelines: &[&Timeline], marks: &[Mark], from_us: Micros, until_us: Micros) -> String {
    let span_us = until_us.saturating_sub(from_us).max(1);
    let step_us = SHORTEST_STEP_US.max(span_us.div_ceil(POINTS_MAX));
    let lines: Vec<Vec<f64>> = timelines
        .iter()
        .take(LINES_MAX)
        .map(|timeline| {
            let steps = timeline.steps(from_us, until_us, step_us);
            steps.iter().map(|count| *count as f64 * 1e6 / step_us as f64).collect()
        })
        .collect();
    let chart = Chart {
        seconds: span_us as f64 / 1e6,
        step_s: step_us as f64 / 1e6,
        top: top(&lines),
    };
    let mut out = chart.frame(title);
    for (line, colour) in lines.iter().zip(COLOURS) {
        chart.line(&mut out, line, colour);
    }
    for mark in marks.iter().filter(|mark| (from_us..until_us).contains(&mark.at_us)) {
        chart.mark(&mut out, (mark.at_us - from_us) as f64 / 1e6, &mark.label);
    }
    out.push_str("</svg>\n");
    out
}

/// The upper edge. What a silence held up comes in one step, many times as much as usual: it is cut off, for otherwise the
/// usual, and with it the silence, could not be seen.
fn top(lines: &[Vec<f64>]) -> f64 {
    let all: Vec<f64> = lines.iter().flatten().copied().collect();
    let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
    let highest = all.into_iter().fold(1.0, f64::max);
    round_up(highest.min((MEANS_SHOWN * mean).max(1.0)))
}

struct Chart {
    seconds: f64,
    step_s: f64,
    /// Messages a second at the upper edge.
    top: f64,
}

impl Chart {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds
    }

    fn y(&self, per_s: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * per_s / self.top
    }

    /// Title, axes and what they say.
    fn frame(&self, title: &str) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}</text>\n",
            escaped(title)
        );
        for part in 0..=4 {
            let per_s = self.top * f64::from(part) / 4.0;
            let (y, right) = (self.y(per_s), WIDTH - RIGHT);
            let _written = write!(
                out,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{per_s:.0}</text>\n",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let every = round_up(self.seconds / 10.0);
        let mut at = 0.0;
        while at <= self.seconds {
            let _written = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                self.x(at),
                HEIGHT - BOTTOM + 16.0,
                (at * 1000.0).round() / 1000.0
            );
            at += every;
        }
        let _written = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">seconds; messages a second at each listener, in steps of {:.0} ms; what is higher is cut off</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            self.step_s * 1000.0
        );
        out
    }

    fn line(&self, out: &mut String, per_s: &[f64], colour: &str) {
        let points: Vec<String> = per_s
            .iter()
            .enumerate()
            .map(|(step, per_s)| {
                let middle = ((step as f64 + 0.5) * self.step_s).min(self.seconds);
                format!("{:.1},{:.1}", self.x(middle), self.y(per_s.min(self.top)))
            })
            .collect();
        let _written = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\" stroke-opacity=\"0.7\" points=\"{}\"/>",
            points.join(" ")
        );
    }

    fn mark(&self, out: &mut String, seconds: f64, label: &str) {
        let x = self.x(seconds);
        let _written = write!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"black\" stroke-dasharray=\"3 3\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            HEIGHT - BOTTOM,
            TOP - 6.0,
            escaped(label)
        );
    }
}

/// The next of 1, 2, 5, 10, 20, ... and so on down.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(f64::MIN_POSITIVE).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the elements, if each is closed in the order in which it was opened.
    fn elements(svg: &str) -> Vec<String> {
        let (mut names, mut open) = (Vec::new(), Vec::new());
        for tag in svg.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').expect("a tag ends");
            assert!(
                !text.contains('&') || text.contains("&amp;") || text.contains("&gt;"),
                "{text}"
            );
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()), "{svg}");
                continue;
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag.split([' ', '/']).next().expect("a name").to_owned();
            if !tag.ends_with('/') {
                open.push(name.clone());
            }
            names.push(name);
        }
        assert!(open.is_empty(), "not closed: {open:?}");
        names
    }

    #[test]
    fn a_plot_is_well_formed_and_shows_listeners_and_marks() {
        let mut timeline = Timeline::default();
        for at in 0..100 {
            timeline.push(1_000_000 + at * 10_000, 10).expect("room");
        }
        let marks = [1_500_000, 9_000_000].map(|at_us| Mark {
            at_us,
            label: "kill of node 2 <&>".to_owned(),
        });
        let svg = svg("a & b > c", &[&timeline; 6], &marks, 1_000_000, 2_000_000);
        let elements = elements(&svg);
        assert_eq!(elements.iter().filter(|name| *name == "polyline").count(), LINES_MAX);
        assert_eq!(
            svg.matches("kill of node 2").count(),
            1,
            "the other mark is later: {svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_can_be_drawn_too() {
        let svg = svg("", &[], &[], 5, 5);
        assert!(!elements(&svg).is_empty());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn what_a_silence_held_up_is_cut_off() {
        let mut usual = vec![1000.0; 100];
        usual[50] = 0.0;
        usual[51] = 100_000.0;
        assert_eq!(top(&[usual]), 5000.0);
        assert_eq!(top(&[vec![900.0, 1100.0]]), 2000.0);
        assert_eq!(top(&[]), 1.0);
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(
            [0.03, 1.0, 1.2, 4400.0, 7000.0].map(round_up),
            [0.05, 1.0, 2.0, 5000.0, 10_000.0]
        );
    }
}
