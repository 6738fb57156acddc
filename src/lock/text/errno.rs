//! Descriptions of error numbers, for messages.
//!
//! They are nix's: rustix has none, and those of `strerror(3)` depend on the C library.

use rustix::io::Errno;

/// Returns the description of an error number, without the number.
#[must_use]
pub fn errno_description(errno: Errno) -> &'static str {
    os_error_description(errno.raw_os_error())
}

/// Returns the description of an error number that another program may have chosen.
#[must_use]
pub fn os_error_description(number: i32) -> &'static str {
    nix::errno::Errno::from_raw(number).desc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_has_a_description() {
        assert_eq!(errno_description(Errno::ACCESS), "Permission denied");
        assert_eq!(errno_description(Errno::AGAIN), "Try again");
        for number in [i32::MIN, -13, 0, 4095, 70_000] {
            assert_eq!(os_error_description(number), "Unknown errno", "{number}");
        }
    }
}
