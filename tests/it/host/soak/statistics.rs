//! Counters of the run.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

/// The numbers that a run ends with.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    /// How many commands have come to their end; who waits for the load to go on waits for this.
    commands: watch::Sender<usize>,
    pub(super) kills: Cell<usize>,
    /// Kills of a service that was still coming back.
    pub(super) early_kills: Cell<usize>,
    pub(super) aborts: Cell<usize>,
    pub(super) acquired: Cell<usize>,
    pub(super) released: Cell<usize>,
    pub(super) converted: Cell<usize>,
    pub(super) paused: Cell<usize>,
    pub(super) moved: Cell<usize>,
    pub(super) opened: Cell<usize>,
    pub(super) ended: Cell<usize>,
    /// Unanswered calls: further calls determined whether they had taken effect.
    pub(super) doubts: Cell<usize>,
    /// How often disks of living owners were tried right after a restart.
    tries: RefCell<BTreeMap<String, usize>>,
    /// From each kill until there was a service again.
    pub(super) restores: RefCell<Vec<Duration>>,
    /// How long the locks of each owner stayed that had ended.
    pub(super) orphaned: RefCell<Vec<Duration>>,
}

/// Increments a counter.
pub(super) fn count(number: &Cell<usize>) {
    number.set(number.get() + 1);
}

impl Statistics {
    /// A command has come to its end.
    pub(super) fn command(&self) {
        self.commands.send_modify(|commands| *commands += 1);
    }

    /// Waits until so many more commands have.
    pub(super) async fn commands(&self, more: usize) {
        let mut commands = self.commands.subscribe();
        let wanted = *commands.borrow() + more;
        commands.wait_for(|commands| *commands >= wanted).await.expect("the sender is ours");
    }

    /// A disk was tried.
    pub(super) fn tried(&self, disk: &str) {
        *self.tries.borrow_mut().entry(disk.to_owned()).or_default() += 1;
    }
}

fn spread(times: &RefCell<Vec<Duration>>) -> String {
    let mut times = times.borrow().clone();
    times.sort_unstable();
    match times[..] {
        [] => "none".to_owned(),
        [.., last] => format!("median {:.0?}, longest {last:.0?}", times[times.len() / 2]),
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kills, early, aborts) = (self.kills.get(), self.early_kills.get(), self.aborts.get());
        writeln!(f, "  {kills} kills, {early} of them while it came back; {aborts} aborts")?;
        let (acquired, released) = (self.acquired.get(), self.released.get());
        let (converted, doubts) = (self.converted.get(), self.doubts.get());
        writeln!(f, "  {acquired} acquisitions acknowledged, {released} releases, {converted}")?;
        writeln!(f, "  conversions; {doubts} calls without an answer, settled by asking again")?;
        let (paused, moved) = (self.paused.get(), self.moved.get());
        writeln!(f, "  {paused} times suspended, {moved} times handed over")?;
        writeln!(f, "  {} owners opened, {} ended", self.opened.get(), self.ended.get())?;
        let tries = self.tries.borrow();
        let (least, most) = (tries.values().min(), tries.values().max());
        let sum: usize = tries.values().sum();
        writeln!(
            f,
            "  after restarts {sum} tries at {} disks, {least:?} to {most:?} each",
            tries.len()
        )?;
        writeln!(f, "  back after a kill: {}", spread(&self.restores))?;
        write!(f, "  without a living owner until given again: {}", spread(&self.orphaned))
    }
}
