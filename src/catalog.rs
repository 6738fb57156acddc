//! The kinds of events that the log reports to programs, each with a word and a message id.
//!
//! The word is the field `event` of a message, and `VMLOCKD_EVENT` of its entry in the journal, which
//! has the id as its `MESSAGE_ID` ([`crate::logging`]). Both are stable: an id is never used for
//! another kind, and a word never changes. `systemd/vmlockd.catalog` explains each kind for
//! `journalctl -x`.

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogEvent {
    /// An owner was opened.
    OwnerOpened,
    /// An owner has ended.
    OwnerEnded,
    /// A lock was granted.
    Acquired,
    /// A lock was converted to another mode.
    Converted,
    /// An owner was refused a lock that another holder has.
    Refused,
    /// An owner waits for a lock that another holder has.
    Waiting,
    /// A wait has ended, with any outcome.
    WaitEnded,
    /// A lock was released.
    Released,
    /// Another user has forced the release of locks.
    Broken,
    /// A lock is lost, although its VM is running.
    Lost,
    /// A lock that was lost is held again.
    Regained,
    /// An owner was suspended, and its locks are released.
    Suspended,
    /// A suspended owner was resumed, and holds its locks again.
    Resumed,
    /// The locks of an owner were handed over to another one.
    HandedOver,
    /// A caller was not authorized for a request.
    Denied,
    /// Owners and locks were restored at the start of the service.
    Restored,
}

impl LogEvent {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::OwnerOpened,
        Self::OwnerEnded,
        Self::Acquired,
        Self::Converted,
        Self::Refused,
        Self::Waiting,
        Self::WaitEnded,
        Self::Released,
        Self::Broken,
        Self::Lost,
        Self::Regained,
        Self::Suspended,
        Self::Resumed,
        Self::HandedOver,
        Self::Denied,
        Self::Restored,
    ];

    /// Returns the word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnerOpened => "owner-opened",
            Self::OwnerEnded => "owner-ended",
            Self::Acquired => "acquired",
            Self::Converted => "converted",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
            Self::WaitEnded => "wait-ended",
            Self::Released => "released",
            Self::Broken => "broken",
            Self::Lost => "lost",
            Self::Regained => "regained",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::HandedOver => "handed-over",
            Self::Denied => "denied",
            Self::Restored => "restored",
        }
    }

    /// Returns the message id, as journald spells it.
    #[must_use]
    pub const fn message_id(self) -> &'static str {
        match self {
            Self::OwnerOpened => "05fe0120609a46158cfc1524cab08ee9",
            Self::OwnerEnded => "4f437f4e738e4f38b991ddd364dd8555",
            Self::Acquired => "044387b03b19493fbd019e8dd4d6d064",
            Self::Converted => "3353f2c58d124238bfd3570e1b41c3f2",
            Self::Refused => "c9b69d7af8844decbb83eb2108ff13e9",
            Self::Waiting => "c08ce1dd2a4b4b5aadf15e685015ca14",
            Self::WaitEnded => "5150e1a6ef714571bbd096ca5885e250",
            Self::Released => "9a94e7aa8e9f4906944bae6df084eb5c",
            Self::Broken => "825e84fedd754c8ba0fb50ee5706815d",
            Self::Lost => "6dd93b5e36b24e70924d46b10b6afde8",
            Self::Regained => "f1fceeb20071400cb636f381f65fb781",
            Self::Suspended => "4bd9dd1e98ae49a58a17e1b626dea7d8",
            Self::Resumed => "55a3df5508b74eb3868409f6c95aedb2",
            Self::HandedOver => "9ed455c87b6f464fa1a5f8caa480daf1",
            Self::Denied => "9b8840ab8c36412ebeaa26eaa13d411f",
            Self::Restored => "b7c473160e194813982e54b604410dbb",
        }
    }

    /// Returns the kind with this word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_has_a_word_and_a_number_of_its_own() {
        let words: BTreeSet<_> = LogEvent::ALL.map(LogEvent::as_str).into();
        let numbers: BTreeSet<_> = LogEvent::ALL.map(LogEvent::message_id).into();
        let kinds: std::collections::HashSet<_> = LogEvent::ALL.into();
        let count = LogEvent::ALL.len();
        assert_eq!((words.len(), numbers.len(), kinds.len()), (count, count, count));
        for kind in LogEvent::ALL {
            assert_eq!(LogEvent::of(kind.as_str()), Some(kind));
            let id = kind.message_id();
            assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
            // Version 4 in the place where a UUID has it, as `systemd-id128 new` makes them.
            assert_eq!(id.as_bytes()[12], b'4', "{id}");
        }
        assert_eq!(LogEvent::of("gone"), None);
    }
}
