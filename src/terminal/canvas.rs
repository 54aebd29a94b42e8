//! What is drawn where: finished lines go into the terminal's own scrollback, and below them stands a block of rows
//! (what is under way, then the prompt with the line being typed) that is drawn anew whenever something changes.
//!
//! Pure: it returns the bytes. No row reaches the last column, so that no terminal is ever left waiting to wrap, and
//! what the block takes is known.

use rustyline::GraphemeClusterMode;

use super::sanitize::harmless;
use super::text::{Colours, Measure, Paint, Styled, clusters};

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Taken for a terminal that does not tell.
pub const USUAL_SIZE: Size = Size { columns: 80, rows: 24 };
/// Nothing is drawn for less.
const COLUMNS_MIN: usize = 8;

/// The block below the finished lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// What is under way, one row each.
    pub above: Vec<Styled>,
    pub prompt: Styled,
    /// The line being typed, and the byte in front of which the cursor is.
    pub line: String,
    pub cursor: usize,
}

/// A terminal as it was drawn last.
#[derive(Debug)]
pub struct Canvas {
    pub size: Size,
    paint: Paint,
    measure: Measure,
    /// Whether the terminal wraps its rows anew when it gets another size.
    wraps_anew: bool,
    /// Columns taken by the rows of the block above the cursor's, and the place of the cursor in the block.
    above: Vec<usize>,
    cursor_row: usize,
    cursor_column: usize,
}

/// The line being typed, in rows.
struct Typed {
    rows: Vec<String>,
    cursor: (usize, usize),
}

impl Canvas {
    /// A terminal on which nothing is drawn yet.
    pub fn new(size: Size, paint: Paint, measure: Measure) -> Canvas {
        Canvas {
            size,
            paint,
            measure,
            wraps_anew: false,
            above: Vec::new(),
            cursor_row: 0,
            cursor_column: 0,
        }
    }

    /// As the environment tells what the terminal does with its rows when it gets another size.
    #[must_use]
    pub fn with_environment(mut self) -> Canvas {
        const SIGNS: [&str; 7] = [
            "TMUX",
            "VTE_VERSION",
            "KITTY_WINDOW_ID",
            "ALACRITTY_WINDOW_ID",
            "WEZTERM_PANE",
            "ITERM_SESSION_ID",
            "GHOSTTY_RESOURCES_DIR",
        ];
        self.wraps_anew = SIGNS.iter().any(|name| std::env::var_os(name).is_some());
        self
    }

