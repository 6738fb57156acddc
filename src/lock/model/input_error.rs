//! Text of a caller that is not what it has to be.

/// A word, path, name or UUID that is not accepted. Nothing is looked up for it.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A word that is not a mode.
    #[error("mode '{0}' is neither 'exclusive' nor 'shared'")]
    BadMode(String),
    /// A path that cannot name a disk.
    #[error("path '{path}' {why}")]
    BadPath {
        /// The path, shortened and escaped.
        path: String,
        /// The error, as a phrase that follows the path.
        why: &'static str,
    },
    /// A name that is invalid for a file in a lockspace.
    #[error("key '{key}' {why}")]
    BadKey {
        /// The name, shortened and escaped.
        key: String,
        /// The error, as a phrase that follows the name.
        why: &'static str,
    },
    /// A name that is invalid for a VM.
    #[error("name '{name}' {why}")]
    BadName {
        /// The name, shortened and escaped.
        name: String,
        /// The error, as a phrase that follows the name.
        why: &'static str,
    },
    /// A word that is not a UUID.
    #[error("'{0}' is not a UUID")]
    BadUuid(String),
}
