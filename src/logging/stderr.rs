//! Standard error as a log that never blocks the service.
//!
//! Standard error may be a pipe whose reader has stopped, a stopped terminal, or a file on storage that
//! hangs, so a separate thread writes the lines, from a bounded [`LogQueue`].

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::console;
use super::queue::{LogQueue, Sink, Urgency};

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

/// The queue of lines for standard error.
#[derive(Debug, Clone)]
pub(super) struct Stderr(Arc<LogQueue>);

impl Stderr {
    /// Starts the thread that writes to standard error.
    ///
    /// The report of dropped lines begins with the time if `has_timestamp`.
    pub(super) fn open(has_timestamp: bool) -> io::Result<Self> {
        Self::to(Unlocked, has_timestamp)
    }

    fn to(output: impl Write + Send + 'static, has_timestamp: bool) -> io::Result<Self> {
        LogQueue::start(TextSink { output, has_timestamp }).map(Self)
    }

    /// Waits a short time until all queued lines are written, before the program ends.
    pub(super) fn flush(&self) {
        self.0.flush();
    }
}

/// A descriptor to which lines of text are written.
struct TextSink<W> {
    output: W,
    has_timestamp: bool,
}

impl<W: Write + Send + 'static> Sink for TextSink<W> {
    const MAX_LINES: usize = usize::MAX;

    fn write(&mut self, mut lines: &[u8]) -> bool {
        while !lines.is_empty() {
            match self.output.write(lines) {
                Ok(written) => lines = lines.get(written.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another program has made the descriptor non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(RETRY_DELAY);
                }
                // The log is the only place where this error could be reported.
                Err(_) => return false,
            }
        }
        true
    }

    fn report_dropped(&mut self, lines: u64) {
        let time = if self.has_timestamp { console::timestamp() } else { String::new() };
        let report =
            format!("{time} WARN {lines} messages lost: standard error was not accepting input\n");
        self.write(report.as_bytes());
    }
}

/// A writer that queues each write as one line, since `tracing_subscriber` writes a line at once.
#[derive(Debug)]
pub(super) struct LineWriter<'s> {
    queue: &'s LogQueue,
    urgency: Urgency,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(self.urgency, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'s> MakeWriter<'s> for Stderr {
    type Writer = LineWriter<'s>;

    fn make_writer(&'s self) -> LineWriter<'s> {
        LineWriter { queue: &self.0, urgency: Urgency::High }
    }

    fn make_writer_for(&'s self, metadata: &Metadata<'_>) -> LineWriter<'s> {
        LineWriter { queue: &self.0, urgency: Urgency::of(*metadata.level()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::MAX_BYTES;
    use super::*;
    use std::io::{BufRead as _, BufReader};

    #[test]
    fn a_reader_that_stops_delays_nothing_and_gets_the_rest_in_order() {
        let (reader, writer) = io::pipe().unwrap();
        let stderr = Stderr::to(writer, false).unwrap();
        let message = |n: usize| format!("{n} {}\n", "x".repeat(1000));
        let sent = MAX_BYTES / 1000 + 1000;
        for n in 0..sent {
            stderr.make_writer().write_all(message(n).as_bytes()).unwrap();
        }
        let (mut received, mut lost) = (0, 0);
        for line in BufReader::new(reader).lines().map(Result::unwrap) {
            let report = line.strip_prefix(" WARN ").and_then(|line| line.split_once(' '));
            if let Some((count, rest)) = report {
                assert_eq!(rest, "messages lost: standard error was not accepting input");
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

    #[test]
    fn errors_and_warnings_are_urgent() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let (mut reader, writer) = io::pipe().unwrap();
        let stderr = Stderr::to(writer, false).unwrap();
        let log = tracing_subscriber::registry().with(console::layer(stderr, false, false));
        tracing::subscriber::with_default(log, || {
            tracing::info!("some information");
            tracing::warn!("a warning");
        });
        let lines = " INFO some information\n WARN a warning\n";
        let mut text = vec![0; lines.len()];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), lines);
    }
}
