//! What the log tells of for machines: each kind of event with its word and its number.
//!
//! The word is the field `event` of a log line, and `VMLOCKD_EVENT` of the journal's entry, which
//! gets the number as its `MESSAGE_ID` ([`crate::logging`]). Both are promised: a number is never
//! given to something else, and a word never changes.

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An owner is there.
    OwnerOpened,
    /// An owner has ended.
    OwnerEnded,
    /// A lock was given.
    Acquired,
    /// A lock has another mode now.
    Converted,
    /// An owner did not get what somebody else holds.
    Refused,
    /// An owner waits for what somebody else holds.
    Waiting,
    /// It waits no more, whatever came of it.
    WaitEnded,
    /// A lock was given up.
    Released,
    /// Somebody else than its owner has a lock given up.
    Broken,
    /// A lock is not there, though its machine lives.
    Lost,
    /// A lock that was lost is there again.
    Regained,
    /// What an owner holds is given up for a while.
    Suspended,
    /// And taken again.
    Resumed,
    /// What one owner held is another's now.
    HandedOver,
    /// Somebody may not do what he asked for.
    Denied,
    /// Owners and locks are there again after the service was away.
    Restored,
}

impl Kind {
    /// All of them.
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

    /// Its word.
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

    /// Its number, as journald spells it.
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

    /// The kind that bears this word.
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
        let words: BTreeSet<_> = Kind::ALL.map(Kind::as_str).into();
        let numbers: BTreeSet<_> = Kind::ALL.map(Kind::message_id).into();
        let kinds: std::collections::HashSet<_> = Kind::ALL.into();
        let count = Kind::ALL.len();
        assert_eq!((words.len(), numbers.len(), kinds.len()), (count, count, count));
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.as_str()), Some(kind));
            let id = kind.message_id();
            assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
            // Version 4 in the place where a UUID has it, as `systemd-id128 new` makes them.
            assert_eq!(id.as_bytes()[12], b'4', "{id}");
        }
        assert_eq!(Kind::of("gone"), None);
    }
}
