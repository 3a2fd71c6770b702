//! JSON strings as Go's `encoding/json` writes them, byte for byte: trees are hashed, so every byte counts.

use std::io::{self, Write};

/// Writes `text` as a JSON string: `<`, `>`, `&`, U+2028 and U+2029 are escaped too.
pub(super) fn write_string(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    let mut plain_from = 0;
    for (at, c) in text.char_indices() {
        let escaped: &str = match c {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            // Since Go 1.22; older wrote \u0008 and \u000c.
            '\x08' => "\\b",
            '\x0c' => "\\f",
            '\0'..='\x1f' => "",
            '<' => "\\u003c",
            '>' => "\\u003e",
            '&' => "\\u0026",
            '\u{2028}' => "\\u2028",
            '\u{2029}' => "\\u2029",
            _ => continue,
        };
        out.write_all(&text.as_bytes()[plain_from..at])?;
        if escaped.is_empty() {
            write!(out, "\\u{:04x}", u32::from(c))?;
        } else {
            out.write_all(escaped.as_bytes())?;
        }
        plain_from = at + c.len_utf8();
    }
    out.write_all(&text.as_bytes()[plain_from..])?;
    out.write_all(b"\"")
}

/// Writes bytes that should be text: what is not UTF-8 becomes `\ufffd`, a byte at a time.
pub(super) fn write_lossy(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return write_string(out, text);
    }
    let mut quoted = Vec::new();
    for part in bytes.utf8_chunks() {
        let mut inner = Vec::new();
        write_string(&mut inner, part.valid())?;
        quoted.extend_from_slice(&inner[1..inner.len() - 1]);
        for _ in part.invalid() {
            quoted.extend_from_slice(b"\\ufffd");
        }
    }
    out.write_all(b"\"")?;
    out.write_all(&quoted)?;
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go 1.22's `json.Marshal` prints for these.
    #[test]
    fn golden_strings() {
        let cases = [
            ("plain é 😀", "\"plain é 😀\""),
            ("<a href=\"x\">&\\", r#""\u003ca href=\"x\"\u003e\u0026\\""#),
            ("\u{0}\u{1}\u{8}\t\n\u{b}\u{c}\r\u{7f}", "\"\\u0000\\u0001\\b\\t\\n\\u000b\\f\\r\u{7f}\""),
            ("\u{2028}\u{2029}", r#""\u2028\u2029""#),
        ];
        for (text, json) in cases {
            let mut out = Vec::new();
            write_string(&mut out, text).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
        let mut out = Vec::new();
        write_lossy(&mut out, b"a\xff\xfeb<").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\ufffd\\ufffdb\\u003c\"");
    }
}
