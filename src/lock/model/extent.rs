//! The part of a file or block device that a disk occupies.

use super::identity::Identity;

/// A range of bytes, from `start` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub start: u64,
    /// The byte after the last one; [`u64::MAX`] if the range has no end of its own.
    pub end: u64,
}

impl Span {
    /// A whole file or device, of any present or future length.
    pub const WHOLE: Self = Self { start: 0, end: u64::MAX };

    /// Returns the range of `length` bytes from `start`; up to the end if the length is 0.
    #[must_use]
    pub fn new(start: u64, length: u64) -> Self {
        let end = if length == 0 { u64::MAX } else { start.saturating_add(length) };
        Self { start, end }
    }

    /// Whether two ranges have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Returns the location of `inner`, a range of a device that occupies this range.
    fn within(self, inner: Self) -> Self {
        let shifted = |offset: u64| self.start.saturating_add(offset).min(self.end);
        Self { start: shifted(inner.start), end: shifted(inner.end) }
    }
}

/// Whether it is known which bytes of a range a disk occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Placement {
    /// All of them: a partition, a loop device.
    Exact,
    /// An unknown part of them: a logical volume, an array.
    Partial,
}

/// The part of a file or block device that a disk occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// The file or device.
    pub identity: Identity,
    /// The range in it.
    pub span: Span,
    /// Whether the disk occupies the whole range.
    pub placement: Placement,
}

impl Extent {
    /// Returns the extent of a whole file or device.
    #[must_use]
    pub fn whole(identity: Identity) -> Self {
        Self::exact(identity, Span::WHOLE)
    }

    /// Returns the extent of a range of a file or device.
    #[must_use]
    pub fn exact(identity: Identity, span: Span) -> Self {
        Self { identity, span, placement: Placement::Exact }
    }

    /// Returns the extent of an unknown part of a file or device.
    #[must_use]
    pub fn partial(identity: Identity) -> Self {
        Self { identity, span: Span::WHOLE, placement: Placement::Partial }
    }

    /// Whether a write to one may change a byte of the other.
    ///
    /// Two unknown parts count as disjoint: the volumes of a volume group share its devices and no
    /// byte of them.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let both_partial =
            self.placement == Placement::Partial && other.placement == Placement::Partial;
        self.identity == other.identity && !both_partial && self.span.overlaps(other.span)
    }

    /// Returns the part of `lower.identity` that a disk occupies through this extent; `lower` is
    /// the location of the device of this extent.
    #[must_use]
    pub fn through(&self, lower: Self) -> Self {
        match lower.placement {
            Placement::Partial => lower,
            Placement::Exact => Self {
                identity: lower.identity,
                span: lower.span.within(self.span),
                placement: self.placement,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Identity = Identity::Block { dev: 1, seq: 0 };
    const FILE: Identity = Identity::Inode { dev: 1, ino: 1 };

    fn exact(start: u64, length: u64) -> Extent {
        Extent::exact(FILE, Span::new(start, length))
    }

    #[test]
    fn extents_conflict_where_they_have_a_byte_in_common() {
        for (a, b, conflict) in [
            (exact(0, 0), exact(0, 0), true),
            (exact(0, 0), exact(4096, 512), true),
            (exact(0, 512), exact(512, 512), false),
            (exact(0, 513), exact(512, 512), true),
            (exact(1024, 0), exact(0, 1024), false),
            (exact(u64::MAX - 1, 8), exact(0, 0), true),
            (Extent::partial(FILE), exact(512, 1), true),
            (Extent::partial(FILE), Extent::partial(FILE), false),
            (Extent::whole(DISK), Extent::whole(FILE), false),
        ] {
            assert_eq!((a.conflicts(&b), b.conflicts(&a)), (conflict, conflict), "{a:?} {b:?}");
        }
    }

    #[test]
    fn offsets_add_up_and_stay_within_the_lower_range() {
        let device = exact(1000, 100);
        let through = |start, length| {
            let Extent { span, placement, .. } =
                Extent::exact(DISK, Span::new(start, length)).through(device);
            assert_eq!(placement, Placement::Exact);
            (span.start, span.end)
        };
        assert_eq!(through(0, 0), (1000, 1100));
        assert_eq!(through(10, 20), (1010, 1030));
        assert_eq!(through(90, 20), (1090, 1100));
        let part = Extent::partial(DISK).through(device);
        assert_eq!((part.span, part.placement), (device.span, Placement::Partial));
        assert_eq!(Extent::whole(DISK).through(Extent::partial(FILE)), Extent::partial(FILE));
    }
}
