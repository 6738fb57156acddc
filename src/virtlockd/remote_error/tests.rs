//! The encoding is virtlockd's, and every text is readable and bounded.

use super::super::xdr::Reader;
use super::*;

/// Code, domain, message, first and second string, first and second number.
type Fields = (i32, i32, String, String, String, i32, i32);

fn decode(error: &RemoteError) -> Fields {
    let payload = error.payload();
    let mut reader = Reader::new(&payload);
    let string = |reader: &mut Reader<'_>| {
        let string = reader.optional_string(MAX_TEXT + 100).unwrap().unwrap();
        assert!(!string.contains(&0));
        String::from_utf8(string.to_vec()).unwrap()
    };
    let (code, domain) = (reader.i32().unwrap(), reader.i32().unwrap());
    let message = string(&mut reader);
    assert_eq!(reader.i32(), Ok(2));
    assert_eq!(reader.u32(), Ok(0));
    let strings = (string(&mut reader), string(&mut reader));
    assert_eq!(reader.optional_string(0), Ok(None));
    let numbers = (reader.i32().unwrap(), reader.i32().unwrap());
    assert_eq!(reader.u32(), Ok(0));
    assert_eq!(reader.rest(), b"");
    (code, domain, message, strings.0, strings.1, numbers.0, numbers.1)
}

/// The replies of virtlockd 9.0, byte for byte.
#[test]
fn errors_are_encoded_as_virtlockd_encodes_them() {
    let call = Call::AcquireResource { lockspace: b"", name: b"", flags: 0x83 };
    let expect =
        |error: RemoteError, code, domain, message: &str, format: &str, numbers: (i32, i32)| {
            let text = message.strip_prefix(format.strip_suffix("%s").unwrap()).unwrap();
            let strings = (format.to_owned(), text.to_owned());
            let message = message.to_owned();
            let decoded = decode(&error);
            assert_eq!(
                decoded,
                (code, domain, message, strings.0, strings.1, numbers.0, numbers.1)
            );
        };
    let none = (-1, -1);
    let invalid = "Requested operation is not valid: %s";
    let (forbidden, internal) = ("operation forbidden: %s", "internal error: %s");
    let message = "Requested operation is not valid: lock owner details have not been registered";
    expect(RemoteError::unregistered(), 55, 7, message, invalid, none);
    let message = "operation forbidden: lock manager connection has been restricted";
    expect(RemoteError::restricted(), 29, 7, message, forbidden, none);
    let message = "internal error: Lockspace for path /srv/none does not exist";
    expect(RemoteError::no_lockspace(b"/srv/none"), 1, 7, message, internal, none);
    let message = "internal error: owner 900002 does not hold the resource lock";
    expect(RemoteError::not_the_holder(900_002), 1, 51, message, internal, none);
    let message = "resource busy: Lockspace resource '/srv/a' is locked";
    expect(RemoteError::locked(b"/srv/a", None), 87, 51, message, "resource busy: %s", none);
    let message = "resource busy: Lockspace resource '/srv/a' is not locked";
    expect(RemoteError::not_locked(b"/srv/a"), 87, 51, message, "resource busy: %s", none);
    let message = "Unable to open resource /srv/a: Is a directory";
    expect(
        RemoteError::not_opened(b"/srv/a", false, Errno::ISDIR),
        38,
        51,
        message,
        "%s",
        (21, -1),
    );
    let message = "Unable to open/create resource /srv/n/a: No such file or directory";
    expect(
        RemoteError::not_opened(b"/srv/n/a", true, Errno::NOENT),
        38,
        51,
        message,
        "%s",
        (2, -1),
    );
    let message = "Unable to decode message payload";
    expect(CallError::Payload.into(), 39, 7, message, "%s", none);
    let message = "unknown procedure: -1";
    expect(CallError::Procedure(-1).into(), 39, 7, message, "%s", none);
    let message = "Cannot find program 245874415 version 2";
    expect(RemoteError::unknown_program(0x0EA7_BEEF, 2), 39, 7, message, "%s", none);
    expect(RemoteError::unexpected_status(1), 39, 7, "Unexpected message status 1", "%s", none);

    let function = "virLockSpaceProtocolDispatchAcquireResource";
    let message = format!("unsupported flags (0x80) in function {function}");
    let flags = RemoteError::unsupported_flags(&call, 0x80);
    let (function, what) = (function.to_owned(), "flags".to_owned());
    assert_eq!(decode(&flags), (8, 7, message, function, what, 0, 0));
}

#[test]
fn the_holder_follows_virtlockds_text() {
    let error = RemoteError::locked(b"/srv/a", Some("exclusively by VM \"web1\""));
    let prefix = "resource busy: Lockspace resource '/srv/a' is locked";
    assert_eq!(error.message(), format!("{prefix} exclusively by VM \"web1\""));
}

#[test]
fn a_hostile_name_is_escaped_and_cut() {
    let error = RemoteError::not_locked(b"/a\0b\xff\n\x1b[2J");
    let shown = "/a\\u{0}b\\xff\\n\\u{1b}[2J";
    assert_eq!(
        error.message(),
        format!("resource busy: Lockspace resource '{shown}' is not locked")
    );
    assert_eq!(RemoteError::system("a\0", Errno::IO).text, "a\\u{0}: Input/output error");

    for letter in ["x", "é", "€", "\0", "\u{10ffff}"] {
        let name = letter.repeat(65_536);
        let error = RemoteError::not_opened(name.as_bytes(), false, Errno::NAMETOOLONG);
        let message = decode(&error).2;
        assert!((MAX_TEXT - 8..=MAX_TEXT).contains(&message.len()), "{}", message.len());
        assert!(message.starts_with("Unable to open resource "));
        assert!(message.ends_with(": File name too long"));
        assert!(error.payload().len() < 3 * MAX_TEXT);
    }
}
