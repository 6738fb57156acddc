//! The two texts of an error that may name owners of other users.

use zbus::message::{Message, Type as Kind};
use zbus::{Type, wire};

use super::Viewer;

/// The full text of an error, and the redacted text for viewers that may not see everything in it.
///
/// The object that fails sends both as the body of an error message; the sending half of the
/// connection replaces the body by one of them, since the viewer is known only there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorTexts {
    /// The full text.
    pub full: String,
    /// The text without other users.
    pub redacted: String,
    /// The users whose owners the full text names; empty if it names something that only a viewer
    /// of everything may see.
    pub users: Vec<u32>,
}

/// The body of a message with two texts.
type Body = (String, String, Vec<u32>);

impl ErrorTexts {
    /// Returns the body of an error message with both texts.
    #[must_use]
    pub fn body(&self) -> (&str, &str, &[u32]) {
        (&self.full, &self.redacted, &self.users)
    }

    /// Parses the body of an error message with both texts; `None` for any other message.
    #[must_use]
    pub fn parse(message: &Message) -> Option<Self> {
        if message.message_type() != Kind::Error {
            return None;
        }
        let body = message.body();
        if body.signature() != <Body as Type>::SIGNATURE {
            return None;
        }
        let parsed: wire::Result<Body> = body.deserialize();
        let (full, redacted, users) = parsed.ok()?;
        Some(Self { full, redacted, users })
    }

    /// Returns the text that a viewer may read.
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

    fn texts(users: &[u32]) -> ErrorTexts {
        ErrorTexts {
            full: "by web1".to_owned(),
            redacted: "by another".to_owned(),
            users: users.into(),
        }
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
    fn only_an_error_with_two_texts_is_parsed() {
        let call = Message::method_call("/a", "B").sender(":1.1").build(&()).unwrap();
        let error = || Message::error(&call.header(), "a.b");
        let two = texts(&[1]);
        assert_eq!(ErrorTexts::parse(&error().build(&two.body()).unwrap()), Some(two.clone()));
        assert_eq!(ErrorTexts::parse(&error().build(&"text").unwrap()), None);
        assert_eq!(ErrorTexts::parse(&error().build(&()).unwrap()), None);
        let reply = Message::method_return(&call.header()).build(&two.body()).unwrap();
        assert_eq!(ErrorTexts::parse(&reply), None);
    }
}
