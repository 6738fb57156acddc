//! A terminal with a program on it, and what a person sees there.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::pty::{Winsize, openpty};
use rustix::termios::{LocalModes, tcgetattr, tcsetwinsize};
use tokio::{
    process::Command,
    task::{spawn_blocking, yield_now},
};
use unicode_width::UnicodeWidthChar;

use super::{Process, within};

/// A pseudoterminal that a program has for itself.
pub(crate) struct Terminal {
    master: File,
    /// What was written to it so far.
    pub(crate) seen: String,
    pub(crate) process: Process,
}

/// Where the program's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Terminal,
    Nowhere,
}

impl Terminal {
    /// Starts a program on a terminal: `setsid` is the program of `command`, which has no arguments.
    pub(crate) fn start(
        command: Command,
        columns: u16,
        output: Output,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Self {
        let pair = openpty(&size(columns), None).unwrap();
        let mut command = command.into_std();
        let script = match output {
            Output::Terminal => "exec \"$@\" 1>&0 2>&0",
            Output::Nowhere => "exec \"$@\" 2>&0",
        };
        command.args(["--ctty", "sh", "-c", script, "sh"]).arg(program).args(arguments);
        command.stdin(pair.slave).stdout(Stdio::null());
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm");
        }
        let process = Process::start("a program on a terminal", command, log);
        Self { master: File::from(pair.master), seen: String::new(), process }
    }

    /// What is written next; empty once no program has the terminal open.
    async fn read(&mut self, what: &str) -> String {
        let mut master = self.master.try_clone().unwrap();
        let read = spawn_blocking(move || {
            let mut bytes = [0; 4096];
            let n = master.read(&mut bytes).unwrap_or_default();
            bytes[..n].to_vec()
        });
        let bytes = within(what, read).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.seen += &text;
        text
    }

    /// Returns once this has been written on it.
    pub(crate) async fn until_seen(&mut self, words: &str) {
        while !self.seen.contains(words) {
            let read = self.read(words).await;
            assert!(!read.is_empty(), "it has ended before {words:?}: {:?}", self.seen);
        }
    }

    /// Returns once the program has ended, and all is read.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        while !self.read("the end of a program on a terminal").await.is_empty() {}
        within("its end", self.process.ended()).await
    }

    /// Types this.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Whether it shows what is typed.
    pub(crate) fn echoes(&self) -> bool {
        tcgetattr(&self.master).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Returns once it does not show what is typed. There is no event to wait for.
    pub(crate) async fn until_it_does_not_echo(&self) {
        let silent = async {
            while self.echoes() {
                yield_now().await;
            }
        };
        within("a terminal that does not echo", silent).await;
    }

    /// Gives it another width.
    pub(crate) fn resize(&self, columns: u16) {
        let Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel } = size(columns);
        let size = rustix::termios::Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel };
        tcsetwinsize(&self.master, size).unwrap();
    }
}

fn size(columns: u16) -> Winsize {
    Winsize { ws_row: 25, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// What a person sees: the rows of a terminal, which scrolls without an end.
#[derive(Debug)]
pub(crate) struct Screen {
    columns: usize,
    /// Each cell has a character, with those that combine with it; what continues a wide one is empty.
    rows: Vec<Vec<String>>,
    /// Whether a row goes on in the next one, as it was too long.
    wraps: Vec<bool>,
    cursor: (usize, usize),
    autowrap: bool,
}

impl Screen {
    pub(crate) fn new(columns: u16) -> Self {
        let columns = columns.into();
        Self { columns, rows: vec![vec![]], wraps: vec![false], cursor: (0, 0), autowrap: true }
    }

    /// Shows what a program has written.
    pub(crate) fn show(&mut self, text: &str) {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\r' => self.cursor.1 = 0,
                '\n' => self.down(false),
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['));
                    let sequence: String = chars.by_ref().take(1).collect();
                    match sequence.as_str() {
                        "J" => self.erase(true),
                        "K" => self.erase(false),
                        "?" => match chars.by_ref().take(2).collect::<String>().as_str() {
                            "7l" => self.autowrap = false,
                            "7h" => self.autowrap = true,
                            other => panic!("escape sequence ?{other}"),
                        },
                        other => panic!("escape sequence {other}"),
                    }
                }
                c => self.put(c),
            }
        }
    }

    /// The rows, without those at the end that are empty.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |row: &Vec<String>| row.concat().trim_end().to_owned();
        let mut lines: Vec<String> = self.rows.iter().map(line).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Another width, on a terminal that cuts rows that are too long.
    pub(crate) fn resize_cutting(&mut self, columns: u16) {
        self.columns = columns.into();
        self.rows.iter_mut().for_each(|row| row.truncate(columns.into()));
        self.cursor.1 = self.cursor.1.min(self.columns - 1);
    }

    /// Another width, on a terminal that wraps rows anew; the cursor stays on its character.
    pub(crate) fn resize_wrapping(&mut self, columns: u16) {
        let columns = usize::from(columns);
        let (mut rows, mut wraps, mut cursor): (Vec<Vec<String>>, Vec<bool>, _) =
            (vec![], vec![], (0, 0));
        let mut continues = false;
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = if continues { rows.pop().unwrap_or_default() } else { vec![] };
            if continues {
                wraps.pop();
            }
            let begin = line.len();
            line.extend(row.iter().cloned());
            if at == self.cursor.0 {
                let cell = begin + self.cursor.1;
                cursor = (rows.len() + cell / columns, cell % columns);
            }
            let parts = line.chunks(columns).count().max(1);
            for n in 0..parts {
                rows.push(line.chunks(columns).nth(n).unwrap_or_default().to_vec());
                wraps.push(n + 1 < parts);
            }
            continues = self.wraps[at];
        }
        (self.rows, self.wraps, self.cursor, self.columns) = (rows, wraps, cursor, columns);
    }

    fn down(&mut self, wrapped: bool) {
        let row = self.cursor.0;
        self.wraps[row] = wrapped;
        self.cursor.0 += 1;
        if self.cursor.0 == self.rows.len() {
            self.rows.push(vec![]);
            self.wraps.push(false);
        }
    }

    fn put(&mut self, c: char) {
        let wide = c.width().expect("no control character is left");
        let (mut row, mut column) = self.cursor;
        if wide == 0 {
            self.rows[row][column - 1].push(c);
            return;
        }
        if column + wide > self.columns {
            if self.autowrap {
                self.down(true);
                (row, column) = (self.cursor.0, 0);
            } else {
                column = self.columns - wide;
            }
        }
        let cells = &mut self.rows[row];
        cells.resize(cells.len().max(column + wide), " ".to_owned());
        cells[column] = c.to_string();
        cells[column + 1..column + wide].iter_mut().for_each(String::clear);
        self.cursor = (row, column + wide);
    }

    /// Erases from the cursor to the end of its row, or of the screen.
    fn erase(&mut self, all: bool) {
        let (row, column) = self.cursor;
        self.rows[row].truncate(column);
        self.wraps[row] = false;
        if all {
            self.rows.truncate(row + 1);
            self.wraps.truncate(row + 1);
        }
    }
}
