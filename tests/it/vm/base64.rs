//! The agent's words for bytes.

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as it is told them.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, n| bits << 8 | usize::from(*part.get(n).unwrap_or(&0)));
        for n in 0..4 {
            let letter = LETTERS[bits >> (18 - 6 * n) & 63];
            text.push(if n <= part.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Bytes as it tells them.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let letters = text.bytes().filter(|letter| *letter != b'=');
    let numbers: Vec<usize> = letters
        .map(|letter| LETTERS.iter().position(|known| *known == letter).expect("base64"))
        .collect();
    let mut bytes = Vec::new();
    for part in numbers.chunks(4) {
        let bits = (0..4).fold(0, |bits, n| bits << 6 | part.get(n).unwrap_or(&0));
        let whole = u32::try_from(bits).expect("24 bits").to_be_bytes();
        bytes.extend(&whole[1..part.len()]);
    }
    bytes
}

#[test]
fn bytes_are_what_they_were() {
    for (bytes, text) in
        [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("abcd", "YWJjZA==")]
    {
        assert_eq!(encode(bytes.as_bytes()), text);
        assert_eq!(decode(text), bytes.as_bytes());
    }
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(decode(&encode(&all)), all);
}
