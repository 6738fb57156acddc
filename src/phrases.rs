//! Phrases in error messages of the service that `vmlockctl` recognizes or replaces.
//!
//! A D-Bus error has one text. The service writes these phrases and the tool reads them, so both
//! use the constants here.

/// The last words of the advice to a caller that is not authorized.
pub(crate) const AUTHORIZE: &str = "have an administrator authorize you";
/// The advice to a caller other than root if there is no polkit.
pub(crate) const ONLY_ROOT: &str = "only root can use this service";
/// The advice to break the lock of another user.
pub(crate) const SET_FORCE: &str = "set 'force' to break it";
/// The description of an owner without a lifeline and a process, in words that follow "which".
pub(crate) const NO_PROCESS: &str = "no process keeps alive";
/// The end of the refusal of a disk that this host itself uses.
pub(crate) const NO_IN_USE: &str = "and 'in-use' was not said";