    /// How wide text is on this terminal.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    fn width(&self) -> usize {
        self.size.columns.max(COLUMNS_MIN) - 1
    }

    /// Prints lines above the block and draws the block anew.
    pub fn draw(&mut self, lines: &[Styled], block: &Block) -> String {
        let mut out = self.erase();
        self.print(lines, &mut out);
        let width = self.width();
        let mut rows: Vec<String> = Vec::new();
        for line in &block.above {
            let row = line.rows(self.paint.colours, width, self.measure).into_iter().next();
            rows.push(row.unwrap_or_default());
        }
        let typed = self.typed(block, width);
        (self.cursor_row, self.cursor_column) = (rows.len() + typed.cursor.0, typed.cursor.1);
        rows.extend(typed.rows);
        let above = rows.iter().take(self.cursor_row);
        self.above = above.map(|row| self.measure.width(&strip(row))).collect();
        out.push_str(&rows.join("\r\n"));
        let up = rows.len().saturating_sub(self.cursor_row + 1);
        if up > 0 {
            out.push_str(&format!("\x1b[{up}A"));
        }
        out.push('\r');
        if typed.cursor.1 > 0 {
            out.push_str(&format!("\x1b[{}C", typed.cursor.1));
        }
        out
    }

    /// Prints lines where the block was; it is gone until it is drawn again.
    pub fn finish(&mut self, lines: &[Styled]) -> String {
        let mut out = self.erase();
        self.print(lines, &mut out);
        (self.cursor_row, self.cursor_column) = (0, 0);
        self.above.clear();
        out
    }

    /// Empties the screen; the block is to be drawn again.
    pub fn clear(&mut self) -> &'static str {
        (self.cursor_row, self.cursor_column) = (0, 0);
        self.above.clear();
        "\x1b[H\x1b[2J"
    }

    /// The terminal has another size. Some terminals wrap the rows of the block anew by that, some cut them off. Where
    /// it is not known, they are taken to be as many as they were: no finished line is ever taken for a row of the block.
    pub fn resize(&mut self, size: Size) {
        self.size = size;
        if self.wraps_anew {
            let columns = size.columns.max(1);
            let above: usize = self.above.iter().map(|width| width.div_ceil(columns).max(1)).sum();
            self.cursor_row = above + self.cursor_column / columns;
        }
    }

    fn print(&self, lines: &[Styled], out: &mut String) {
        for line in lines {
            for row in line.rows(self.paint.colours, self.width(), self.measure) {
                out.push_str(&row);
                out.push_str("\r\n");
            }
        }
    }

    /// Erases the block and puts the cursor where it began.
    fn erase(&self) -> String {
        match self.cursor_row {
            0 => "\r\x1b[J".to_owned(),
            rows => format!("\r\x1b[{rows}A\x1b[J"),
        }
    }

    /// The prompt and the line in rows; only those around the cursor if there are too many for the screen.
    fn typed(&self, block: &Block, width: usize) -> Typed {
        let prompt = block.prompt.rows(self.paint.colours, width / 2, self.measure);
        let prompt = prompt.into_iter().next().unwrap_or_default();
        let mut column = self.measure.width(&strip(&prompt));
        let mut rows = vec![prompt];
        let mut cursor = (0, column);
        let mut at = 0;
        for cluster in clusters(&block.line) {
            let shown = harmless(cluster);
            let columns = self.measure.width(&shown);
            if column + columns > width {
                rows.push(String::new());
                column = 0;
            }
            if at == block.cursor {
                cursor = (rows.len() - 1, column);
            }
            if let Some(row) = rows.last_mut() {
                row.push_str(&shown);
            }
            column += columns;
            at += cluster.len();
        }
        if block.cursor >= at {
            // Behind a full row the cursor would stand in the last column, where nothing is drawn.
            cursor = (rows.len() - 1, column);
        }
        let most = (self.size.rows / 2).max(1);
        let first = (cursor.0 + 1).saturating_sub(most);
        Typed {
            rows: rows.into_iter().skip(first).take(most).collect(),
            cursor: (cursor.0 - first, cursor.1),
        }
    }
}

