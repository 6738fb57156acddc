//! The sending half of the connection: sends messages of zbus, and completes each call with its
//! reply.
//!
//! While owners are hidden from other users, a signal is sent only if it is addressed to one
//! connection, and each error that may name other users is sent with the text for its receiver.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use zbus::Message;
use zbus::connection::socket::WriteHalf;
use zbus::export::async_trait::async_trait;
use zbus::message::{Flags, Type};

use super::outbound_queue::OutboundQueue;
use crate::admission::Admission;
use crate::admission::message::error_reply::write_error;
use crate::admission::transport::outbound::OutboundMessage;
use crate::admission::transport::socket::ConnectedSocket;
use crate::privacy::ErrorTexts;

/// The sending half of a connection.
#[derive(Debug)]
pub struct Writer {
    socket: Arc<ConnectedSocket>,
    admission: Admission,
    queue: OutboundQueue,
}

impl Writer {
    /// Creates the sending half of `socket`.
    pub(in crate::admission) fn new(socket: Arc<ConnectedSocket>, admission: Admission) -> Self {
        let queue = OutboundQueue::new(Arc::clone(&socket), admission.clone());
        Self { socket, admission, queue }
    }

    /// Records a message: a reply completes its call, and a call of the service expects a reply.
    /// Returns whether the message is sent.
    fn record(&self, message: &Message) -> bool {
        let header = message.header();
        match message.message_type() {
            Type::MethodCall => {
                let primary = message.primary_header();
                if !primary.flags().contains(Flags::NO_REPLY_EXPECTED) {
                    self.admission.expect_reply(primary.serial_num().get());
                }
                true
            }
            Type::MethodReturn | Type::Error => match (header.destination(), header.reply_serial())
            {
                (Some(caller), Some(serial)) => {
                    self.admission.complete_call(caller.as_str(), serial.get())
                }
                _ => true,
            },
            Type::Signal => {
                let sent = header.destination().is_some() || !self.admission.privacy().is_on();
                if !sent {
                    tracing::debug!(signal = ?header.member(), "discarded a broadcast signal, since owners are hidden from other users");
                }
                sent
            }
        }
    }

    /// Writes an error that has two texts with the text that its receiver may see. Returns `None`
    /// for any other message.
    fn redact(&self, message: &Message) -> Option<Vec<u8>> {
        let texts = ErrorTexts::parse(message)?;
        let header = message.header();
        let (to, name) = (header.destination()?, header.error_name()?);
        let text = texts.choose(self.admission.privacy().viewer(to.as_str()));
        let mut bytes = Vec::new();
        let serial = header.reply_serial()?.get();
        write_error(&mut bytes, to.as_str(), serial, name.as_str(), &text);
        Some(bytes)
    }
}

#[async_trait]
impl WriteHalf for Writer {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        if self.record(message) {
            let outbound = match self.redact(message) {
                Some(bytes) => OutboundMessage::Bytes(bytes),
                None => OutboundMessage::Message(message.clone()),
            };
            let header = message.header();
            let outbound = match header.destination() {
                Some(to) => self.admission.send_to_client(to.as_str(), outbound),
                None => Some(outbound),
            };
            if let Some(outbound) = outbound {
                self.queue.send(outbound).await?;
            }
        }
        self.admission.wake_if_queued();
        Ok(())
    }

    /// Sends bytes of the handshake.
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.socket.send(buffer, fds).await?;
        Ok(buffer.len())
    }

    async fn close(&mut self) -> io::Result<()> {
        self.socket.close()
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}
