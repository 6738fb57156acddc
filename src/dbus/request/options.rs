//! Decoding of the `a{sv}` argument that every extensible method has.
//!
//! A lock service must not ignore an option: an unknown key is refused, and so is a value of
//! another type than documented.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use zbus::{OwnedVariant, Variant};

use crate::admission::stand_in::exchange;
use crate::auth::authorizer::Call;
use crate::dbus::error::Error;
use crate::lock::OwnerId;
use crate::lock::descriptor::received::Received;
use crate::lock::disk::in_use::InUse;
use crate::lock::model::loss_action::OnLost;
use crate::lock::text::escape::shown;
use crate::lock::text::why::check_why;
use crate::nearest::nearest;
use crate::paths;
use crate::service::Wait;

/// How long an offer is valid by default, and at most. If both VMs end, its locks have no owner,
/// and block all others until the offer expires.
const OFFER_TIMEOUT: Duration = Duration::from_secs(60);
const OFFER_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the descriptor that was received with a call, for the placeholder that zbus decodes.
///
/// # Errors
///
/// `InvalidArgs` if the call refers to one descriptor twice.
pub(crate) fn receive_descriptor(placeholder: impl AsFd) -> Result<Received, Error> {
    exchange(placeholder)
        .ok_or_else(|| Error::invalid("the call refers to one descriptor more than once"))
}

/// The argument as it is received.
pub(crate) type RawOptions = HashMap<String, OwnedVariant>;

/// Options, which a method removes one by one.
#[derive(Debug)]
pub(crate) struct Options {
    raw: RawOptions,
    /// The keys that the method has removed so far, to suggest one for an unknown key.
    removed: Vec<&'static str>,
}

impl Options {
    /// Starts decoding.
    #[must_use]
    pub(crate) fn new(raw: RawOptions) -> Self {
        Self { raw, removed: Vec::new() }
    }

    /// Rejects all options, for a method that has none.
    ///
    /// # Errors
    ///
    /// `InvalidArgs`.
    pub(crate) fn reject_all(raw: RawOptions) -> Result<(), Error> {
        Self::new(raw).finish()
    }

