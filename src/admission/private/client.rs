//! Serves one client of the private socket: authenticates it, reads its calls and sends the
//! replies.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::bus_driver;
use super::handshake::{self, Handshake};
use crate::admission::Admission;
use crate::admission::incoming::classifier::Classifier;
use crate::admission::transport::clients::NAME_PREFIX;
use crate::admission::transport::outbound::OutboundMessage;
use crate::admission::transport::socket::{ConnectedSocket, ReadOutcome};
use crate::lock::descriptor::received::Received;

/// How long the handshake of a client may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

impl Admission {
    /// Returns a name for the next client of the private socket.
    #[must_use]
    pub fn new_client_name(&self) -> Arc<str> {
        self.clients().next_name()
    }

    /// Returns whether `name` is the name of a client of the private socket.
    #[must_use]
    pub fn is_private_client(name: &str) -> bool {
        name.starts_with(NAME_PREFIX)
    }

    /// Serves a client of the private socket, which belongs to the privileged user `uid`, until the
    /// client disconnects. Before, the caller registers `name` for the identification of callers.
    /// Afterwards, it calls [`remove_connection`](Self::remove_connection).
    ///
    /// # Errors
    ///
    /// If the client violates the protocol, or does not read its replies.
    pub async fn serve_private_client(
        &self,
        name: &Arc<str>,
        uid: u32,
        stream: UnixStream,
    ) -> io::Result<()> {
        let socket = Arc::new(ConnectedSocket::from_stream(stream)?);
        let mut classifier = Classifier::for_client(Arc::clone(name));
        let handshake_result = timeout(HANDSHAKE_TIMEOUT, run_handshake(&socket, uid)).await;
        let rest = handshake_result.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        classifier.append(&rest, Vec::new());
        let mut send_queue = self.clients().add(name, &socket);
        tokio::select! {
            read = self.read_calls(name, &socket, classifier) => read,
            sent = send_queue.send_all(&socket) => sent,
        }
    }

    async fn read_calls(
        &self,
        name: &str,
        socket: &ConnectedSocket,
        mut classifier: Classifier,
    ) -> io::Result<()> {
        let mut outcome = ReadOutcome::default();
        loop {
            let classified = classifier.classify(outcome, self)?;
            if classified.accepted > 0 {
                self.wake();
            }
            while let Some(call) = classifier.others.pop_front() {
                let reply = bus_driver::reply_to(name, call).await;
                if let Some(reply) = reply.map_err(io::Error::other)? {
                    self.clients().send(name, OutboundMessage::Message(reply));
                }
            }
            let now = Instant::now();
            classifier.refusals.pop_due(now, |refused| {
                self.clients().send(name, OutboundMessage::Bytes(refused.to_error_reply()));
                true
            });
            let delay = classifier.refusals.delay();
            tokio::select! {
                readable = socket.readable() => readable?,
                () = sleep(delay.unwrap_or_default()), if delay.is_some() => {}
            }
            if self.clients().has_stopped_reading() {
                // Replies to received calls are still sent.
                std::future::pending::<()>().await;
            }
            let (buffer, descriptors) = classifier.read_buffer();
            outcome = match socket.receive(buffer, descriptors) {
                Ok(outcome) => outcome,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::default(),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
        }
    }
}

/// Runs the handshake. Returns the bytes that were received after it.
async fn run_handshake(socket: &ConnectedSocket, uid: u32) -> io::Result<Vec<u8>> {
    let mut handshake = Handshake::new(uid);
    let mut buffer = [0; handshake::MAX_LEN];
    loop {
        socket.readable().await?;
        // No descriptor belongs to a handshake.
        let mut descriptors: Vec<Received> = Vec::new();
        let ReadOutcome { bytes, .. } = match socket.receive(&mut buffer, &mut descriptors) {
            Ok(outcome) => outcome,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut replies = Vec::new();
        let input = buffer.get(..bytes).unwrap_or_default();
        let rest = handshake.advance(input, &mut replies);
        let rest = rest.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        socket.send(&replies, &[]).await?;
        if let Some(rest) = rest {
            return Ok(rest);
        }
    }
}
