//! The two texts of an error that may name other users' owners.

use zbus::message::{Message, Type as Kind};
use zbus::{Type, wire};

use super::Viewer;

/// The text of an error for viewers that may see everything that it names, and for others.
///
/// It travels from the object that fails to the sending half of the connection as the body of an
/// error message, and is replaced there by one of the texts: nothing else knows the viewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// Everything.
    pub full: String,
    /// Without other users.
    pub redacted: String,
    /// The users whose owners the full text names; none if it names something else that only a
    /// viewer of everything may see.
    pub users: Vec<u32>,
}

/// The body of a message with two texts.
type Body = (String, String, Vec<u32>);

impl Texts {
    /// The body of a message.
    #[must_use]
    pub fn body(&self) -> (&str, &str, &[u32]) {
        (&self.full, &self.redacted, &self.users)
    }

    /// Reads the body of a message; `None` for any other message.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        if message.message_type() != Kind::Error {
            return None;
        }
        let body = message.body();
        if body.signature() != <Body as Type>::SIGNATURE {
            return None;
        }
        let read: wire::Result<Body> = body.deserialize();
        let (full, redacted, users) = read.ok()?;
        Some(Self { full, redacted, users })
    }

    /// The text for a viewer.
    #[must_use]
    pub fn choose(self, viewer: Viewer) -> String {
        let sees_users =
            !self.users.is_empty() && self.users.iter().all(|uid| viewer.may_see(*uid));
        if viewer.sees_all() || sees_users { self.full } else { self.redacted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(users: &[u32]) -> Texts {
        Texts { full: "by web1".to_owned(), redacted: "by another".to_owned(), users: users.into() }
    }

    #[test]
    fn a_viewer_gets_the_full_text_only_if_it_may_see_all_of_it() {
        let user = Viewer { uid: Some(7), sees_all: false };
        assert_eq!(texts(&[7, 7]).choose(user), "by web1");
        for others in [&[][..], &[7, 8], &[0]] {
            assert_eq!(texts(others).choose(user), "by another");
            assert_eq!(texts(others).choose(Viewer::ALL), "by web1");
        }
    }

    #[test]
    fn only_an_error_with_two_texts_is_read() {
        let call = Message::method_call("/a", "B").sender(":1.1").build(&()).unwrap();
        let error = || Message::error(&call.header(), "a.b");
        let two = texts(&[1]);
        assert_eq!(Texts::read(&error().build(&two.body()).unwrap()), Some(two.clone()));
        assert_eq!(Texts::read(&error().build(&"text").unwrap()), None);
        assert_eq!(Texts::read(&error().build(&()).unwrap()), None);
        let reply = Message::method_return(&call.header()).build(&two.body()).unwrap();
        assert_eq!(Texts::read(&reply), None);
    }
}
