//! The floors inside the dataplane: a module uses its own floor and the ones below, never one above.

use super::{
    Problem,
    source::{Source, code_only, line_of, without_tests},
};

const FOLDER: &str = "dataplane/src/";

/// Floor 4 decides when things begin and end, 3 knows a connection's whole way, 2 reaches the other end, 1 moves
/// bytes and never sees a `Mesh`. Floor 0 serves them all and uses none.
const FLOORS: &[(u8, &[&str])] = &[
    (4, &["lib", "main", "app", "config", "admin"]),
    (3, &["outbound", "inbound", "tcp", "http", "filter"]),
    (2, &["upstream", "connect", "hbone", "tls", "identity", "authorize", "view"]),
    (1, &["listener", "capture", "detect", "stream", "relay", "socket", "scratch", "allocator", "drain"]),
    (0, &["telemetry", "error"]),
];

/// `error` joins the errors of these stages into the one table of reasons, and needs nothing else of them.
const JOINED: (&str, &[&str]) = ("error", &["capture", "connect", "hbone", "relay", "view"]);

/// Every use of a higher floor, and every module that has no floor yet.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    let files = sources.iter().filter(|source| source.path.starts_with(FOLDER) && source.is_our_rust());
    files.filter(|source| !source.path.ends_with("/tests.rs")).flat_map(check_file).collect()
}

fn check_file(source: &Source) -> Vec<Problem> {
    let inner = source.path.trim_start_matches(FOLDER).trim_end_matches(".rs");
    let parts: Vec<&str> = inner.split('/').collect();
    let module = parts[0];
    let problem = |line, what| Problem { path: source.path.clone(), line, what };
    let Some(own) = height(module) else {
        let what =
            format!("module {module} has no floor; give it one in xtask/src/tidy/floors.rs and docs/architecture.md");
        return vec![problem(0, what)];
    };
    let code = without_tests(&code_only(&source.text));
    let mut problems = Vec::new();
    for (at, other) in uses(&code, parts.len()) {
        let Some(above) = height(&other).filter(|other| *other > own) else { continue };
        if module == JOINED.0 && JOINED.1.contains(&other.as_str()) {
            continue;
        }
        let what = match own {
            0 => format!("{module} serves all floors and uses none, but here `{other}` of floor {above}"),
            _ => format!("{module} (floor {own}) uses `{other}` of floor {above}; pass what it needs down as a value"),
        };
        problems.push(problem(line_of(&code, at), what));
    }
    problems
}

/// The floor of a module of the crate's root; none when it is not in the table.
fn height(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// Every name that follows the crate's root in a path, with its place: `crate::x`, `crate::{x, y::z}`, and in a file
/// `depth` modules deep the same with that many `super::`.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
                continue;
            }
            let from = at + prefix.len();
            found.extend(names(&code[from..]).into_iter().map(|(offset, name)| (from + offset, name)));
        }
    }
    found
}

/// The first name of `path`, or of each element where it begins with a brace.
fn names(path: &str) -> Vec<(usize, String)> {
    if !path.starts_with('{') {
        return name(path, 0).into_iter().collect();
    }
    let mut found = Vec::new();
    let (mut depth, mut first) = (0_usize, true);
    for (index, letter) in path.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => first = true,
            _ if depth == 1 && first && !letter.is_whitespace() => {
                found.extend(name(path, index));
                first = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn name(text: &str, from: usize) -> Option<(usize, String)> {
    let rest = &text[from..];
    let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
    (end > 0).then(|| (from, rest[..end].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_use_of_a_higher_floor_is_a_problem_wherever_it_stands() {
        for (path, text) in [
            ("dataplane/src/relay.rs", "use crate::tcp::serve;"),
            ("dataplane/src/relay.rs", "use crate::{socket, tcp::{self, serve}};"),
            ("dataplane/src/relay.rs", "use crate::{\n    socket::{a, b},\n    hbone,\n};"),
            ("dataplane/src/relay.rs", "fn f() { crate::outbound::serve() }"),
            ("dataplane/src/relay.rs", "use super::outbound;"),
            ("dataplane/src/hbone/client.rs", "use super::super::tcp;"),
            ("dataplane/src/hbone/client.rs", "use crate::inbound::Inbound;"),
            ("dataplane/src/outbound.rs", "pub(crate) fn f(app: &crate::app::App) {}"),
            ("dataplane/src/telemetry/metrics.rs", "use crate::socket;"),
            ("dataplane/src/error.rs", "use crate::outbound;"),
            ("dataplane/src/error.rs", "use crate::identity::Svid;"),
        ] {
            assert_eq!(problems(path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn the_place_is_named() {
        let found = problems("dataplane/src/relay.rs", "//! Doc.\nuse crate::socket;\nuse crate::tcp;\n");
        assert!(found[0].starts_with("dataplane/src/relay.rs:3: relay (floor 1) uses `tcp` of floor 3"), "{found:?}");
    }

    #[test]
    fn the_own_floor_those_below_tests_and_words_are_free() {
        for (path, text) in [
            ("dataplane/src/tcp.rs", "use crate::{relay, connect, outbound, error::Flag, telemetry::Entry};"),
            ("dataplane/src/relay.rs", "//! See `crate::tcp`.\n// crate::tcp\nconst X: &str = \"crate::tcp\";"),
            ("dataplane/src/relay.rs", "#[cfg(test)]\nmod tests { use crate::tcp; }"),
            ("dataplane/src/relay/tests.rs", "use crate::tcp;"),
            ("dataplane/src/hbone/client.rs", "use super::tcp; use other_crate::tcp;"),
            ("dataplane/src/telemetry/metrics.rs", "use crate::error::Flag;"),
            ("dataplane/src/error.rs", "use crate::{capture::CaptureError, relay::RelayError};"),
            ("controller/src/serve.rs", "use crate::outbound;"),
        ] {
            assert_eq!(problems(path, text), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn a_module_without_a_floor_is_a_problem() {
        assert!(problems("dataplane/src/surprise.rs", "")[0].contains("has no floor"));
    }
}
