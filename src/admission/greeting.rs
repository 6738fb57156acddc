//! What a client and the service say before the first message on the private socket.
//!
//! Source: the sections "Authentication Protocol" and "Authentication mechanisms" of the D-Bus
//! specification. The kernel has told the client's user (`SO_PEERCRED`), so EXTERNAL is the only
//! mechanism, and a client that names a user must name that one. Touches nothing.

use uuid::Uuid;

/// The longest greeting of a client, in bytes. A usual one has less than a hundred.
pub(super) const LONGEST: usize = 4 << 10;

/// How far the two are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The client has to send a zero byte first.
    Silent,
    /// It has to say who it is.
    Unknown,
    /// It has chosen EXTERNAL and may name its user.
    Asked,
    /// It is known.
    Known,
    /// Messages follow.
    Begun,
}

/// The service's half of the greeting.
#[derive(Debug)]
pub(super) struct Greeting {
    uid: u32,
    state: State,
    came: Vec<u8>,
}

/// A client that breaks the protocol, or says too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client does not authenticate as the D-Bus specification requires")]
pub(super) struct Improper;

impl Greeting {
    /// Nothing is said. The client is this user's.
    pub(super) fn new(uid: u32) -> Self {
        Self { uid, state: State::Silent, came: Vec::new() }
    }

    /// Takes what has come and appends the answers to `answers`. Returns what came after the
    /// greeting, once that is over.
    ///
    /// # Errors
    ///
    /// [`Improper`].
    pub(super) fn take(
        &mut self,
        came: &[u8],
        answers: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Improper> {
        self.came.extend_from_slice(came);
        if self.state == State::Silent && !self.came.is_empty() {
            if self.came.remove(0) != 0 {
                return Err(Improper);
            }
            self.state = State::Unknown;
        }
        while self.state != State::Begun {
            let Some(end) = self.came.windows(2).position(|two| two == b"\r\n") else {
                return if self.came.len() > LONGEST { Err(Improper) } else { Ok(None) };
            };
            let line: Vec<u8> = self.came.drain(..end + 2).take(end).collect();
            let line = std::str::from_utf8(&line).map_err(|_| Improper)?;
            answers.extend_from_slice(self.answer(line)?.as_bytes());
        }
        Ok(Some(std::mem::take(&mut self.came)))
    }

    fn answer(&mut self, line: &str) -> Result<String, Improper> {
        let mut words = line.split(' ');
        let (command, first, second) = (words.next(), words.next(), words.next());
        Ok(match (self.state, command.unwrap_or_default()) {
            (State::Unknown, "AUTH") if first == Some("EXTERNAL") => {
                if let Some(user) = second {
                    self.identify(user)
                } else {
                    self.state = State::Asked;
                    "DATA\r\n".to_owned()
                }
            }
            (State::Asked, "DATA") => self.identify(first.unwrap_or_default()),
            (State::Unknown, "AUTH") | (State::Asked, "CANCEL" | "ERROR") => self.reject(),
            (State::Known, "NEGOTIATE_UNIX_FD") => "AGREE_UNIX_FD\r\n".to_owned(),
            (State::Known, "BEGIN") => {
                self.state = State::Begun;
                String::new()
            }
            (_, "BEGIN") => return Err(Improper),
            _ => "ERROR\r\n".to_owned(),
        })
    }

    /// The client says who it is: the digits of its user, each in hexadecimal; or nothing.
    fn identify(&mut self, user: &str) -> String {
        // A digit is 0x30 to 0x39.
        let own: String = self.uid.to_string().chars().flat_map(|digit| ['3', digit]).collect();
        if !user.is_empty() && !user.eq_ignore_ascii_case(&own) {
            return self.reject();
        }
        self.state = State::Known;
        format!("OK {}\r\n", Uuid::new_v4().simple())
    }

    fn reject(&mut self) -> String {
        self.state = State::Unknown;
        "REJECTED EXTERNAL\r\n".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the service says, with a word for its identifier, and what follows the greeting.
    fn greet(uid: u32, said: &[&[u8]]) -> Result<(String, Option<Vec<u8>>), Improper> {
        let (mut greeting, mut answers, mut rest) = (Greeting::new(uid), Vec::new(), None);
        for came in said {
            rest = greeting.take(came, &mut answers)?;
        }
        let answers = String::from_utf8(answers).unwrap();
        let line = |line: &str| match line.strip_prefix("OK ") {
            Some(guid) => format!("OK/{}", guid.len()),
            None => line.to_owned(),
        };
        Ok((answers.lines().map(line).collect::<Vec<_>>().join(" "), rest))
    }

    #[test]
    fn a_client_is_let_in_however_it_greets() {
        let begun = |answers: &str, rest: &[u8]| Ok((answers.to_owned(), Some(rest.to_vec())));
        let all = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01";
        assert_eq!(greet(0, &[all]), begun("OK/32 AGREE_UNIX_FD", b"l\x01"));
        let pieces: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(greet(0, &pieces[..pieces.len() - 2]), begun("OK/32 AGREE_UNIX_FD", b""));
        let anonymous = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        assert_eq!(greet(7, &[anonymous]), begun("DATA OK/32", b""));
        let second = b"\0AUTH\r\nAUTH DBUS_COOKIE_SHA1 30\r\nAUTH EXTERNAL 313030\r\nBEGIN\r\n";
        assert_eq!(greet(100, &[second]), begun("REJECTED EXTERNAL REJECTED EXTERNAL OK/32", b""));
    }

    #[test]
    fn another_user_is_rejected_and_what_is_no_greeting_ends_it() {
        let rejected = (String::from("REJECTED EXTERNAL"), None);
        assert_eq!(greet(0, &[b"\0AUTH EXTERNAL 31\r\n"]), Ok(rejected));
        for wrong in
            [&b"AUTH EXTERNAL 30\r\n"[..], b"\0BEGIN\r\n", b"\0AUTH EXTERNAL 31\r\nBEGIN\r\n"]
        {
            assert_eq!(greet(0, &[wrong]), Err(Improper));
        }
        assert_eq!(greet(0, &[b"\0", &[b'x'; LONGEST + 1]]), Err(Improper));
        assert_eq!(greet(0, &[b"\0AUTH EXTERNAL \xff\r\n"]), Err(Improper));
        assert_eq!(greet(0, &[b"\0NEGOTIATE_UNIX_FD\r\n"]).unwrap().0, "ERROR");
    }
}
