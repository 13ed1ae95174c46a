//! Percent escapes as SigV4 wants them: everything but the unreserved characters, with upper-case digits.
//! Invariant: what was escaped once is signed as it is sent.

/// For a value in the query.
pub(super) fn value(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 16);
    push(&mut text, bytes, b"-._~");
    text
}

/// Appends a key to a path: its slashes stay.
pub(super) fn push_path(text: &mut String, key: &[u8]) {
    push(text, key, b"-._~/");
}

fn push(text: &mut String, bytes: &[u8], kept: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || kept.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_unreserved_characters_stay() {
        let all = "aZ09-._~/ +%&=?#'\"<>*(),;:@$!ü\u{7f}\n";
        let escaped = "aZ09-._~%2F%20%2B%25%26%3D%3F%23%27%22%3C%3E%2A%28%29%2C%3B%3A%40%24%21%C3%BC%7F%0A";
        assert_eq!(super::value(all.as_bytes()), escaped);
        let mut path = "/".to_owned();
        super::push_path(&mut path, all.as_bytes());
        assert_eq!(path, format!("/{}", escaped.replace("%2F", "/")));
    }
}
