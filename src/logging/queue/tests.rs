use super::*;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A call of a sink: the lines of a write, or a number of dropped lines.
#[derive(Debug, PartialEq, Eq)]
enum SinkCall {
    Write(String),
    Dropped(u64),
}

/// A sink that blocks in each call until the test receives it.
struct Slow(SyncSender<SinkCall>);

impl Sink for Slow {
    const MAX_LINES: usize = usize::MAX;

    fn write(&mut self, lines: &[u8]) -> bool {
        self.0.send(SinkCall::Write(String::from_utf8(lines.to_vec()).unwrap())).is_ok()
    }

    fn report_dropped(&mut self, lines: u64) {
        let _ = self.0.send(SinkCall::Dropped(lines));
    }
}

fn slow() -> (Arc<LogQueue>, Receiver<SinkCall>) {
    let (calls, received) = sync_channel(0);
    (LogQueue::start(Slow(calls)).unwrap(), received)
}

fn write(lines: &str) -> SinkCall {
    SinkCall::Write(lines.to_owned())
}

/// Occupies the writer with a line, so that all further lines stay in the queue.
fn occupy(queue: &LogQueue) {
    queue.push(Urgency::High, b"first\n");
    while !queue.state().batch.is_empty() {
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
    let mut state = State { writer: WriterState::Idle, ..State::default() };
    assert!(state.wakes(false));
    assert!(!state.wakes(false) && !state.is_due);
    assert!(state.wakes(true) && state.is_due);
    assert!(!state.wakes(true) && !state.wakes(false));
    let mut state = State { writer: WriterState::Idle, ..State::default() };
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
        SinkCall::Dropped(2),
        write("warning"),
        SinkCall::Dropped(1),
        write(&bang),
    ];
    assert_eq!(seen, expected);
    assert_eq!(calls.recv().unwrap(), SinkCall::Dropped(11));
    queue.push(Urgency::Low, b"last");
    assert_eq!(calls.recv().unwrap(), write("last"));
}

#[test]
fn the_size_of_all_lines_is_bounded_and_an_empty_queue_has_room_for_any_line() {
    let (queue, calls) = slow();
    let large = vec![b'x'; 2 * MAX_BYTES];
    queue.push(Urgency::Low, &large);
    queue.push(Urgency::High, b"dropped");
    let SinkCall::Write(written) = calls.recv().unwrap() else { panic!("no write") };
    assert_eq!(written.len(), large.len());
    assert_eq!(calls.recv().unwrap(), SinkCall::Dropped(1));
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
    impl Sink for Full {
        const MAX_LINES: usize = 2;
        fn write(&mut self, _: &[u8]) -> bool {
            false
        }
        fn report_dropped(&mut self, lines: u64) {
            let _ = self.0.send(lines);
        }
    }
    let (reports, dropped) = sync_channel(0);
    let queue = LogQueue::start(Full(reports)).unwrap();
    for _ in 0..3 {
        queue.push(Urgency::Low, b".");
    }
    let mut total = 0;
    while total < 3 {
        total += dropped.recv().unwrap();
    }
    assert_eq!(total, 3);
}