/// Text without its colours.
fn strip(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

impl Canvas {
    /// For tests and for a terminal of which nothing is known.
    pub fn usual() -> Canvas {
        let paint = Paint {
            colours: Colours::None,
            unicode: true,
        };
        Canvas::new(USUAL_SIZE, paint, Measure::of(GraphemeClusterMode::WcWidth))
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::{NORMAL, NOTICE};
    use super::*;

    struct Terminal {
        canvas: Canvas,
        parser: vt100::Parser,
    }

    impl Terminal {
        fn new(columns: u16, rows: u16) -> Terminal {
            let mut canvas = Canvas::usual();
            canvas.size = Size {
                columns: columns.into(),
                rows: rows.into(),
            };
            Terminal {
                canvas,
                parser: vt100::Parser::new(rows, columns, 100),
            }
        }

        fn draw(&mut self, lines: &[&str], line: &str, cursor: usize) {
            let lines: Vec<Styled> = lines
                .iter()
                .map(|line| Styled::new(NOTICE, *line).indented(2))
                .collect();
            let block = Block {
                above: Vec::new(),
                prompt: Styled::new(NORMAL, "> "),
                line: line.to_owned(),
                cursor,
            };
            let bytes = self.canvas.draw(&lines, &block);
            self.parser.process(bytes.as_bytes());
        }

        fn rows(&self) -> Vec<String> {
            let screen = self.parser.screen();
            let (_, columns) = screen.size();
            let rows: Vec<String> = screen.rows(0, columns).map(|row| row.trim_end().to_owned()).collect();
            let used = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
            rows[..used].to_vec()
        }
    }

    #[test]
    fn lines_go_above_what_is_being_typed() {
        let mut terminal = Terminal::new(20, 6);
        terminal.draw(&["one"], "half a li", 9);
        terminal.draw(&["two"], "half a li", 4);
        assert_eq!(terminal.rows(), ["one", "two", "> half a li"]);
        assert_eq!(terminal.parser.screen().cursor_position(), (2, 6));
        terminal.draw(&["three", "four", "five", "six"], "", 0);
        assert_eq!(terminal.rows(), ["two", "three", "four", "five", "six", ">"]);
    }

    #[test]
    fn a_line_of_several_rows_is_drawn_and_erased_whole() {
        let mut terminal = Terminal::new(11, 12);
        terminal.draw(&["a"], "123456789012345678", 18);
        assert_eq!(terminal.rows(), ["a", "> 12345678", "9012345678"]);
        terminal.draw(&["a long one that wraps"], "123456789012345678", 3);
        assert_eq!(
            terminal.rows(),
            ["a", "a long one", "  that", "  wraps", "> 12345678", "9012345678"]
        );
        assert_eq!(terminal.parser.screen().cursor_position(), (4, 5));
        terminal.draw(&["b"], "", 0);
        assert_eq!(terminal.rows(), ["a", "a long one", "  that", "  wraps", "b", ">"]);
    }

    #[test]
    fn a_line_higher_than_the_screen_shows_what_is_around_the_cursor() {
        let mut terminal = Terminal::new(10, 6);
        let line: String = (0..200).map(|number| char::from(b'a' + number % 26)).collect();
        terminal.draw(&["kept"], &line, 200);
        assert_eq!(terminal.rows().len(), 4);
        terminal.draw(&["also"], &line, 0);
        assert_eq!(terminal.rows()[..3], ["kept", "also", "> abcdefg"]);
    }

    #[test]
    fn what_is_typed_moves_no_cursor() {
        let mut terminal = Terminal::new(30, 4);
        terminal.draw(&[], "a\u{1b}[2J\u{202e}b\t", 0);
        assert_eq!(terminal.rows(), ["> a\\u{1b}[2J\\u{202e}b\\t"]);
    }

    #[test]
    fn another_size_costs_no_finished_line() {
        let mut terminal = Terminal::new(30, 8);
        terminal.draw(&["first"], "twenty columns wide and more..", 30);
        assert_eq!(terminal.rows(), ["first", "> twenty columns wide and mor", "e.."]);
        for columns in [16, 30] {
            terminal.parser.screen_mut().set_size(8, columns);
            terminal.canvas.resize(Size {
                columns: columns.into(),
                rows: 8,
            });
            terminal.draw(&[], "x", 1);
            assert_eq!(terminal.rows(), ["first", "> x"]);
        }
    }

    #[test]
    fn a_terminal_that_wraps_anew_has_more_rows() {
        let mut terminal = Terminal::new(30, 8);
        terminal.canvas.wraps_anew = true;
        terminal.draw(&[], &"x".repeat(50), 50);
        assert_eq!((terminal.canvas.cursor_row, terminal.canvas.cursor_column), (1, 23));
        terminal.canvas.resize(Size { columns: 20, rows: 8 });
        // The first row takes two now, and the cursor is in the second part of the other one.
        assert_eq!(terminal.canvas.cursor_row, 3);
    }

    proptest::proptest! {
        /// Whatever is printed and typed: the finished lines stand above each other, the line being typed below, once.
        #[test]
        fn nothing_is_broken(
            steps in proptest::collection::vec(("[a-z ]{0,40}", "[a-z世👋 ]{0,50}", 0_usize..60), 1..12),
            columns in 10_u16..50,
        ) {
            let mut terminal = Terminal::new(columns, 100);
            let mut printed = String::new();
            for (said, line, cursor) in &steps {
                let mut cursor = (*cursor).min(line.len());
                while !line.is_char_boundary(cursor) {
                    cursor -= 1;
                }
                terminal.draw(&[said], line, cursor);
                printed.push_str(said);
                let all: String = terminal.rows().concat().chars().filter(|c| *c != ' ').collect();
                let expected: String = format!("{printed}>{line}").chars().filter(|c| *c != ' ').collect();
                proptest::prop_assert_eq!(all, expected);
            }
        }
    }
}
