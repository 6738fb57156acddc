//! The two policies of the stash, and the names of their socket pairs.

/// How the service itself treats a descriptor that it has stashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The service keeps the descriptor open. It can stash it again at any time, many descriptors
    /// in one message.
    ///
    /// Its pairs are named `p<number>`.
    KeepOpen,
    /// The service closes its own descriptor; only the copy in the stash is left.
    ///
    /// For files on file systems that may hang: closing such a file asks its file system (FUSE is
    /// sent a `FLUSH`, and the kernel waits for the reply even on behalf of a killed process), and
    /// a process that exits closes all its files. An open descriptor would keep a killed service
    /// from exiting, and the next service from starting.
    ///
    /// Each device has pairs of its own, with one descriptor per message, so that compaction opens
    /// only descriptors on the file system of the descriptor that was discarded. They are named
    /// `f<number>_<device>`.
    StashOnly,
}

impl Policy {
    /// All policies.
    pub(super) const ALL: [Self; 2] = [Self::KeepOpen, Self::StashOnly];

    /// Returns the prefix of the names of the pairs of this policy.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::KeepOpen => "p",
            Self::StashOnly => "f",
        }
    }

    /// Returns the name of a pair. All names together go into one environment variable, so they are
    /// short.
    pub(super) fn pair_name(self, number: u64, device: Option<u64>) -> String {
        let prefix = self.prefix();
        match device {
            Some(device) => format!("{prefix}{number}_{device}"),
            None => format!("{prefix}{number}"),
        }
    }

    /// Returns the number and the device in the name of a pair; `None` if the name is not one of
    /// this policy.
    pub(super) fn parse_name(self, name: &str) -> Option<(u64, Option<u64>)> {
        let rest = name.strip_prefix(self.prefix())?;
        match self {
            Self::KeepOpen => Some((rest.parse().ok()?, None)),
            Self::StashOnly => {
                let (number, device) = rest.split_once('_')?;
                Some((number.parse().ok()?, Some(device.parse().ok()?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_contains_the_device() {
        assert_eq!(Policy::StashOnly.parse_name("f7_62"), Some((7, Some(62))));
        assert_eq!(Policy::StashOnly.parse_name("p7"), None);
        assert_eq!(Policy::StashOnly.pair_name(7, Some(62)), "f7_62");
        assert_eq!(Policy::KeepOpen.parse_name("p7"), Some((7, None)));
    }
}
