//! The queue between the threads that log and the thread that writes.
//!
//! 1. A thread that logs appends its line to a buffer, and never waits. Reading the clock or waking the
//!    writer for each line would cost more than the line.
//! 2. The writer is woken at most once for each batch of lines. It lets information gather for
//!    [`MAX_DELAY`], so that a burst of lines costs one wake-up and one write; it writes warnings and
//!    errors, with all lines before them, at once.
//! 3. The queue is bounded. A line that does not fit is dropped and counted, and the number of dropped
//!    lines is reported in their place. The last part of the queue is reserved for warnings and errors,
//!    so information cannot displace them.
//! 4. [`LogQueue::flush`] waits a bounded time until all queued lines are written. A process that is killed
//!    loses the lines of its last milliseconds.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use nix::sys::signal::SigSet;
use tracing::Level;

use super::batch::{LineBatch, LineRun};
use crate::sync;

/// The maximum size of all lines that are not written, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// The maximum number of lines that are not written.
pub(super) const MAX_LINES: usize = 16 << 10;
/// The part of both limits that is reserved for warnings and errors: one in this number.
const RESERVED: usize = 4;
/// How long information may wait for further lines before it is written.
const MAX_DELAY: Duration = Duration::from_millis(10);
/// The size of queued lines, in bytes, that are written without a delay.
const LARGE_BATCH: usize = 512 << 10;
/// How long [`LogQueue::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A destination of lines.
pub(super) trait Sink: Send + 'static {
    /// The maximum number of lines of one write.
    const MAX_LINES: usize;

    /// Writes whole lines, and waits as long as necessary. Returns whether they are written.
    fn write(&mut self, lines: &[u8]) -> bool;

    /// Writes a warning that `lines` lines were dropped.
    fn report_dropped(&mut self, lines: u64);
}

/// Whether a line may wait for further lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Information, which is written after a delay and dropped first.
    Low,
    /// A warning or an error.
    High,
}

impl Urgency {
    /// Returns the urgency of a level.
    pub(super) fn of(level: Level) -> Self {
        if level <= Level::WARN { Self::High } else { Self::Low }
    }
}

/// The activity of the writer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// Waits for a line.
    Idle,
    /// Waits for [`MAX_DELAY`], or is about to.
    Delaying,
    /// Writes, or is about to.
    #[default]
    Writing,
}

/// A queue of lines, with its writer.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    state: Mutex<State>,
    /// Notified when the writer has to stop waiting.
    wake: Condvar,
    /// Notified when lines are written and a thread waits for that.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batch: LineBatch,
    /// The size and the number of all lines that are not written, including those that the writer has
    /// begun to write.
    bytes: usize,
    lines: usize,
    /// The number of lines that were dropped since the last line that was queued.
    dropped: u64,
    writer: WriterState,
    /// Whether the batch must be written without a delay.
    is_due: bool,
    /// The numbers of lines that were ever queued, and written.
    total_queued: u64,
    total_written: u64,
    /// The number of threads in [`LogQueue::flush`].
    flushing: usize,
}

impl LogQueue {
    /// Starts the writer.
    pub(super) fn start<O: Sink>(output: O) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let of_writer = Arc::clone(&queue);
        let run = move || of_writer.run(output);
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(queue)
    }

    /// Queues a line, or drops and counts it. Does not wait.
    pub(super) fn push(&self, urgency: Urgency, line: &[u8]) {
        let mut state = self.state();
        if !state.has_room(urgency, line.len()) {
            state.dropped += 1;
            return;
        }
        state.push(line);
        let is_due = urgency == Urgency::High || state.batch.size() >= LARGE_BATCH;
        if state.wakes(is_due) {
            // The writer would wait for the mutex.
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Waits until all lines that are queued now are written, for [`FLUSH_TIMEOUT`] at most.
    pub(super) fn flush(&self) {
        let mut state = self.state();
        let number = state.total_queued;
        if state.lines > 0 && state.wakes(true) {
            self.wake.notify_one();
        }
        state.flushing += 1;
        let is_pending = |state: &mut State| state.total_written < number;
        let flushed = self.written.wait_timeout_while(state, FLUSH_TIMEOUT, is_pending);
        flushed.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Writes one batch after the other, for as long as the program runs.
    fn run<O: Sink>(&self, mut output: O) {
        // The main thread handles signals. Blocking all of them cannot fail.
        let _ = SigSet::all().thread_block();
        let mut batch = LineBatch::default();
        loop {
            batch.clear();
            self.next_batch(&mut batch);
            for run in batch.runs(O::MAX_LINES) {
                if run.dropped_before > 0 {
                    output.report_dropped(run.dropped_before);
                }
                let is_written = run.lines == 0 || output.write(run.bytes);
                self.end_write(&run, is_written);
            }
        }
    }

    /// Waits for the next batch, and exchanges it for an empty one.
    fn next_batch(&self, batch: &mut LineBatch) {
        let mut state = self.state();
        while state.batch.is_empty() && state.dropped == 0 {
            state.writer = WriterState::Idle;
            state.batch.shrink();
            batch.shrink();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let end = Instant::now() + MAX_DELAY;
        while !state.is_due {
            let Some(rest) = end.checked_duration_since(Instant::now()) else { break };
            state.writer = WriterState::Delaying;
            let waited = self.wake.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (state.writer, state.is_due) = (WriterState::Writing, false);
        mem::swap(batch, &mut state.batch);
        batch.dropped_after = mem::take(&mut state.dropped);
    }

    /// Frees the room of lines that are written, or could not be written.
    fn end_write(&self, run: &LineRun<'_>, is_written: bool) {
        let mut state = self.state();
        let lines = u64::try_from(run.lines).unwrap_or(u64::MAX);
        state.bytes -= run.bytes.len();
        state.lines -= run.lines;
        state.total_written += lines;
        state.dropped += if is_written { 0 } else { lines };
        if state.flushing > 0 {
            self.written.notify_all();
        }
    }
}

impl State {
    /// Whether a line of this size fits into the queue. An empty queue has room for any line.
    fn has_room(&self, urgency: Urgency, size: usize) -> bool {
        let limit = |max: usize| match urgency {
            Urgency::Low => max - max / RESERVED,
            Urgency::High => max,
        };
        self.lines == 0 || (self.bytes + size <= limit(MAX_BYTES) && self.lines < limit(MAX_LINES))
    }

    fn push(&mut self, line: &[u8]) {
        self.batch.push(line, mem::take(&mut self.dropped));
        self.bytes += line.len();
        self.lines += 1;
        self.total_queued += 1;
    }

    /// Enters that a line is queued. Returns whether the writer has to be notified.
    fn wakes(&mut self, is_due: bool) -> bool {
        self.is_due |= is_due;
        let next = if is_due { WriterState::Writing } else { WriterState::Delaying };
        match self.writer {
            WriterState::Idle => self.writer = next,
            WriterState::Delaying if is_due => self.writer = next,
            WriterState::Delaying | WriterState::Writing => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests;
