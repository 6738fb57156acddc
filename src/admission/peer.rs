//! One client of the private socket: greets it, reads its calls, sends it the replies.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::greeting::{self, Greeting};
use super::intake::Intake;
use super::link::{Arrived, Link};
use super::peers::{PREFIX, Parcel};
use super::{Admission, driver, refusal};
use crate::lock::received::Received;

/// How long a client may take for its greeting.
const GREETING: Duration = Duration::from_secs(5);

impl Admission {
    /// A name for the next client of the private socket.
    #[must_use]
    pub fn name_peer(&self) -> Arc<str> {
        self.0.peers.name()
    }

    /// Whether this is the name of a client of the private socket.
    #[must_use]
    pub fn is_peer(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// Serves a client of the private socket, of the privileged user `uid`, until it leaves. It is
    /// to be known to whatever identifies callers by then, and [`left`](Self::left) called after.
    ///
    /// # Errors
    ///
    /// Where the client breaks the protocol, or does not read.
    pub async fn serve_peer(
        &self,
        name: &Arc<str>,
        uid: u32,
        stream: UnixStream,
    ) -> io::Result<()> {
        let link = Arc::new(Link::over(stream)?);
        let mut intake = Intake::of_peer(Arc::clone(name));
        let greeted = timeout(GREETING, greet(&link, uid)).await;
        let rest = greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        intake.append(&rest, Vec::new());
        let mut outbox = self.0.peers.enter(name, &link);
        tokio::select! {
            read = self.read_peer(name, &link, intake) => read,
            sent = outbox.send_all(&link) => sent,
        }
    }

    async fn read_peer(&self, name: &str, link: &Link, mut intake: Intake) -> io::Result<()> {
        let mut arrived = Arrived::default();
        loop {
            let sorted = intake.sort(arrived, self)?;
            if sorted.accepted > 0 {
                self.wake();
            }
            while let Some(call) = intake.others.pop_front() {
                let answer = driver::answer(name, call).await;
                if let Some(answer) = answer.map_err(io::Error::other)? {
                    self.0.peers.send(name, Parcel::Message(answer));
                }
            }
            let now = Instant::now();
            intake.refusals.send(now, |refused| {
                let mut bytes = Vec::new();
                let (serial, why) = (refused.serial, refused.why);
                refusal::write(&mut bytes, name, serial, why.name(), &why.to_string());
                self.0.peers.send(name, Parcel::Bytes(bytes));
                true
            });
            let delay = intake.refusals.delay();
            tokio::select! {
                readable = link.readable() => readable?,
                () = sleep(delay.unwrap_or_default()), if delay.is_some() => {}
            }
            if self.0.peers.is_closing() {
                // Replies to what has come are still sent.
                std::future::pending::<()>().await;
            }
            let (buffer, descriptors) = intake.room();
            arrived = match link.receive(buffer, descriptors) {
                Ok(arrived) => arrived,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrived::default(),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
        }
    }
}

/// Greets a client. Returns what came after its greeting.
async fn greet(link: &Link, uid: u32) -> io::Result<Vec<u8>> {
    let mut greeting = Greeting::new(uid);
    let mut buffer = [0; greeting::LONGEST];
    loop {
        link.readable().await?;
        // No descriptor belongs to a greeting.
        let mut descriptors: Vec<Received> = Vec::new();
        let Arrived { count, .. } = match link.receive(&mut buffer, &mut descriptors) {
            Ok(arrived) => arrived,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut answers = Vec::new();
        let came = buffer.get(..count).unwrap_or_default();
        let rest = greeting.take(came, &mut answers);
        let rest = rest.map_err(|improper| io::Error::new(io::ErrorKind::InvalidData, improper))?;
        link.send(&answers, &[]).await?;
        if let Some(rest) = rest {
            return Ok(rest);
        }
    }
}
