//! What an owner asks for, as far as it is known before anything is touched.

use crate::lock::key::Key;
use crate::lock::resolve::{Resolve, Target};
use crate::lock::restored::find_again;
use crate::lock::take::Goal;
use crate::lock::work::{Asked, Work as _};
use crate::lock::{self, Mode, Want};

/// One resource that an owner asks for.
#[derive(Debug)]
pub struct Ask {
    /// What it is.
    pub disk: Disk,
    /// How it shall be held.
    pub mode: Mode,
}

/// A disk, as far as it is known.
#[derive(Debug)]
pub enum Disk {
    /// To be found.
    Wanted(Resolve),
    /// Found already, because somebody had to be asked about what it is.
    Found(Box<Target>),
    /// A key in a lockspace, whatever it stands for.
    Key(Key),
    /// What the owner held before it was suspended.
    Remembered(Box<Want>),
}

impl Disk {
    /// What has to be asked about it.
    pub(super) fn asks(&self) -> Vec<Asked<'_>> {
        match self {
            Self::Wanted(resolve) => resolve.asks(),
            Self::Found(target) => target.asks(),
            Self::Key(key) => key.lockspace().asks().into_iter().collect(),
            Self::Remembered(want) => want.asks(),
        }
    }

    /// What it is.
    ///
    /// # Errors
    ///
    /// Those of [`Resolve`], and where what was remembered leads elsewhere.
    pub(super) fn find(self) -> Result<Goal, lock::Error> {
        match self {
            Self::Wanted(resolve) => Ok(Goal::Disk(Box::new(resolve.perform()?))),
            Self::Found(target) => Ok(Goal::Disk(target)),
            Self::Key(key) => Ok(Goal::Key(key)),
            Self::Remembered(want) => find_again(&want),
        }
    }
}
