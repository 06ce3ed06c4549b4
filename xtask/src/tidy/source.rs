//! The files of the tree, and Rust's text without what is not code.

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// One text file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the workspace, with `/` between its parts.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

impl Source {
    /// Whether it is Rust that we wrote; generated code follows its generator's rules.
    pub(crate) fn is_our_rust(&self) -> bool {
        self.path.ends_with(".rs") && !self.path.contains("/gen/")
    }
}

const KINDS: &[&str] = &["rs", "toml", "md", "yaml", "yml", "proto", "sh", "json", "c", "h"];

/// Every text file below `root`, without hidden folders (but with `.ci` and `.cargo`) and what cargo built.
pub(crate) fn read(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type()?.is_dir() {
                let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
                if !hidden && name != "target" {
                    folders.push(path);
                }
                continue;
            }
            let script = folder.ends_with(".ci");
            if script || path.extension().is_some_and(|kind| KINDS.iter().any(|known| kind == *known)) {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                sources.push(Source { path: path.strip_prefix(root)?.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(sources)
}

/// `text` with comments, strings and characters blanked out; every line keeps its place and length.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !follows_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => at,
            },
            b'\'' => character_end(bytes, at),
            _ => at,
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Blanking works on whole tokens, which begin and end with ASCII, so the rest is still UTF-8.
    String::from_utf8_lossy(&code).into_owned()
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| from + length)
}

fn comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0_usize, from);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => (depth, at) = (depth + 1, at + 2),
            (b'*', Some(b'/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"` or `r#"…"#` at `from`; none where the `r` begins something else.
fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = from + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let length = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| open + 1 + length + close.len()))
}

/// The end of `'x'` or `'\n'` at `from`; `from` itself where the quote begins a lifetime.
fn character_end(bytes: &[u8], from: usize) -> usize {
    if bytes.get(from + 1) == Some(&b'\\') {
        return bytes[from + 3..].iter().position(|byte| *byte == b'\'').map_or(from, |length| from + 3 + length + 1);
    }
    // One character is at most four bytes; a lifetime has no closing quote right behind its first character.
    let width = bytes.get(from + 1).map_or(1, |first| match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    });
    if bytes.get(from + 1 + width) == Some(&b'\'') { from + width + 2 } else { from }
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    // `br"…"` is a raw string too.
    let before = at.checked_sub(1).map(|index| bytes[index]);
    before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && before != Some(b'b')
}

/// `code` (see [`code_only`]) with every item below `#[cfg(test)]` blanked out.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code.to_owned();
    while let Some(start) = rest.find(MARK) {
        let end = item_end(&rest, start + MARK.len());
        let blank: String = rest[start..end].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }).collect();
        rest.replace_range(start..end, &blank);
    }
    rest
}

/// Where the item that begins at `from` ends: its `;`, or the brace that closes its body.
pub(crate) fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (index, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return index + 1,
            b'{' if depth == 0 => return brace_end(code, index),
            _ => {}
        }
    }
    code.len()
}

/// Where the brace that opens at `open` is closed.
fn brace_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    code.len()
}

/// The line, from 1, that the byte at `at` is on.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        code_only(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_no_code_is_blanked_and_every_line_keeps_its_place() {
        assert_eq!(words("a /* b /* c */ d */ e // f\ng"), "a e g");
        assert_eq!(words(r#"x("say \" crate::tcp {") y"#), "x( ) y");
        assert_eq!(words("r#\"crate::\"tcp\" {\"# z br\"{\" w"), "z b w");
        assert_eq!(words("for<'a> '{' '\\'' 'ß' &'static str"), "for<'a> &'static str");
        let text = "one /*\n two */ {\n}";
        assert_eq!(code_only(text).matches('\n').count(), 2);
        assert_eq!(code_only(text).len(), text.len());
    }

    #[test]
    fn an_item_below_cfg_test_is_blanked_with_its_body() {
        let code = "use a;\n#[cfg(test)]\nmod tests { use b; fn f() { } }\n#[cfg(test)]\nuse c;\nuse d;";
        let kept: Vec<String> = without_tests(code).split_whitespace().map(str::to_owned).collect();
        assert_eq!(kept, ["use", "a;", "use", "d;"]);
    }
}
