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
//! 4. [`Queue::flush`] waits a bounded time until all queued lines are written. A process that is killed
//!    loses the lines of its last milliseconds.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use nix::sys::signal::SigSet;
use tracing::Level;

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
/// The maximum size of the lines of one write, in bytes, unless one line alone is larger.
const MAX_WRITE: usize = 64 << 10;
/// The capacity of an idle buffer, in bytes.
const IDLE_CAPACITY: usize = 16 << 10;
/// How long [`Queue::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the writer writes to.
pub(super) trait Output: Send + 'static {
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

/// What the writer does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
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
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified when the writer has to stop waiting.
    wake: Condvar,
    /// Notified when lines are written and a thread waits for that.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// The size and the number of all lines that are not written, including those that the writer has
    /// begun to write.
    bytes: usize,
    lines: usize,
    /// The number of lines that were dropped since the last line that was queued.
    dropped: u64,
    writer: Writer,
    /// Whether the batch must be written without a delay.
    is_due: bool,
    /// The numbers of lines that were ever queued, and written.
    total_queued: u64,
    total_written: u64,
    /// The number of threads in [`Queue::flush`].
    flushing: usize,
}

/// Lines that are written together.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// The number of lines that were dropped after the last one.
    dropped_after: u64,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    /// The offset of its end in the buffer.
    end: usize,
    /// The number of lines that were dropped before it.
    dropped_before: u64,
}

/// Lines of a batch without dropped lines between them.
#[derive(Debug, PartialEq, Eq)]
struct Run<'b> {
    /// The number of lines that were dropped before it.
    dropped_before: u64,
    bytes: &'b [u8],
    lines: usize,
}

