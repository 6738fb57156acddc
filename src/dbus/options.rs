//! The `a{sv}` at the end of every method that may grow.
//!
//! A lock service must not overlook a wish, so a key that nobody took is refused, and so is one
//! with a value of another type than documented.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use zbus::{OwnedVariant, Variant};

use super::error::Error;
use super::waiting::Timeout;
use crate::admission::stand_in::exchange;
use crate::lock::OwnerId;
use crate::lock::in_use::InUse;
use crate::lock::on_lost::OnLost;
use crate::lock::printable::shown;
use crate::lock::received::Received;
use crate::lock::why::check_why;
use crate::nearest::nearest;
use crate::paths;

/// How long an offer stands where nobody says how long, and at most: its locks are nobody's when both
/// machines are gone, and keep everybody off until then.
const OFFER: Duration = Duration::from_secs(60);
const OFFER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the descriptor that came with a call, for the stand-in that zbus has of it.
///
/// # Errors
///
/// `InvalidArgs` where the call refers to one descriptor twice.
pub(super) fn received(stand_in: impl AsFd) -> Result<Received, Error> {
    exchange(stand_in)
        .ok_or_else(|| Error::invalid("the call refers to one descriptor more than once"))
}

/// What arrives on the bus.
pub(super) type Raw = HashMap<String, OwnedVariant>;

/// Options that are taken one by one.
#[derive(Debug)]
pub(super) struct Options {
    raw: Raw,
    /// The keys that the method knows, as far as it has asked for them.
    known: Vec<&'static str>,
}

impl Options {
    /// Begins to take.
    #[must_use]
    pub(super) fn new(raw: Raw) -> Self {
        Self { raw, known: Vec::new() }
    }

    /// Refuses whatever was given: for methods that have no options yet.
    ///
    /// # Errors
    ///
    /// `InvalidArgs`.
    pub(super) fn none(raw: Raw) -> Result<(), Error> {
        Self::new(raw).finish()
    }

    /// Takes a boolean; false where it is absent.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<bool, Error> {
        Ok(self.take::<bool>(key, "a boolean (b)")?.unwrap_or_default())
    }

    /// Takes what becomes of block devices that the host uses itself.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(super) fn in_use(&mut self) -> Result<InUse, Error> {
        Ok(if self.flag("in-use")? { InUse::Allowed } else { InUse::Refused })
    }

    /// Takes what becomes of a machine that loses a lock.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a word that is none.
    pub(super) fn on_lost(&mut self) -> Result<OnLost, Error> {
        let wrong = |()| {
            Error::invalid("option 'on-lost' must be \"notify\", \"pause\" or \"kill\"".to_owned())
        };
        let word = self.take::<String>("on-lost", "a string (s)")?;
        word.map_or(Ok(OnLost::default()), |word| word.parse()).map_err(wrong)
    }

    /// Takes what the locks of an owner are for; empty where the option is absent.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a text that is too long or not printable.
    pub(super) fn why(&mut self) -> Result<String, Error> {
        let why = self.text("why")?.unwrap_or_default();
        let wrong = |reason| Error::invalid(format!("option 'why' {reason}"));
        check_why(&why).map_err(wrong)?;
        Ok(why)
    }

    /// Takes the resources to lock, with their modes; none where the option is absent.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(super) fn resources(&mut self) -> Result<Vec<(String, String)>, Error> {
        let what = "an array of (resource, mode) (a(ss))";
        Ok(self.take("resources", what)?.unwrap_or_default())
    }

    /// Takes a string.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, Error> {
        self.take(key, "a string (s)")
    }

    /// Takes the path of an owner, which need not be there.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a path that no owner can have.
    pub(super) fn owner(&mut self, key: &'static str) -> Result<Option<OwnerId>, Error> {
        let what = "the object path of an owner (o)";
        let path = self.take::<zbus::ObjectPath<'static>>(key, what)?;
        let id = path.map(|path| paths::owner_id(path.as_str()));
        id.map(|id| id.ok_or_else(|| Error::invalid(format!("option '{key}' must be {what}"))))
            .transpose()
    }

    /// Takes a number, or a path that has one.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a path that has none.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        of_path: impl Fn(&str) -> Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let Some(value) = self.remove(key) else { return Ok(None) };
        let number = match &*value {
            Variant::U64(number) => Some(*number),
            Variant::ObjectPath(path) => of_path(path.as_str()),
            _ => None,
        };
        let wrong = || Error::invalid(format!("option '{key}' must be a 64-bit number (t)"));
        number.map(Some).ok_or_else(wrong)
    }

    /// Takes the largest number of rows.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for 0.
    pub(super) fn limit(&mut self) -> Result<Option<usize>, Error> {
        let limit = self.take::<u32>("limit", "a 32-bit number (u)")?;
        if limit == Some(0) {
            return Err(Error::invalid("option 'limit' must be at least 1"));
        }
        Ok(limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// Takes a descriptor.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type.
    pub(super) fn file(&mut self, key: &'static str) -> Result<Option<Received>, Error> {
        match self.remove(key).as_deref() {
            None => Ok(None),
            Some(Variant::Fd(file)) => received(file).map(Some),
            Some(_) => Err(Error::invalid(format!("option '{key}' must be a descriptor (h)"))),
        }
    }

    /// Takes the time to wait. "No limit" is an option of its own, since languages whose numbers are
    /// floating-point numbers cannot express the largest value of `timeout-usec`.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for a time limit together with `no-timeout`.
    pub(super) fn timeout(&mut self) -> Result<Timeout, Error> {
        let micros = self.take::<u64>("timeout-usec", "a 64-bit number (t)")?;
        match (micros, self.flag("no-timeout")?) {
            (Some(u64::MAX), _) | (None, true) => Ok(Timeout::Unlimited),
            (Some(micros), true) => Err(Error::invalid(format!(
                "options 'timeout-usec' ({micros}) and 'no-timeout' contradict each other"
            ))),
            (None | Some(0), false) => Ok(Timeout::NonBlocking),
            (Some(micros), false) => Ok(Timeout::After(Duration::from_micros(micros))),
        }
    }

    /// Takes the time for which an offer stands.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` for another type, and for none at all or more than a day.
    pub(super) fn patience(&mut self) -> Result<Duration, Error> {
        let micros = self.take::<u64>("timeout-usec", "a 64-bit number (t)")?;
        let time = micros.map_or(OFFER, Duration::from_micros);
        if time.is_zero() || time > OFFER_MAX {
            let why = "option 'timeout-usec': must be between one microsecond and one day";
            return Err(Error::invalid(why));
        }
        Ok(time)
    }

    /// Refuses what was not taken.
    ///
    /// # Errors
    ///
    /// `InvalidArgs` with the first such key.
    pub(super) fn finish(self) -> Result<(), Error> {
        let Some(key) = self.raw.keys().min() else { return Ok(()) };
        let key: String = key.chars().take(64).collect();
        let unknown = format!("unknown option '{}'", shown(&key));
        Err(Error::invalid(match nearest(&key, &self.known) {
            Some(word) => format!("{unknown}, did you mean '{word}'?"),
            None => unknown,
        }))
    }

    fn remove(&mut self, key: &'static str) -> Option<OwnedVariant> {
        self.known.push(key);
        self.raw.remove(key)
    }

    fn take<T: TryFrom<OwnedVariant>>(
        &mut self,
        key: &'static str,
        what: &str,
    ) -> Result<Option<T>, Error> {
        let wrong = |_| Error::invalid(format!("option '{key}' must be {what}"));
        self.remove(key).map(T::try_from).transpose().map_err(wrong)
    }
}
