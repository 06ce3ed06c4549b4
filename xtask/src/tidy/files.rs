//! What a file begins with, how long it and its functions may grow, and what it may not say.

use super::{
    Problem,
    source::{Source, code_only, item_end, line_of},
};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 100;

/// Files that may be longer: the path, and why splitting it would make it harder to read.
const LONGER: &[(&str, &str)] = &[];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc", "handler2"];

/// Marks of unfinished work, and paths of one machine. In two pieces each, so that this file does not name itself.
const UNFINISHED: &[[&str; 2]] = &[["TO", "DO"], ["FIX", "ME"], ["for n", "ow"], ["place", "holder"]];
const MACHINE_PATHS: &[[&str; 2]] = &[["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"]];

/// Every rule of this file that one of `sources` breaks.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = sources.iter().flat_map(check_text).collect();
    problems.extend(sources.iter().filter(|source| source.is_our_rust()).flat_map(check_rust));
    problems
}

/// How large files and functions are, in two lines.
pub(crate) fn report(sources: &[Source]) -> String {
    let ours = || sources.iter().filter(|source| source.is_our_rust());
    let files = ours().map(|source| (source.text.lines().count(), source.path.clone())).collect();
    let functions = ours().flat_map(|source| {
        functions(&source.text)
            .into_iter()
            .map(|function| (function.lines, format!("{} in {}", function.name, source.path)))
    });
    format!("{}\n{}", sizes("files", files), sizes("functions", functions.collect()))
}

fn sizes(what: &str, mut sized: Vec<(usize, String)>) -> String {
    sized.sort();
    let Some((longest, place)) = sized.last() else { return format!("{what}: none") };
    let total: usize = sized.iter().map(|(lines, _)| lines).sum();
    let (median, tenth) = (sized[sized.len() / 2].0, sized[sized.len() * 9 / 10].0);
    format!(
        "{what}: {} with {total} lines; median {median}, nine in ten below {tenth}, longest {longest} ({place})",
        sized.len()
    )
}

fn check_text(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let mut problem = |what| problems.push(Problem { path: source.path.clone(), line: index + 1, what });
        if let Some(path) = MACHINE_PATHS.iter().map(|pieces| pieces.concat()).find(|path| line.contains(path)) {
            problem(format!("`{path}` is a path of one machine; derive it, or make it an option"));
        }
        let mark = UNFINISHED.iter().map(|pieces| pieces.concat()).find(|mark| line.contains(mark));
        if let Some(mark) = mark.filter(|_| source.is_our_rust()) {
            problem(format!("`{mark}` marks unfinished work; finish it, or say what is so and why"));
        }
    }
    problems
}

fn check_rust(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |line, what| problems.push(Problem { path: source.path.clone(), line, what });
    if !source.text.starts_with("//!") {
        problem(1, "begins with no `//!` line that says what the file is for".to_owned());
    }
    let lines = source.text.lines().count();
    let excepted = LONGER.iter().any(|(path, _)| *path == source.path);
    if lines > FILE_LINES_MAX && !excepted {
        problem(
            0,
            format!(
                "{lines} lines; over {FILE_LINES_MAX}, split it by stage, or add it to LONGER in xtask/src/tidy/files.rs with the reason"
            ),
        );
    }
    if lines <= FILE_LINES_MAX && excepted {
        problem(0, "needs no exception any more; take it out of LONGER in xtask/src/tidy/files.rs".to_owned());
    }
    let parts: Vec<&str> = source.path.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") {
        problem(0, "a module is `foo.rs` with its leaves in `foo/`, not `mod.rs`".to_owned());
    }
    if let Some(empty) = parts.iter().find(|part| EMPTY_NAMES.contains(part)) {
        problem(0, format!("`{empty}` says nothing about what is inside; name the thing"));
    }
    for function in functions(&source.text).iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
        let what = format!(
            "function {} has {} lines; over {FUNCTION_LINES_MAX}, give a part of it a name",
            function.name, function.lines
        );
        problem(function.line, what);
    }
    problems
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    /// Where it begins, from 1.
    line: usize,
    /// From the line of its name to its last brace.
    lines: usize,
}

fn functions(text: &str) -> Vec<Function> {
    let code = code_only(text);
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &code[at + 3..];
        let name = &rest[..rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len())];
        let end = item_end(&code, at);
        if !name.is_empty() && code[..end].ends_with('}') {
            let line = line_of(&code, at);
            functions.push(Function { name: name.to_owned(), line, lines: line_of(&code, end) - line + 1 });
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }]).iter().map(ToString::to_string).collect()
    }

    /// Exactly one problem, which says `part`.
    fn one(path: &str, text: &str, part: &str) {
        let found = problems(path, text);
        assert!(found.len() == 1 && found[0].contains(part), "{path}: {found:?}");
    }

    #[test]
    fn each_rule_can_be_broken() {
        one("mesh/src/a.rs", "use std::fmt;\n", "begins with no `//!`");
        one("mesh/src/a.rs", &format!("//! A.\n{}", "\n".repeat(FILE_LINES_MAX)), "501 lines");
        one("mesh/src/mod.rs", "//! A.\n", "not `mod.rs`");
        one("mesh/src/utils.rs", "//! A.\n", "`utils` says nothing");
        one("mesh/src/helpers/a.rs", "//! A.\n", "`helpers` says nothing");
        one(
            "mesh/src/a.rs",
            &format!("//! A.\nfn f() {{{}}}\n", "\n".repeat(FUNCTION_LINES_MAX)),
            "function f has 101 lines",
        );
        one("mesh/src/a.rs", &format!("//! A.\n// {}: more\n", UNFINISHED[0].concat()), "a.rs:2: ");
        one("docs/a.md", &format!("see {}x\n", MACHINE_PATHS[0].concat()), "path of one machine");
    }

    #[test]
    fn a_good_file_has_none_and_generated_code_is_free() {
        assert_eq!(problems("mesh/src/a.rs", "//! A.\nfn f() {}\n"), [""; 0]);
        assert_eq!(problems("proto/src/gen/a.rs", &"\n".repeat(5_000)), [""; 0]);
    }

    #[test]
    fn functions_are_measured_from_their_name_to_their_last_brace() {
        let text = "trait T { fn declared(&self) -> [u8; 4]; }\nfn one() {}\nfn three(f: fn(u8)) -> [u8; 2]\n{\n}\n";
        let found: Vec<(String, usize, usize)> =
            functions(text).into_iter().map(|function| (function.name, function.line, function.lines)).collect();
        assert_eq!(found, [("one".to_owned(), 2, 1), ("three".to_owned(), 3, 3)]);
    }
}
