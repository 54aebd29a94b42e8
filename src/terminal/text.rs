//! Styled text: how wide it is, how it is coloured, and how it is broken into rows.

use anstyle::{Ansi256Color, AnsiColor, Color, Style};
use rustyline::GraphemeClusterMode;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use super::sanitize::harmless;
use crate::chat::fold_nick;

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    pub colours: Colours,
    /// Whether marks beyond ASCII are shown right.
    pub unicode: bool,
}

/// Which colours the terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    None,
    /// The eight that a terminal's theme defines.
    Eight,
    /// Those of xterm, which are the same everywhere.
    Many,
}

impl Colours {
    /// Those of a terminal of this kind (`TERM`) that has any.
    pub fn of(term: &str) -> Colours {
        match term {
            "linux" | "ansi" | "cons25" => Colours::Eight,
            term if term.starts_with("vt") => Colours::Eight,
            _ => Colours::Many,
        }
    }
}

impl Paint {
    /// No colour, ASCII only.
    pub const PLAIN: Paint = Paint {
        colours: Colours::None,
        unicode: false,
    };

    /// The one of two texts that can be shown.
    pub fn mark(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }
}

/// Numbers, times and marks.
pub const NUMBER: Style = Style::new().dimmed();
/// Who came and went.
pub const PRESENCE: Style = Style::new().dimmed();
/// What is under way.
pub const WAITING: Style = Style::new().dimmed();
/// The prompt.
pub const PROMPT: Style = Style::new().bold();
/// The mark of a line that names its reader.
pub const MENTION: Style = Style::new().bold().invert();
/// What the program says itself.
pub const NOTICE: Style = Style::new().fg_color(Some(Color::Ansi256(Ansi256Color(130))));
/// Private messages.
pub const PRIVATE: Style = Style::new().fg_color(Some(Color::Ansi256(Ansi256Color(133)))).bold();
/// What went wrong.
pub const TROUBLE: Style = Style::new().fg_color(Some(Color::Ansi256(Ansi256Color(160))));
/// Text.
pub const NORMAL: Style = Style::new();

/// Of xterm's colour cube, those that can be read on black and on white (a test computes the contrast).
const NICKS: [u8; 16] = [27, 28, 30, 32, 63, 64, 66, 97, 99, 130, 132, 135, 161, 163, 166, 168];
/// Where there are only eight: those that themes make readable on their background.
const FEW_NICKS: [AnsiColor; 5] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Green,
    AnsiColor::Blue,
    AnsiColor::Red,
];

/// The colour of a nick: the same in every session, for everybody, whatever its case.
pub fn nick_style(nick: &str, colours: Colours) -> Style {
    // FNV-1a, which spreads short names well.
    let hash = fold_nick(nick).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let pick = |count: usize| usize::try_from(hash % count as u64).unwrap_or_default();
    let colour: Option<Color> = match colours {
        Colours::None => None,
        Colours::Eight => FEW_NICKS.get(pick(FEW_NICKS.len())).map(|colour| (*colour).into()),
        Colours::Many => NICKS.get(pick(NICKS.len())).map(|colour| Ansi256Color(*colour).into()),
    };
    Style::new().fg_color(colour)
}

/// A line for the screen, in pieces of one style each. Whatever goes in through [`Styled::foreign`] is made harmless.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Styled {
    pieces: Vec<(Style, String)>,
    /// Columns by which further rows are set in, so that no text of others can look like the beginning of a line.
    indent: usize,
    /// Whether a bar stands before further rows: they may have somebody's text.
    has_bar: bool,
}

impl Styled {
    /// A line that begins with a text of this program's own.
    pub fn new(style: Style, text: impl Into<String>) -> Styled {
        Styled::default().with(style, text)
    }

    /// Adds a text of this program's own.
    #[must_use]
    pub fn with(mut self, style: Style, text: impl Into<String>) -> Styled {
        self.pieces.push((style, text.into()));
        self
    }

    /// Adds somebody's text.
    #[must_use]
    pub fn foreign(self, style: Style, text: &str) -> Styled {
        let harmless = harmless(text).into_owned();
        self.with(style, harmless)
    }

