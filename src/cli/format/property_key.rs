//! JSON keys for D-Bus properties, in the spelling of the keys of `ListLocks`.

/// Returns the key for a property: `since-usec` for `SinceUSec`, `uuid` for `UUID`.
pub(crate) fn key_for(name: &str) -> String {
    let letters: Vec<char> = name.replace("USec", "Usec").chars().collect();
    let mut key = String::new();
    for (n, letter) in letters.iter().enumerate() {
        let before = n.checked_sub(1).map(|n| letters[n]);
        let after = letters.get(n + 1);
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                !before.is_ascii_uppercase() || after.is_some_and(char::is_ascii_lowercase)
            });
        if begins {
            key.push('-');
        }
        key.push(letter.to_ascii_lowercase());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_become_keys() {
        for (name, key) in [
            ("SinceUSec", "since-usec"),
            ("UUID", "uuid"),
            ("PID", "pid"),
            ("Frontend", "frontend"),
            ("OnLost", "on-lost"),
            ("SelfTestResult", "self-test-result"),
            ("LockFile", "lock-file"),
            ("NLocks", "n-locks"),
        ] {
            assert_eq!(key_for(name), key);
        }
    }
}
