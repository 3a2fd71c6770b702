//! Names of nodes: Go's `strconv.Quote` without its outer quotes, so that any bytes survive JSON.

use std::fmt::Write;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Quotes the raw bytes of a name.
#[must_use]
pub(super) fn quote(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        for c in part.valid().chars() {
            quote_char(c, &mut out);
        }
        for byte in part.invalid() {
            write!(out, "\\x{byte:02x}").expect("strings take all");
        }
    }
    out
}

fn quote_char(c: char, out: &mut String) {
    let number = u32::from(c);
    let short = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ if is_printable(c) => return out.push(c),
        _ if number < 0x20 || number == 0x7f => return write!(out, "\\x{number:02x}").expect("strings take all"),
        _ if number < 0x1_0000 => return write!(out, "\\u{number:04x}").expect("strings take all"),
        _ => return write!(out, "\\U{number:08x}").expect("strings take all"),
    };
    out.push_str(short);
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols, and the ASCII space.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    matches!(
        c.general_category_group(),
        GeneralCategoryGroup::Letter
            | GeneralCategoryGroup::Mark
            | GeneralCategoryGroup::Number
            | GeneralCategoryGroup::Punctuation
            | GeneralCategoryGroup::Symbol
    )
}

/// Reads a quoted name back to bytes, as Go's `strconv.Unquote` does.
///
/// # Errors
/// An escape that Go does not know; in words.
pub(super) fn unquote(quoted: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = unescape(&rest[at + 1..], &mut out).ok_or_else(|| format!("name {quoted:?} has an unknown escape"))?;
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// Reads one escape after its backslash; returns what follows it.
fn unescape<'a>(text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let first = *text.as_bytes().first()?;
    let simple = match first {
        b'a' => Some(0x07),
        b'b' => Some(0x08),
        b'f' => Some(0x0c),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(0x0b),
        b'\\' | b'"' => Some(first),
        _ => None,
    };
    if let Some(byte) = simple {
        out.push(byte);
        return Some(&text[1..]);
    }
    let (digits, radix, from) = match first {
        b'x' => (2, 16, 1),
        b'u' => (4, 16, 1),
        b'U' => (8, 16, 1),
        b'0'..=b'7' => (3, 8, 0),
        _ => return None,
    };
    let text_digits = text.get(from..from + digits)?;
    if !text_digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let value = u32::from_str_radix(text_digits, radix).ok()?;
    if matches!(first, b'u' | b'U') {
        out.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        out.push(u8::try_from(value).ok()?);
    }
    text.get(from + digits..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Go's `strconv.Quote` prints for these, without the outer quotes.
    #[test]
    fn golden_names() {
        let cases: [(&[u8], &str); 9] = [
            (b"plain name.txt", "plain name.txt"),
            (b"quote\"back\\slash", r#"quote\"back\\slash"#),
            (b"\x00\x07\x08\t\n\x0b\x0c\r\x1b\x7f", r"\x00\a\b\t\n\v\f\r\x1b\x7f"),
            (b"\xff\xfe", r"\xff\xfe"),
            ("täst 日本 😀".as_bytes(), "täst 日本 😀"),
            ("\u{a0}\u{200b}\u{2028}\u{feff}".as_bytes(), r"\u00a0\u200b\u2028\ufeff"),
            ("\u{e0001}".as_bytes(), r"\U000e0001"),
            ("\u{fffd}".as_bytes(), "\u{fffd}"),
            (b"a\xe2\x28\xa1z", r"a\xe2(\xa1z"),
        ];
        for (name, quoted) in cases {
            assert_eq!(quote(name), quoted);
            assert_eq!(unquote(quoted).unwrap(), name);
        }
        assert_eq!(unquote(r"\101").unwrap(), b"A");
    }

    #[test]
    fn unknown_escapes_are_refused() {
        for bad in ["\\", "\\q", "\\x1", "\\xzz", "\\ud800", "\\U00110000", "\\477", "\\x+1", "\\xé"] {
            assert!(unquote(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(name in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unquote(&quote(&name)).unwrap(), name);
        }
    }
}
