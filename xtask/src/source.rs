//! Rust source as `tidy` looks at it: comments and texts blanked, and what only tests see cut out. Lines stay where they were.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Blanks comments and the insides of literals with spaces; line breaks stay, so line numbers do.
pub fn strip(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        if rest.starts_with(b"//") {
            let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            blank(&mut out, at, end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let (mut depth, mut end) = (1, at + 2);
            while depth > 0 && end < bytes.len() {
                match &bytes[end..(end + 2).min(bytes.len())] {
                    b"/*" => (depth, end) = (depth + 1, end + 2),
                    b"*/" => (depth, end) = (depth - 1, end + 2),
                    _ => end += 1,
                }
            }
            blank(&mut out, at, end);
            at = end;
        } else if let (false, Some(hashes)) = (word_before, raw_text(rest)) {
            let open = at + rest.iter().position(|byte| *byte == b'"').unwrap_or(0) + 1;
            let close = [&b"\""[..], &vec![b'#'; hashes][..]].concat();
            let end =
                bytes[open..].windows(close.len()).position(|part| part == close).map_or(bytes.len(), |n| open + n);
            blank(&mut out, open, end);
            at = end + close.len();
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            blank(&mut out, at + 1, end);
            at = end + 1;
        } else if rest[0] == b'\'' {
            // A character, unless it is a lifetime: 'a' closes, 'a does not.
            let escaped = rest.get(1) == Some(&b'\\');
            let close = rest.iter().skip(if escaped { 3 } else { 2 }).take(10).position(|byte| *byte == b'\'');
            let wide = rest.get(1).is_some_and(|byte| *byte >= 0x80);
            match close {
                Some(n) if escaped => (blank(&mut out, at + 1, at + 3 + n), at += 4 + n).1,
                Some(n) if n == 0 || wide => (blank(&mut out, at + 1, at + 2 + n), at += 3 + n).1,
                _ => at += 1,
            }
        } else {
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The number of `#` if a raw text (`r"…"`, `br#"…"#`) begins here.
fn raw_text(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"b").unwrap_or(rest).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// A stripped source without what `#[cfg(test)]` (or `any(test, …)`) guards, and the names of the modules so declared in files of their own.
pub fn without_tests(stripped: &str) -> (String, Vec<String>) {
    let mut out = stripped.as_bytes().to_vec();
    let mut modules = Vec::new();
    if stripped.contains("#![cfg(test)]") {
        return (stripped.chars().map(|c| if c == '\n' { c } else { ' ' }).collect(), modules);
    }
    let mut from = 0;
    while let Some(found) = ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test", "#[test]"]
        .iter()
        .filter_map(|mark| stripped[from..].find(mark))
        .min()
    {
        let start = from + found;
        let end = item_end(stripped.as_bytes(), start);
        let item = &stripped[start..end];
        if let Some(name) = item.trim_end().strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
            modules.push(name.1.trim().to_owned());
        }
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end;
    }
    (String::from_utf8_lossy(&out).into_owned(), modules)
}

/// Where the item ends whose attributes begin at `start`.
fn item_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    // Its attributes first.
    loop {
        while at < bytes.len() && bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        if bytes.get(at) != Some(&b'#') {
            break;
        }
        let mut depth = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'[' => depth += 1,
                b']' => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && bytes[at - 1] == b']' {
                break;
            }
        }
    }
    let mut depth = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth < 0 {
                    return at;
                }
                if depth == 0 && bytes[at] == b'}' {
                    return at + 1;
                }
            }
            b';' | b',' if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The files and folders that a test-only `mod name;` in `file` stands for.
fn module_paths(file: &Path, name: &str) -> [PathBuf; 2] {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    let dir = file.parent().unwrap_or(Path::new(""));
    let dir = if matches!(stem, "mod" | "lib" | "main") { dir.to_path_buf() } else { dir.join(stem) };
    [dir.join(format!("{name}.rs")), dir.join(name)]
}

/// One file of product code: its path from the root and its text, stripped, without tests.
pub struct Product {
    /// From the root.
    pub path: PathBuf,
    /// Code only.
    pub code: String,
}

/// The product code among `files` (paths from `root`): each crate's `src` without what only its tests see.
pub fn product(root: &Path, files: &[PathBuf]) -> Vec<Product> {
    let mut tests = BTreeSet::new();
    let mut products = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        if !path.components().any(|part| part.as_os_str() == "src") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        let (code, modules) = without_tests(&strip(&text));
        tests.extend(modules.iter().flat_map(|name| module_paths(path, name)));
        products.push(Product { path: path.clone(), code });
    }
    products.retain(|product| !tests.iter().any(|test| product.path.starts_with(test)));
    products
}

#[cfg(test)]
mod tests {
    use super::{module_paths, strip, without_tests};
    use std::path::{Path, PathBuf};

    #[test]
    fn comments_and_texts_are_blank_and_lines_stay() {
        let stripped =
            strip("a // tokio\n\"tokio \\\" tokio\" /* x /* y */ tokio */ b\nr#\"tokio\"# c '\"' d 'x 'y' '\\'' e");
        assert!(!stripped.contains("tokio"), "{stripped}");
        assert_eq!(stripped.lines().count(), 3);
        for word in ["a", "b", "c", "d", "'x", "e"] {
            assert!(stripped.split_whitespace().any(|part| part == word), "{word} in {stripped}");
        }
    }

    #[test]
    fn what_only_tests_see_is_cut() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn x() { y.unwrap() }\n}\nfn b() {}\n#[cfg(test)]\n#[rustfmt::skip]\nmod more;\nstruct S {\n #[cfg(any(test, q))]\n z: u8,\n w: u8 }";
        let (code, modules) = without_tests(text);
        assert!(!code.contains("unwrap") && !code.contains("z: u8"));
        assert!(code.contains("fn b()") && code.contains("w: u8 }"));
        assert_eq!(modules, ["more"]);
        assert_eq!(module_paths(Path::new("s/a.rs"), "t")[0], PathBuf::from("s/a/t.rs"));
        assert_eq!(module_paths(Path::new("s/lib.rs"), "t")[1], PathBuf::from("s/t"));
    }
}