    /// Removes a boolean; false by default.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool, Error> {
        Ok(self.remove::<bool>(key, "a boolean (b)")?.unwrap_or_default())
    }

    /// Removes the decision about block devices that the host itself uses; refused by default.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(crate) fn in_use(&mut self) -> Result<InUse, Error> {
        Ok(if self.flag("in-use")? { InUse::Allowed } else { InUse::Refused })
    }

    /// Removes the action for a VM that loses a lock.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for an unknown action.
    pub(crate) fn on_lost(&mut self) -> Result<OnLost, Error> {
        let wrong = |()| {
            Error::invalid("option 'on-lost' must be \"notify\", \"pause\" or \"kill\"".to_owned())
        };
        let action = self.remove::<String>("on-lost", "a string (s)")?;
        action.map_or(Ok(OnLost::default()), |action| action.parse()).map_err(wrong)
    }

    /// Removes the purpose of the owner's locks; empty by default.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a text that is too long or not printable.
    pub(crate) fn why(&mut self) -> Result<String, Error> {
        let why = self.text("why")?.unwrap_or_default();
        let wrong = |reason| Error::invalid(format!("option 'why' {reason}"));
        check_why(&why).map_err(wrong)?;
        Ok(why)
    }

    /// Removes the resources to lock, with their modes; none by default.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(crate) fn resources(&mut self) -> Result<Vec<(String, String)>, Error> {
        let what = "an array of (resource, mode) (a(ss))";
        Ok(self.remove("resources", what)?.unwrap_or_default())
    }

    /// Removes a string.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>, Error> {
        self.remove(key, "a string (s)")
    }

    /// Removes the path of an owner, which need not exist.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a path that no owner can have.
    pub(crate) fn owner(&mut self, key: &'static str) -> Result<Option<OwnerId>, Error> {
        let what = "the object path of an owner (o)";
        let path = self.remove::<zbus::ObjectPath<'static>>(key, what)?;
        let id = path.map(|path| paths::owner_id(path.as_str()));
        id.map(|id| id.ok_or_else(|| Error::invalid(format!("option '{key}' must be {what}"))))
            .transpose()
    }

    /// Removes a number, or the path of an object that has one.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a path without a number.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        of_path: impl Fn(&str) -> Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let Some(value) = self.remove_raw(key) else { return Ok(None) };
        let number = match &*value {
            Variant::U64(number) => Some(*number),
            Variant::ObjectPath(path) => of_path(path.as_str()),
            _ => None,
        };
        let wrong = || Error::invalid(format!("option '{key}' must be a 64-bit number (t)"));
        number.map(Some).ok_or_else(wrong)
    }

    /// Removes the maximum number of rows.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for 0.
    pub(crate) fn limit(&mut self) -> Result<Option<usize>, Error> {
        let limit = self.remove::<u32>("limit", "a 32-bit number (u)")?;
        if limit == Some(0) {
            return Err(Error::invalid("option 'limit' must be at least 1"));
        }
        Ok(limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// Removes a descriptor.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(crate) fn descriptor(&mut self, key: &'static str) -> Result<Option<Received>, Error> {
        match self.remove_raw(key).as_deref() {
            None => Ok(None),
            Some(Variant::Fd(file)) => receive_descriptor(file).map(Some),
            Some(_) => Err(Error::invalid(format!("option '{key}' must be a descriptor (h)"))),
        }
    }

    /// Removes the timeout of a request. "No timeout" is an option of its own, since languages that
    /// have floating-point numbers only cannot express the largest value of `timeout-usec`.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a time limit together with `no-timeout`.
    pub(crate) fn timeout(&mut self) -> Result<Timeout, Error> {
        let micros = self.remove::<u64>("timeout-usec", "a 64-bit number (t)")?;
        match (micros, self.flag("no-timeout")?) {
            (Some(u64::MAX), _) | (None, true) => Ok(Timeout::Unlimited),
            (Some(micros), true) => Err(Error::invalid(format!(
                "options 'timeout-usec' ({micros}) and 'no-timeout' contradict each other"
            ))),
            (None | Some(0), false) => Ok(Timeout::NonBlocking),
            (Some(micros), false) => Ok(Timeout::After(Duration::from_micros(micros))),
        }
    }

    /// Removes the time for which an offer is valid.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for zero or more than a day.
    pub(crate) fn offer_timeout(&mut self) -> Result<Duration, Error> {
        let micros = self.remove::<u64>("timeout-usec", "a 64-bit number (t)")?;
        let time = micros.map_or(OFFER_TIMEOUT, Duration::from_micros);
        if time.is_zero() || time > OFFER_TIMEOUT_MAX {
            let why = "option 'timeout-usec': must be between one microsecond and one day";
            return Err(Error::invalid(why));
        }
        Ok(time)
    }

    /// Rejects the options that were not removed.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` with the first unknown key.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let Some(key) = self.raw.keys().min() else { return Ok(()) };
        let key: String = key.chars().take(64).collect();
        let unknown = format!("unknown option '{}'", shown(&key));
        Err(Error::invalid(match nearest(&key, &self.removed) {
            Some(word) => format!("{unknown}, did you mean '{word}'?"),
            None => unknown,
        }))
    }

    fn remove_raw(&mut self, key: &'static str) -> Option<OwnedVariant> {
        self.removed.push(key);
        self.raw.remove(key)
    }

    fn remove<T: TryFrom<OwnedVariant>>(
        &mut self,
        key: &'static str,
        what: &str,
    ) -> Result<Option<T>, Error> {
        let wrong = |_| Error::invalid(format!("option '{key}' must be {what}"));
        self.remove_raw(key).map(T::try_from).transpose().map_err(wrong)
    }
}

/// How long a request may wait for resources that others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// The request fails at once if a resource is locked.
    NonBlocking,
    /// The request waits for at most this time.
    After(Duration),
    /// The request waits without a limit.
    Unlimited,
}

impl Timeout {
    /// Starts the timeout: the time that the caller needed for a dialog before does not count.
    #[must_use]
    pub(crate) fn start(self, call: &Call<'_>) -> Option<Wait> {
        let until = match self {
            Self::NonBlocking => return None,
            Self::After(time) => Instant::now().checked_add(time),
            Self::Unlimited => None,
        };
        Some(Wait { until, caller: call.caller.presence() })
    }
}
