//! Requests and answers as QEMU, and its agent in a machine, have them: JSON, a line each.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use super::PATIENCE;

/// A conversation in which we ask.
pub(super) struct Qmp {
    what: String,
    line: Mutex<Line>,
}

struct Line {
    socket: BufReader<UnixStream>,
    asked: u64,
    /// Events that arrived between requests and answers.
    told: VecDeque<Value>,
}

impl Qmp {
    /// A conversation with `what`, and the socket for it to talk through.
    pub(super) fn new(what: &str) -> (Qmp, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let line = Line { socket: BufReader::new(ours), asked: 0, told: VecDeque::new() };
        (Qmp { what: what.to_owned(), line: Mutex::new(line) }, theirs.into())
    }

    /// Executes a command that must succeed, and returns the answer.
    pub(super) fn ask(&self, command: &str, arguments: &Value) -> Value {
        self.try_ask(command, arguments)
            .unwrap_or_else(|reason| panic!("{command} by {}: {reason}", self.what))
    }

    /// Executes a command that may fail.
    pub(super) fn try_ask(&self, command: &str, arguments: &Value) -> Result<Value, String> {
        let mut line = self.line();
        // An answer that an earlier caller did not wait for has another number.
        line.asked += 1;
        let id = json!(line.asked);
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        let sent = line.socket.get_mut().write_all(format!("{request}\n").as_bytes());
        sent.map_err(|error| error.to_string())?;
        loop {
            let said = line.next()?;
            if said["id"] == id {
                return match said.get("error") {
                    None => Ok(said["return"].clone()),
                    Some(error) => Err(error["desc"].as_str().unwrap_or("no reason").to_owned()),
                };
            }
            if said.get("event").is_some() {
                line.told.push_back(said);
            }
        }
    }

    /// Waits until it has told of something that was not waited for before.
    pub(super) fn hear(&self, event: &str) {
        let mut line = self.line();
        loop {
            let told = line.told.pop_front().map_or_else(|| line.next(), Ok);
            match told {
                Ok(said) if said["event"] == event => return,
                Ok(_) => {}
                Err(reason) => panic!("{event} by {}: {reason}", self.what),
            }
        }
    }

    /// Waits for little from now on, as one does who only wants to know what has gone wrong.
    pub(super) fn hurry(&self) {
        let line = self.line();
        let _ = line.socket.get_ref().set_read_timeout(Some(Duration::from_secs(20)));
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // A caller that has panicked leaves an unread answer, and nothing else.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn next(&mut self) -> Result<Value, String> {
        let mut text = String::new();
        match self.socket.read_line(&mut text) {
            Ok(0) => Err("it has ended".to_owned()),
            Ok(_) => serde_json::from_str(&text).map_err(|error| format!("{error} in {text}")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(format!("nothing in {} s", PATIENCE.as_secs()))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
