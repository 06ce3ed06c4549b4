//! The list of end-to-end scenarios in `docs/testing.md`, read from the tests themselves: their names say the rules.

use anyhow::{Context, Result};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Between these lines of the page stands what is written here.
const BEGIN: &str = "<!-- scenarios: written by `cargo xtask docs` -->\n";
const END: &str = "<!-- end of scenarios -->\n";

/// `page` with the list of what `folder` holds.
pub(crate) fn renew(page: &str, folder: &Path) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("docs/testing.md has no line where its scenarios begin")?;
    let (_, after) = rest.split_once(END).context("docs/testing.md has no line where its scenarios end")?;
    let mut list = String::new();
    for file in files(folder)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(folder)?.with_extension("");
        list.push_str(&section(&name.to_string_lossy(), &text));
    }
    Ok(format!("{before}{BEGIN}{list}\n{END}{after}"))
}

/// The files that hold scenarios, in the order of their paths.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What one file proves; nothing when it holds no scenario.
fn section(name: &str, text: &str) -> String {
    let tests = tests(text);
    if tests.is_empty() {
        return String::new();
    }
    let about: Vec<&str> =
        text.lines().map_while(|line| line.strip_prefix("//!")).take_while(|line| !line.is_empty()).collect();
    let mut section = format!("\n### `{name}`\n\n{}\n\n", about.join("").trim());
    for test in tests {
        let often = match &test.runs {
            Runs::Everywhere => String::new(),
            Runs::InMode(mode) => format!(" ({mode} only)"),
            Runs::Once => " (once)".to_owned(),
        };
        let tiers = if test.has_tiers { " (larger with `--full`)" } else { "" };
        let _ = writeln!(section, "- {}{often}{tiers}", test.name.replace('_', " "));
    }
    section
}

#[derive(Debug, PartialEq, Eq)]
struct Test {
    name: String,
    runs: Runs,
    /// Does more in the second tier.
    has_tiers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Runs {
    /// For every capture mode and address family.
    Everywhere,
    /// For one capture mode, in every address family.
    InMode(String),
    Once,
}

/// The names in `scenarios! { … }`, perhaps after `in <mode> <variant>:`, and the functions below `#[test]`.
fn tests(text: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    for (at, mark) in text.match_indices("scenarios! {") {
        let inside = text[at + mark.len()..].split('}').next().unwrap_or_default();
        let (runs, inside) = match inside.trim_start().strip_prefix("in ").and_then(|rest| rest.split_once(':')) {
            Some((mode, names)) if mode.split(' ').all(|word| !word.is_empty() && word.chars().all(is_word)) => {
                (Runs::InMode(mode.split(' ').next().unwrap_or_default().to_owned()), names)
            }
            _ => (Runs::Everywhere, inside),
        };
        // The macro's own definition has `@`, `$` and nothing that could be a name alone.
        let names = inside.split(',').map(str::trim).filter(|name| !name.is_empty() && name.chars().all(is_word));
        tests.extend(names.map(|name| Test {
            name: name.to_owned(),
            runs: runs.clone(),
            has_tiers: has_tiers(text, name),
        }));
    }
    for (at, mark) in text.match_indices("#[test]\nfn ") {
        let name: String = text[at + mark.len()..].chars().take_while(|letter| is_word(*letter)).collect();
        let has_tiers = has_tiers(text, &name);
        tests.push(Test { name, runs: Runs::Once, has_tiers });
    }
    tests
}

/// Whether the function asks which tier it runs in.
fn has_tiers(text: &str, name: &str) -> bool {
    let body = text.split_once(&format!("fn {name}(")).map_or("", |(_, rest)| rest);
    let body = body.split_once("\n}").map_or(body, |(body, _)| body);
    body.contains("Tier::")
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "//! What policy refuses,\n//! and grants.\n//!\n//! More.\n\nscenarios! {\n    a_denied_client_is_told,\n    b_grows,\n}\n
fn a_denied_client_is_told(mesh: &TestMesh) -> Result<()> {\n    Ok(())\n}\n\nfn b_grows(mesh: &TestMesh) {\n    Tier::current().count();\n}\n
#[test]\nfn c_stands_alone() {\n}\n
scenarios! {\n    in ebpf Ebpf:\n    d_has_a_mode,\n}\n";

    #[test]
    fn a_file_becomes_a_section_with_a_line_a_test() {
        let expected = "\n### `policy`\n\nWhat policy refuses, and grants.\n\n- a denied client is told\n- b grows (larger with `--full`)\n- d has a mode (ebpf only)\n- c stands alone (once)\n";
        assert_eq!(section("policy", FILE), expected);
        assert_eq!(
            section(
                "main",
                "//! Main.\nmacro_rules! scenarios { (@a $b:ident) => { scenarios! { @family v4 $b } } }\n"
            ),
            ""
        );
    }
}
