//! Standard error as a log that never blocks the service.
//!
//! Standard error may be a pipe whose reader has stopped, a stopped terminal, or a file on storage that
//! hangs, so a separate thread writes the messages. The caller waits until its message is written, so
//! that a message normally appears before any other effect of the event that it reports. It waits for
//! [`WRITE_TIMEOUT`] at most; after a timeout no caller waits for [`NO_WAIT`]. Messages that do not fit
//! into the queue are counted and dropped.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use tracing_subscriber::fmt::MakeWriter;

use super::console;

use crate::sync;

/// The maximum size of all queued messages, in bytes.
const MAX_QUEUED: usize = 4 << 20;
/// How long a caller waits for its message to be written.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// For how long no caller waits after a timeout.
const NO_WAIT: Duration = Duration::from_secs(10);
/// How long [`Stderr::flush`] waits for queued messages.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay before a retry if a non-blocking descriptor does not accept data.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Standard error without the lock of [`io::Stderr`], which a panicking thread needs.
struct Unlocked;

impl Write for Unlocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue of messages for standard error.
#[derive(Debug, Clone)]
pub(super) struct Stderr(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Notified when a message is queued.
    queued: Condvar,
    /// Notified when a message is written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Messages that the thread has not started to write.
    messages: VecDeque<Vec<u8>>,
    /// The size of all messages that are not written.
    bytes: usize,
    /// The number of messages that were queued.
    queued: u64,
    /// The number of messages that were written.
    written: u64,
    /// The number of messages that were dropped since the last report.
    dropped: u64,
    /// The time until which no caller waits.
    no_wait_until: Option<Instant>,
}

impl Stderr {
    /// Starts the thread that writes to standard error.
    ///
    /// The report of dropped messages begins with the time if `has_timestamp`.
    pub(super) fn open(has_timestamp: bool) -> io::Result<Self> {
        Self::to(Unlocked, has_timestamp)
    }

    fn to(output: impl Write + Send + 'static, has_timestamp: bool) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let of_thread = Arc::clone(&queue);
        let run = move || of_thread.run(output, has_timestamp);
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(Self(queue))
    }

    /// Queues a message, and waits a short time until it is written.
    fn send(&self, message: &[u8]) {
        let Queue { queued, written, .. } = &*self.0;
        let mut state = self.0.state();
        if state.bytes + message.len() > MAX_QUEUED {
            state.dropped += 1;
            return;
        }
        state.bytes += message.len();
        state.queued += 1;
        state.messages.push_back(message.to_owned());
        let number = state.queued;
        queued.notify_one();
        let begun = Instant::now();
        if state.no_wait_until.is_some_and(|until| begun < until) {
            return;
        }
        let waited =
            written.wait_timeout_while(state, WRITE_TIMEOUT, |state| state.written < number);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.no_wait_until = waited.timed_out().then(|| Instant::now() + NO_WAIT);
    }

    /// Waits a short time until all messages are written, before the program ends.
    pub(super) fn flush(&self) {
        let state = self.0.state();
        let has_queued = |state: &mut State| state.written < state.queued;
        drop(self.0.written.wait_timeout_while(state, FLUSH_TIMEOUT, has_queued));
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Writes one queued message after the other, for as long as the program runs.
    fn run(&self, mut output: impl Write, has_timestamp: bool) {
        // The main thread handles signals. Blocking all of them cannot fail.
        let _ = SigSet::all().thread_block();
        let mut state = self.state();
        loop {
            let Some(message) = state.messages.pop_front() else {
                state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            write(&mut output, &message);
            if dropped > 0 {
                let time = if has_timestamp { console::timestamp() } else { String::new() };
                write(&mut output, (time + &lost(dropped)).as_bytes());
            }
            state = self.state();
            state.bytes -= message.len();
            state.written += 1;
            self.written.notify_all();
        }
    }
}

/// Returns the message that reports messages that were dropped.
fn lost(messages: u64) -> String {
    format!(" WARN {messages} messages lost: standard error was not accepting output\n")
}

/// Writes a message, and waits as long as necessary. Ignores errors: the log is the only place to report
/// them.
fn write(output: &mut impl Write, mut message: &[u8]) {
    while !message.is_empty() {
        match output.write(message) {
            Ok(written) => message = message.get(written.max(1)..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another program has made the descriptor non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
            Err(_) => return,
        }
    }
}

/// A writer that queues each write as one message, since `tracing_subscriber` writes a message at once.
#[derive(Debug)]
pub(super) struct Writer<'s>(&'s Stderr);

impl Write for Writer<'_> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        self.0.send(message);
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'s> MakeWriter<'s> for Stderr {
    type Writer = Writer<'s>;

    fn make_writer(&'s self) -> Writer<'s> {
        Writer(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, PipeReader};

    fn open() -> (Stderr, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Stderr::to(writer, false).unwrap(), reader)
    }

    #[test]
    fn a_message_is_written_when_send_returns() {
        let (stderr, mut reader) = open();
        for n in 0..10 {
            stderr.send(b"1234");
            assert!(stderr.0.state().no_wait_until.is_none(), "{n}");
            io::Read::read_exact(&mut reader, &mut [0; 4]).unwrap();
        }
    }

    #[test]
    fn a_reader_that_stops_delays_one_message_and_gets_the_rest_in_order() {
        let (stderr, reader) = open();
        let message = |n: usize| format!("{n} {}\n", "x".repeat(1000));
        let sent = MAX_QUEUED / 1000 + 1000;
        let begun = Instant::now();
        for n in 0..sent {
            stderr.send(message(n).as_bytes());
        }
        // One wait, and the time to copy some megabytes.
        assert!(begun.elapsed() < NO_WAIT, "{:?}", begun.elapsed());
        assert!(stderr.0.state().no_wait_until.is_some());
        assert!(stderr.0.state().bytes <= MAX_QUEUED);
        let (mut received, mut lost) = (0, 0);
        for line in BufReader::new(reader).lines().map(Result::unwrap) {
            let report = line.strip_prefix(" WARN ").and_then(|line| line.split_once(' '));
            if let Some((count, _)) = report {
                lost += count.parse::<usize>().unwrap();
            } else {
                assert_eq!(format!("{line}\n"), message(received));
                received += 1;
            }
            if received + lost == sent {
                break;
            }
        }
        assert!(lost > 0);
        stderr.flush();
    }
}
