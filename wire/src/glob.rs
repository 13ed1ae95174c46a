//! Patterns in policies and in a node's tiers: `*` stands for any characters.
//! Pure.

/// Whether the whole of `text` is what `pattern` says. O(pattern * text) at worst.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut in_text) = (0, 0);
    // Where to go on when what follows the last star doesn't fit: one character further in the text.
    let mut retry: Option<(usize, usize)> = None;
    while in_text < text.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at + 1, in_text));
            at += 1;
        } else if pattern.get(at) == text.get(in_text) {
            at += 1;
            in_text += 1;
        } else if let Some((after_star, from)) = retry {
            at = after_star;
            in_text = from + 1;
            retry = Some((after_star, from + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let check = |pattern: &str, text: &str, expected: bool| assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        check("s3://*", "s3://bucket/a", true);
        check("s3://*", "file:///a", false);
        check("s3://a/*", "s3://ab/c", false);
        check("s3://*/train/*", "s3://a/b/train/c", true);
        check("a*b*c", "axxbyybzzc", true);
        check("a*b*c", "axxbyyb", false);
        check("", "", true);
        check("", "a", false);
        check("**", "", true);
        check("https://minio:9000", "https://minio:9000", true);
        check("https://minio:9000", "https://minio:90001", false);
        check("https://[::1]:9000", "https://[::1]:9000", true);
    }
}
