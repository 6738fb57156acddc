//! The rows of the printed tables, with their targets.

use std::fmt::Write as _;

use super::server::Kind;

/// How a figure is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// By its ratio to the figure of the first server, which has to be small.
    Less,
    /// By its ratio to the figure of the first server, which has to be large.
    More,
    /// By itself, and it has to be small. A ratio of two figures of one server is such a figure.
    Absolute,
}

/// The definition of a row.
#[derive(Debug, Clone)]
pub(crate) struct RowSpec {
    pub(crate) name: String,
    unit: &'static str,
    scale: Scale,
    /// The targets without and with a bus.
    targets: [Option<f64>; 2],
    in_readme: bool,
}

impl RowSpec {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, scale: Scale) -> RowSpec {
        RowSpec { name: name.into(), unit, scale, targets: [None; 2], in_readme: false }
    }

    /// Sets the target without a bus.
    pub(crate) fn without_bus(mut self, target: f64) -> RowSpec {
        self.targets[0] = Some(target);
        self
    }

    /// Sets the target with a bus.
    pub(crate) fn with_bus(mut self, target: f64) -> RowSpec {
        self.targets[1] = Some(target);
        self
    }

    /// Sets both targets.
    pub(crate) fn target(self, target: f64) -> RowSpec {
        self.without_bus(target).with_bus(target)
    }

    /// Shows the row in the README, too.
    pub(crate) fn in_readme(self) -> RowSpec {
        self.in_readme_if(true)
    }

    /// Shows the row in the README, too, if `is_shown`.
    pub(crate) fn in_readme_if(mut self, is_shown: bool) -> RowSpec {
        self.in_readme = is_shown;
        self
    }

    fn target_of(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::Vmlockd { kept: true, bus } => self.targets[usize::from(bus)],
            _ => None,
        }
    }
}

/// One figure, measured several times on each server.
#[derive(Debug)]
struct Row {
    spec: RowSpec,
    /// The figures of each server, one for each round.
    figures: Vec<Vec<f64>>,
}

impl Row {
    /// Returns the median of the figures of a server, and of their ratios to those of the first
    /// server in the same round.
    fn medians(&self, server: usize) -> (f64, f64) {
        let ratios =
            self.figures[server].iter().zip(&self.figures[0]).map(|(own, first)| own / first);
        (median(&self.figures[server]), median(&ratios.collect::<Vec<_>>()))
    }

    fn cell(&self, server: usize, kind: Kind) -> String {
        let (figure, ratio) = self.medians(server);
        let judged = if self.spec.scale == Scale::Absolute { figure } else { ratio };
        let mut cell = match self.spec.scale {
            Scale::Absolute => with_unit(figure, self.spec.unit),
            Scale::Less | Scale::More => format!("{ratio:.2}"),
        };
        if let Some(target) = self.spec.target_of(kind) {
            let is_reached = match self.spec.scale {
                Scale::More => judged >= target,
                Scale::Less | Scale::Absolute => judged <= target,
            };
            let sign = if self.spec.scale == Scale::More { ">=" } else { "<=" };
            let mark = if is_reached { "ok" } else { "-" };
            let _ = write!(cell, " ({sign}{target} {mark})");
        }
        cell
    }
}

fn with_unit(figure: f64, unit: &str) -> String {
    if unit.is_empty() { format!("{figure:.2}") } else { format!("{figure:.1} {unit}") }
}

/// The figures of several rows, of all servers.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    /// The name of the first column.
    base: String,
    kinds: Vec<Kind>,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, kinds: &[Kind]) -> Table {
        let base = kinds[0].to_string();
        Table { title: title.into(), base, kinds: kinds.to_vec(), rows: Vec::new() }
    }

    /// Returns a table whose first column has this name, and the second is vmlockd.
    pub(crate) fn with_base(title: &str, base: &str) -> Table {
        let kept = Kind::Vmlockd { kept: true, bus: true };
        Table { base: base.to_owned(), ..Table::new(title, &[kept, kept]) }
    }

    /// Adds the figures of one round, each server's in the order of `specs`, and prints the rows.
    pub(crate) fn add(&mut self, specs: Vec<RowSpec>, rounds: &[Vec<Vec<f64>>]) {
        for (n, spec) in specs.into_iter().enumerate() {
            let of = |server: usize| rounds.iter().map(|round| round[server][n]).collect();
            let row = Row { spec, figures: (0..self.kinds.len()).map(of).collect() };
            if self.rows.is_empty() {
                self.print_heading();
            }
            self.print(&row);
            self.rows.push(row);
        }
    }

    fn print_heading(&self) {
        print!("\n{:48}{:>16}", self.title, self.base);
        for kind in &self.kinds[1..] {
            print!("{:>26}", kind.to_string());
        }
        println!();
    }

    fn print(&self, row: &Row) {
        print!("{:48}{:>16}", row.spec.name, with_unit(row.medians(0).0, row.spec.unit));
        for (server, kind) in self.kinds.iter().enumerate().skip(1) {
            print!("{:>26}", row.cell(server, *kind));
        }
        println!();
    }

    /// Returns the rows for the README, as lines of a Markdown table.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for row in self.rows.iter().filter(|row| row.spec.in_readme) {
            let _ = write!(text, "| {} ", row.spec.name);
            let _ =
                write!(text, "| {}: {} ", self.base, with_unit(row.medians(0).0, row.spec.unit));
            if self.kinds.len() == 2 {
                text.push_str("| ");
            }
            for (server, kind) in self.kinds.iter().enumerate().skip(1) {
                let cell = row.cell(server, *kind);
                let _ = write!(text, "| {} ", cell.split(" (").next().unwrap_or_default());
            }
            text.push_str("|\n");
        }
        text
    }
}

/// Returns the median.
pub(crate) fn median(figures: &[f64]) -> f64 {
    percentile(figures, 50)
}

/// Returns a percentile of figures, which need not be sorted.
pub(crate) fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures[(figures.len() * percent / 100).min(figures.len() - 1)]
}
