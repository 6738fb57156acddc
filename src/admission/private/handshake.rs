//! The authentication handshake of a client of the private socket, which precedes its first
//! message.
//!
//! Source: the sections "Authentication Protocol" and "Authentication mechanisms" of the D-Bus
//! specification. The kernel provides the client's user (`SO_PEERCRED`), so EXTERNAL is the only
//! mechanism, and a client that names a user must name this user. The state machine does no I/O.

use uuid::Uuid;

/// The maximum length of a client's part of the handshake, in bytes. A usual one has less than a
/// hundred.
pub(in crate::admission) const MAX_LEN: usize = 4 << 10;

/// The progress of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The client must send a zero byte first.
    AwaitingNul,
    /// The client must select a mechanism.
    AwaitingAuth,
    /// The client has selected EXTERNAL, and may name its user.
    AwaitingData,
    /// The client is authenticated.
    Authenticated,
    /// Messages follow.
    Begun,
}

/// The service's side of the handshake.
#[derive(Debug)]
pub(in crate::admission) struct Handshake {
    uid: u32,
    state: State,
    received: Vec<u8>,
}

/// A client that violates the protocol, or sends too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client does not authenticate as the D-Bus specification requires")]
pub(in crate::admission) struct HandshakeError;

impl Handshake {
    /// Creates the handshake with a client of the user `uid`.
    pub(in crate::admission) fn new(uid: u32) -> Self {
        Self { uid, state: State::AwaitingNul, received: Vec::new() }
    }

    /// Processes received bytes, and appends the replies to `replies`. Returns the bytes after the
    /// handshake when it is complete.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`].
    pub(in crate::admission) fn advance(
        &mut self,
        received: &[u8],
        replies: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, HandshakeError> {
        self.received.extend_from_slice(received);
        if self.state == State::AwaitingNul && !self.received.is_empty() {
            if self.received.remove(0) != 0 {
                return Err(HandshakeError);
            }
            self.state = State::AwaitingAuth;
        }
        while self.state != State::Begun {
            let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") else {
                return if self.received.len() > MAX_LEN { Err(HandshakeError) } else { Ok(None) };
            };
            let line: Vec<u8> = self.received.drain(..end + 2).take(end).collect();
            let line = std::str::from_utf8(&line).map_err(|_| HandshakeError)?;
            replies.extend_from_slice(self.reply_to(line)?.as_bytes());
        }
        Ok(Some(std::mem::take(&mut self.received)))
    }

    fn reply_to(&mut self, line: &str) -> Result<String, HandshakeError> {
        let mut words = line.split(' ');
        let (command, first, second) = (words.next(), words.next(), words.next());
        Ok(match (self.state, command.unwrap_or_default()) {
            (State::AwaitingAuth, "AUTH") if first == Some("EXTERNAL") => {
                if let Some(user) = second {
                    self.authenticate(user)
                } else {
                    self.state = State::AwaitingData;
                    "DATA\r\n".to_owned()
                }
            }
            (State::AwaitingData, "DATA") => self.authenticate(first.unwrap_or_default()),
            (State::AwaitingAuth, "AUTH") | (State::AwaitingData, "CANCEL" | "ERROR") => {
                self.reject()
            }
            (State::Authenticated, "NEGOTIATE_UNIX_FD") => "AGREE_UNIX_FD\r\n".to_owned(),
            (State::Authenticated, "BEGIN") => {
                self.state = State::Begun;
                String::new()
            }
            (_, "BEGIN") => return Err(HandshakeError),
            _ => "ERROR\r\n".to_owned(),
        })
    }

    /// Checks the user that the client names: its digits, each in hexadecimal; or nothing.
    fn authenticate(&mut self, user: &str) -> String {
        // A digit is 0x30 to 0x39.
        let expected: String =
            self.uid.to_string().chars().flat_map(|digit| ['3', digit]).collect();
        if !user.is_empty() && !user.eq_ignore_ascii_case(&expected) {
            return self.reject();
        }
        self.state = State::Authenticated;
        format!("OK {}\r\n", Uuid::new_v4().simple())
    }

    fn reject(&mut self) -> String {
        self.state = State::AwaitingAuth;
        "REJECTED EXTERNAL\r\n".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a handshake. Returns the replies of the service, with the length of its identifier in
    /// place of the identifier, and the bytes after the handshake.
    fn run(uid: u32, input: &[&[u8]]) -> Result<(String, Option<Vec<u8>>), HandshakeError> {
        let (mut handshake, mut replies, mut rest) = (Handshake::new(uid), Vec::new(), None);
        for received in input {
            rest = handshake.advance(received, &mut replies)?;
        }
        let replies = String::from_utf8(replies).unwrap();
        let line = |line: &str| match line.strip_prefix("OK ") {
            Some(guid) => format!("OK/{}", guid.len()),
            None => line.to_owned(),
        };
        Ok((replies.lines().map(line).collect::<Vec<_>>().join(" "), rest))
    }

    #[test]
    fn a_client_is_accepted_with_each_form_of_the_handshake() {
        let begun = |replies: &str, rest: &[u8]| Ok((replies.to_owned(), Some(rest.to_vec())));
        let all = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01";
        assert_eq!(run(0, &[all]), begun("OK/32 AGREE_UNIX_FD", b"l\x01"));
        let pieces: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(run(0, &pieces[..pieces.len() - 2]), begun("OK/32 AGREE_UNIX_FD", b""));
        let anonymous = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        assert_eq!(run(7, &[anonymous]), begun("DATA OK/32", b""));
        let second = b"\0AUTH\r\nAUTH DBUS_COOKIE_SHA1 30\r\nAUTH EXTERNAL 313030\r\nBEGIN\r\n";
        assert_eq!(run(100, &[second]), begun("REJECTED EXTERNAL REJECTED EXTERNAL OK/32", b""));
    }

    #[test]
    fn another_user_is_rejected_and_an_invalid_handshake_ends_the_connection() {
        let rejected = (String::from("REJECTED EXTERNAL"), None);
        assert_eq!(run(0, &[b"\0AUTH EXTERNAL 31\r\n"]), Ok(rejected));
        for wrong in
            [&b"AUTH EXTERNAL 30\r\n"[..], b"\0BEGIN\r\n", b"\0AUTH EXTERNAL 31\r\nBEGIN\r\n"]
        {
            assert_eq!(run(0, &[wrong]), Err(HandshakeError));
        }
        assert_eq!(run(0, &[b"\0", &[b'x'; MAX_LEN + 1]]), Err(HandshakeError));
        assert_eq!(run(0, &[b"\0AUTH EXTERNAL \xff\r\n"]), Err(HandshakeError));
        assert_eq!(run(0, &[b"\0NEGOTIATE_UNIX_FD\r\n"]).unwrap().0, "ERROR");
    }
}