    /// Adds another line's pieces.
    #[must_use]
    pub fn joined(mut self, other: Styled) -> Styled {
        self.pieces.extend(other.pieces);
        self
    }

    /// Further rows are set in by so many columns.
    #[must_use]
    pub fn indented(mut self, columns: usize) -> Styled {
        self.indent = columns;
        self
    }

    /// Further rows are set in by so many columns, the last two of which are a bar and a space.
    #[must_use]
    pub fn barred(mut self, columns: usize) -> Styled {
        self.has_bar = true;
        self.indented(columns)
    }

    /// The text without its styles.
    pub fn plain(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// In one row, whatever its length.
    pub fn painted(&self, colours: Colours) -> String {
        let mut row = Row::default();
        for (style, text) in &self.pieces {
            row.push(*style, text, colours);
        }
        row.end()
    }

    /// In rows of at most `width` columns, broken at spaces where there are any.
    pub fn rows(&self, colours: Colours, width: usize, measure: Measure) -> Vec<String> {
        let width = width.max(2);
        let indent = if self.indent * 2 > width {
            width / 4
        } else {
            self.indent
        };
        let mut rows = Vec::new();
        let margin = match self.has_bar {
            true => format!("{}| ", " ".repeat(indent.saturating_sub(2))),
            false => " ".repeat(indent),
        };
        let mut row = Filling::new("");
        for (style, text) in &self.pieces {
            for cluster in clusters(text) {
                let columns = measure.width(cluster);
                let mut is_new = false;
                while row.width + columns > width && !row.is_blank() {
                    // A space ends a word that fits to the last column.
                    let rest = if cluster == " " {
                        Vec::new()
                    } else {
                        row.break_off(width / 3, width - indent)
                    };
                    rows.push(row.paint(colours));
                    row = Filling::new(&margin);
                    rest.into_iter().for_each(|piece| row.push(piece));
                    is_new = true;
                }
                // The space at which a row ends is not shown again in the next one.
                if !(is_new && row.is_blank() && cluster == " ") {
                    row.push((*style, cluster, columns));
                }
            }
        }
        rows.push(row.paint(colours));
        rows
    }
}

/// A row being filled, cluster by cluster, behind an ASCII margin.
struct Filling<'a> {
    margin: &'a str,
    clusters: Vec<(Style, &'a str, usize)>,
    width: usize,
}

impl<'a> Filling<'a> {
    fn new(margin: &'a str) -> Filling<'a> {
        Filling {
            margin,
            clusters: Vec::new(),
            width: margin.len(),
        }
    }

    fn push(&mut self, cluster: (Style, &'a str, usize)) {
        self.width += cluster.2;
        self.clusters.push(cluster);
    }

    fn is_blank(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Takes off the beginning of the word that did not fit, unless the row would keep fewer than `least` columns or the
    /// next one, with `most`, has no room for it.
    fn break_off(&mut self, least: usize, most: usize) -> Vec<(Style, &'a str, usize)> {
        let Some(space) = self.clusters.iter().rposition(|(_, cluster, _)| *cluster == " ") else {
            return Vec::new();
        };
        let kept: usize = self
            .clusters
            .iter()
            .take(space + 1)
            .map(|(_, _, columns)| columns)
            .sum();
        if kept + self.margin.len() < least || self.width - self.margin.len() - kept > most {
            return Vec::new();
        }
        self.clusters.split_off(space + 1)
    }

    fn paint(&self, colours: Colours) -> String {
        let mut row = Row::default();
        row.push(WAITING, self.margin, colours);
        for (style, cluster, _) in &self.clusters {
            row.push(*style, cluster, colours);
        }
        row.end()
    }
}

/// A style for terminals that have eight colours.
fn of_eight(style: Style) -> Style {
    let colour = match style.get_fg_color() {
        Some(colour) if Some(colour) == NOTICE.get_fg_color() => AnsiColor::Yellow,
        Some(colour) if Some(colour) == PRIVATE.get_fg_color() => AnsiColor::Magenta,
        Some(colour) if Some(colour) == TROUBLE.get_fg_color() => AnsiColor::Red,
        _ => return style,
    };
    style.fg_color(Some(colour.into()))
}

/// Text with escape sequences where the style changes.
#[derive(Default)]
struct Row {
    text: String,
    style: Style,
}

impl Row {
    fn push(&mut self, style: Style, text: &str, colours: Colours) {
        use std::fmt::Write as _;
        let style = if colours == Colours::Eight {
            of_eight(style)
        } else {
            style
        };
        if colours != Colours::None && style != self.style {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{:#}{style}", self.style);
            self.style = style;
        }
        self.text.push_str(text);
    }

    fn end(mut self) -> String {
        use std::fmt::Write as _;
        let _ = write!(self.text, "{:#}", self.style);
        self.text
    }
}

/// Grapheme clusters, see UAX #29. A line is laid out anew at every key, so what needs no table is taken without one:
/// nothing joins two characters of printable ASCII.
pub fn clusters(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.as_bytes() {
            [] => return None,
            [b' '..=b'~'] | [b' '..=b'~', b' '..=b'~', ..] => 1,
            _ => rest.graphemes(true).next()?.len(),
        };
        let (cluster, behind) = rest.split_at(end);
        rest = behind;
        Some(cluster)
    })
}

/// Makes one picture of those before and behind it, where the terminal can.
const JOINER: char = '\u{200d}';

/// How many columns text takes on this terminal.
#[derive(Debug, Clone, Copy)]
pub struct Measure(GraphemeClusterMode);

impl Measure {
    /// As the environment tells what the terminal does with clusters of characters.
    pub fn from_environment() -> Measure {
        Measure(GraphemeClusterMode::from_env())
    }

    /// As told.
    pub fn of(mode: GraphemeClusterMode) -> Measure {
        Measure(mode)
    }

    /// Columns of a text. As rustyline reckons, which panics where somebody's cluster has more columns than a `u16`.
    pub fn width(self, text: &str) -> usize {
        match self.0 {
            GraphemeClusterMode::Unicode => text.width(),
            GraphemeClusterMode::WcWidth => text.chars().map(|c| c.width().unwrap_or(0)).sum(),
            GraphemeClusterMode::NoZwj => text.split(JOINER).map(UnicodeWidthStr::width).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURE: Measure = Measure(GraphemeClusterMode::WcWidth);

    proptest::proptest! {
        #[test]
        fn clusters_are_those_of_unicode(text in r"([a-z \r\n~=]|\u{301}|\u{200d}|\u{fe0f}|👩|🇦|🇧|각|ᄀ|ᅡ|क|\u{94d}|\PC){0,40}") {
            let ours: Vec<&str> = clusters(&text).collect();
            let unicode: Vec<&str> = text.graphemes(true).collect();
            proptest::prop_assert_eq!(ours, unicode);
        }
    }

    fn rows(text: &str, indent: usize, width: usize) -> Vec<String> {
        let line = Styled::new(NORMAL, text).indented(indent);
        line.rows(Colours::None, width, MEASURE)
    }

    #[test]
    fn rows_break_at_spaces_and_are_set_in() {
        assert_eq!(rows("one two three", 2, 9), ["one two ", "  three"]);
        assert_eq!(rows("abcdefghijkl", 2, 6), ["abcdef", "  ghij", "  kl"]);
        assert_eq!(rows("世界世界", 0, 5), ["世界", "世界"]);
        assert_eq!(rows("", 4, 10), [""]);
        assert_eq!(rows("exactly ten", 0, 7), ["exactly", "ten"]);
    }

    #[test]
    fn no_text_reaches_the_first_column_of_a_further_row() {
        let forged = format!("[1]  eve: {}[2]  dennis: yes", " ".repeat(23));
        for width in 20..60 {
            for row in rows(&forged, 6, width).iter().skip(1) {
                assert!(row.starts_with("     "), "{width}: {row:?}");
            }
            let barred = Styled::default().foreign(NORMAL, &forged).barred(8);
            for row in barred.rows(Colours::None, width, MEASURE).iter().skip(1) {
                assert!(row.trim_start().starts_with("| "), "{width}: {row:?}");
            }
        }
    }

    #[test]
    fn a_cluster_of_any_width_is_measured() {
        // Hangul that makes one cluster, whose columns add up.
        let wide = "\u{1100}".repeat(40_000);
        for mode in [
            GraphemeClusterMode::Unicode,
            GraphemeClusterMode::WcWidth,
            GraphemeClusterMode::NoZwj,
        ] {
            let measure = Measure::of(mode);
            assert!(measure.width(&wide) > usize::from(u16::MAX), "{mode:?}");
            for text in ["", "abc", "世界", "é", "e\u{301}"] {
                assert_eq!(measure.width(text), usize::from(mode.width(text)), "{mode:?} {text}");
            }
            assert!(
                !Styled::default()
                    .foreign(NORMAL, &wide)
                    .rows(Colours::None, 80, measure)
                    .is_empty()
            );
        }
    }

    #[test]
    fn colours_are_put_back_at_the_end_of_each_row() {
        let line = Styled::new(TROUBLE, "one two three").with(NORMAL, " four");
        for row in line.rows(Colours::Many, 8, MEASURE) {
            let last = row.rfind('\u{1b}').map(|at| &row[at..]);
            assert!(last.is_none_or(|last| last.starts_with("\u{1b}[0m")), "{row:?}");
        }
        assert!(!line.painted(Colours::None).contains('\u{1b}'));
    }

    #[test]
    fn eight_colours_are_enough() {
        for style in [NOTICE, PRIVATE, TROUBLE, nick_style("bob", Colours::Eight)] {
            let painted = Styled::new(style, "x").painted(Colours::Eight);
            assert!(painted.contains("\u{1b}[3") && !painted.contains("38;5"), "{painted:?}");
        }
    }

    /// Contrast as WCAG 2 defines it.
    fn contrast(colour: u8, background: f64) -> f64 {
        let level = |index: u8| {
            if index == 0 {
                0.0
            } else {
                (55.0 + 40.0 * f64::from(index)) / 255.0
            }
        };
        let linear = |value: f64| {
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        let index = colour - 16;
        let [red, green, blue] = [index / 36, index / 6 % 6, index % 6].map(|index| linear(level(index)));
        let luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
        let (bright, dark) = (luminance.max(background), luminance.min(background));
        (bright + 0.05) / (dark + 0.05)
    }

    #[test]
    fn every_nick_can_be_read_on_black_and_on_white() {
        let others = [NOTICE, PRIVATE, TROUBLE].map(|style| match style.get_fg_color() {
            Some(Color::Ansi256(colour)) => colour.0,
            other => panic!("{other:?}"),
        });
        for colour in NICKS.into_iter().chain(others) {
            let (on_black, on_white) = (contrast(colour, 0.0), contrast(colour, 1.0));
            assert!(
                on_black >= 3.5 && on_white >= 3.5,
                "{colour}: {on_black:.1} {on_white:.1}"
            );
        }
    }

    #[test]
    fn a_nick_keeps_its_colour() {
        assert_eq!(nick_style("Dennis", Colours::Many), nick_style("dENNIS", Colours::Many));
        let many: std::collections::BTreeSet<_> = (0..200)
            .map(|number| format!("{:?}", nick_style(&format!("user{number}"), Colours::Many)))
            .collect();
        assert_eq!(many.len(), NICKS.len(), "all colours are used");
        assert_eq!(nick_style("x", Colours::None), Style::new());
    }

    proptest::proptest! {
        #[test]
        fn no_row_is_too_wide(text in "[a-z 世é]{0,80}", indent in 0_usize..12, width in 4_usize..40) {
            let rows = rows(&text, indent, width);
            for row in &rows {
                proptest::prop_assert!(MEASURE.width(row) <= width, "{:?}", row);
            }
            let kept: String = rows.concat().chars().filter(|c| *c != ' ').collect();
            let all: String = text.chars().filter(|c| *c != ' ').collect();
            proptest::prop_assert_eq!(kept, all);
        }
    }
}