impl Queue {
    /// Starts the writer.
    pub(super) fn start<O: Output>(output: O) -> io::Result<Arc<Self>> {
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
        let is_due = urgency == Urgency::High || state.batch.bytes.len() >= LARGE_BATCH;
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
    fn run<O: Output>(&self, mut output: O) {
        // The main thread handles signals. Blocking all of them cannot fail.
        let _ = SigSet::all().thread_block();
        let mut batch = Batch::default();
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
    fn next_batch(&self, batch: &mut Batch) {
        let mut state = self.state();
        while state.batch.lines.is_empty() && state.dropped == 0 {
            state.writer = Writer::Idle;
            state.batch.shrink();
            batch.shrink();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let end = Instant::now() + MAX_DELAY;
        while !state.is_due {
            let Some(rest) = end.checked_duration_since(Instant::now()) else { break };
            state.writer = Writer::Delaying;
            let waited = self.wake.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (state.writer, state.is_due) = (Writer::Writing, false);
        mem::swap(batch, &mut state.batch);
        batch.dropped_after = mem::take(&mut state.dropped);
    }

    /// Frees the room of lines that are written, or could not be written.
    fn end_write(&self, run: &Run<'_>, is_written: bool) {
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
        self.batch.bytes.extend_from_slice(line);
        let (end, dropped_before) = (self.batch.bytes.len(), mem::take(&mut self.dropped));
        self.batch.lines.push(Line { end, dropped_before });
        self.bytes += line.len();
        self.lines += 1;
        self.total_queued += 1;
    }

    /// Enters that a line is queued. Returns whether the writer has to be notified.
    fn wakes(&mut self, is_due: bool) -> bool {
        self.is_due |= is_due;
        let next = if is_due { Writer::Writing } else { Writer::Delaying };
        match self.writer {
            Writer::Idle => self.writer = next,
            Writer::Delaying if is_due => self.writer = next,
            Writer::Delaying | Writer::Writing => return false,
        }
        true
    }
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.dropped_after = 0;
    }

    /// Returns the memory of a large batch.
    fn shrink(&mut self) {
        self.bytes.shrink_to(IDLE_CAPACITY);
        self.lines.shrink_to(IDLE_CAPACITY / size_of::<Line>());
    }

    /// Returns all lines, in runs of `max_lines` and [`MAX_WRITE`] at most.
    fn runs(&self, max_lines: usize) -> impl Iterator<Item = Run<'_>> {
        let (mut lines, mut begin) = (&self.lines[..], 0);
        let mut dropped_after = self.dropped_after;
        std::iter::from_fn(move || {
            let Some((first, rest)) = lines.split_first() else {
                let dropped_before = mem::take(&mut dropped_after);
                return (dropped_before > 0).then_some(Run {
                    dropped_before,
                    bytes: &[],
                    lines: 0,
                });
            };
            let fits = |line: &&Line| line.dropped_before == 0 && line.end - begin <= MAX_WRITE;
            let more = rest.iter().take(max_lines.saturating_sub(1)).take_while(fits).count();
            let end = rest[..more].last().unwrap_or(first).end;
            let bytes = &self.bytes[mem::replace(&mut begin, end)..end];
            lines = &rest[more..];
            Some(Run { dropped_before: first.dropped_before, bytes, lines: 1 + more })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// What an output was called with: the lines of a write, or a number of dropped lines.
    #[derive(Debug, PartialEq, Eq)]
    enum Call {
        Write(String),
        Dropped(u64),
    }

    /// An output that blocks in each call until the test receives it.
    struct Slow(SyncSender<Call>);

    impl Output for Slow {
        const MAX_LINES: usize = usize::MAX;

        fn write(&mut self, lines: &[u8]) -> bool {
            self.0.send(Call::Write(String::from_utf8(lines.to_vec()).unwrap())).is_ok()
        }

        fn report_dropped(&mut self, lines: u64) {
            let _ = self.0.send(Call::Dropped(lines));
        }
    }

    fn slow() -> (Arc<Queue>, Receiver<Call>) {
        let (calls, received) = sync_channel(0);
        (Queue::start(Slow(calls)).unwrap(), received)
    }

    fn write(lines: &str) -> Call {
        Call::Write(lines.to_owned())
    }

    /// Occupies the writer with a line, so that all further lines stay in the queue.
    fn occupy(queue: &Queue) {
        queue.push(Urgency::High, b"first\n");
        while !queue.state().batch.lines.is_empty() {
            thread::yield_now();
        }
    }

    #[test]
    fn lines_are_written_together_and_in_order() {
        let (queue, calls) = slow();
        occupy(&queue);
        queue.push(Urgency::Low, b"1\n");
        queue.push(Urgency::Low, b"2\n");
        queue.push(Urgency::High, b"3\n");
        assert_eq!(calls.recv().unwrap(), write("first\n"));
        assert_eq!(calls.recv().unwrap(), write("1\n2\n3\n"));
    }

    #[test]
    fn the_writer_is_notified_once_for_a_batch_and_once_more_for_a_warning() {
        let mut state = State { writer: Writer::Idle, ..State::default() };
        assert!(state.wakes(false));
        assert!(!state.wakes(false) && !state.is_due);
        assert!(state.wakes(true) && state.is_due);
        assert!(!state.wakes(true) && !state.wakes(false));
        let mut state = State { writer: Writer::Idle, ..State::default() };
        assert!(state.wakes(true) && !state.wakes(true) && !state.wakes(false));
        let mut state = State::default();
        assert!(!state.wakes(true) && state.is_due, "it writes, and will not wait afterwards");
    }

    #[test]
    fn dropped_lines_are_reported_in_their_place_and_warnings_have_room() {
        let (queue, calls) = slow();
        occupy(&queue);
        let for_information = MAX_LINES - MAX_LINES / RESERVED;
        for _ in 1..for_information {
            queue.push(Urgency::Low, b".");
        }
        queue.push(Urgency::Low, b"dropped");
        queue.push(Urgency::Low, b"dropped");
        queue.push(Urgency::High, b"warning");
        queue.push(Urgency::Low, b"dropped");
        assert_eq!(queue.state().lines, for_information + 1);
        for _ in for_information..MAX_LINES + 10 {
            queue.push(Urgency::High, b"!");
        }
        assert_eq!(queue.state().lines, MAX_LINES);
        let seen: Vec<_> = (0..6).map(|_| calls.recv().unwrap()).collect();
        let bang = "!".repeat(MAX_LINES / RESERVED - 1);
        let expected = [
            write("first\n"),
            write(&".".repeat(for_information - 1)),
            Call::Dropped(2),
            write("warning"),
            Call::Dropped(1),
            write(&bang),
        ];
        assert_eq!(seen, expected);
        assert_eq!(calls.recv().unwrap(), Call::Dropped(11));
        queue.push(Urgency::Low, b"last");
        assert_eq!(calls.recv().unwrap(), write("last"));
    }

    #[test]
    fn the_size_of_all_lines_is_bounded_and_an_empty_queue_has_room_for_any_line() {
        let (queue, calls) = slow();
        let large = vec![b'x'; 2 * MAX_BYTES];
        queue.push(Urgency::Low, &large);
        queue.push(Urgency::High, b"dropped");
        let Call::Write(written) = calls.recv().unwrap() else { panic!("no write") };
        assert_eq!(written.len(), large.len());
        assert_eq!(calls.recv().unwrap(), Call::Dropped(1));
        occupy(&queue);
        let line = vec![b'x'; 1000];
        for _ in 0..2 * MAX_BYTES / line.len() {
            queue.push(Urgency::Low, &line);
        }
        let state = queue.state();
        assert!(state.bytes <= MAX_BYTES - MAX_BYTES / RESERVED && state.dropped > 0);
    }

    #[test]
    fn flush_waits_until_all_lines_are_written() {
        let (queue, calls) = slow();
        queue.flush();
        queue.push(Urgency::Low, b"1");
        queue.push(Urgency::Low, b"2");
        let reader = thread::spawn(move || calls.recv().unwrap());
        queue.flush();
        let state = queue.state();
        assert_eq!((state.total_written, state.bytes, state.lines), (2, 0, 0));
        assert_eq!(reader.join().unwrap(), write("12"));
    }

    #[test]
    fn flush_does_not_wait_forever() {
        let (queue, _calls) = slow();
        queue.push(Urgency::Low, b"1");
        let begun = Instant::now();
        queue.flush();
        assert!(begun.elapsed() >= FLUSH_TIMEOUT);
        assert_eq!(queue.state().total_written, 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_as_dropped() {
        struct Full(SyncSender<u64>);
        impl Output for Full {
            const MAX_LINES: usize = 2;
            fn write(&mut self, _: &[u8]) -> bool {
                false
            }
            fn report_dropped(&mut self, lines: u64) {
                let _ = self.0.send(lines);
            }
        }
        let (reports, dropped) = sync_channel(0);
        let queue = Queue::start(Full(reports)).unwrap();
        for _ in 0..3 {
            queue.push(Urgency::Low, b".");
        }
        let mut total = 0;
        while total < 3 {
            total += dropped.recv().unwrap();
        }
        assert_eq!(total, 3);
    }

    #[test]
    fn runs_have_bounded_lines_and_bytes() {
        let line = |end, dropped_before| Line { end, dropped_before };
        let bytes = vec![b'x'; 3 * MAX_WRITE];
        let lines = vec![line(1, 0), line(2, 0), line(3, 1), line(3 * MAX_WRITE, 0)];
        let batch = Batch { bytes, lines, dropped_after: 7 };
        let sizes = |max_lines| -> Vec<(u64, usize, usize)> {
            let runs = batch.runs(max_lines);
            runs.map(|run| (run.dropped_before, run.bytes.len(), run.lines)).collect()
        };
        let large = 3 * MAX_WRITE - 3;
        assert_eq!(sizes(usize::MAX), [(0, 2, 2), (1, 1, 1), (0, large, 1), (7, 0, 0)]);
        let single = [(0, 1, 1), (0, 1, 1), (1, 1, 1), (0, large, 1), (7, 0, 0)];
        assert_eq!(sizes(1), single);
    }
}
