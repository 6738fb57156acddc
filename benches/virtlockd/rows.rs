//! The rows of the printed tables.

use super::server::Kind;

/// One figure, measured several times on each server.
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    figures: Vec<Vec<f64>>,
}

impl Row {
    pub(crate) fn new(name: &str, unit: &'static str, servers: usize) -> Row {
        Row { name: name.to_owned(), unit, figures: vec![Vec::new(); servers] }
    }

    /// Adds a measurement of a server.
    pub(crate) fn add(&mut self, server: usize, figure: f64) {
        self.figures[server].push(figure);
    }

    /// Prints the median of the first server, and the ratios of the others to it.
    pub(crate) fn print(&self) {
        let mut medians = self.figures.iter().map(|figures| median(figures));
        let first = medians.next().expect("virtlockd is one of them");
        print!("{:37}{:>18}", self.name, format!("{first:.1} {}", self.unit));
        for other in medians {
            print!("{:>18}", format!("{:.2}", other / first));
        }
        println!();
    }
}

/// Returns the median.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Prints the head of a table with one column for each server.
pub(crate) fn heading(title: &str, servers: &[Kind]) {
    print!("\n{title:37}");
    for kind in servers {
        print!("{:>18}", kind.to_string());
    }
    println!();
}
