//! Every reason code that a connection can end with is explained in `docs/connection.md`.

use super::{Problem, source::Source};

const TABLE: &str = "dataplane/src/error.rs";
const PAGE: &str = "docs/connection.md";

/// Codes that the page does not explain, and explained ones that do not exist.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    let text = |path| sources.iter().find(|source| source.path == path).map_or("", |source| source.text.as_str());
    let (codes, explained) = (codes(text(TABLE)), explained(text(PAGE)));
    let problem = |what| Problem { path: PAGE.to_owned(), line: 0, what };
    let missing = codes.iter().filter(|code| !explained.contains(code));
    let missing = missing.map(|code| problem(format!("reason code `{code}` of {TABLE} is not explained; add its row")));
    let surplus = explained.iter().filter(|code| !codes.contains(code));
    missing
        .chain(surplus.map(|code| problem(format!("reason code `{code}` is not in {TABLE}; take its row out"))))
        .collect()
}

/// The strings that `fn code` of the table maps its variants to.
fn codes(source: &str) -> Vec<&str> {
    let Some((_, body)) = source.split_once("fn code(") else { return Vec::new() };
    let body = body.split_once("\n    }").map_or(body, |(body, _)| body);
    body.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next()).collect()
}

/// The first cells of the table below the page's heading about reasons.
fn explained(page: &str) -> Vec<&str> {
    let Some((_, section)) = page.split_once("\n## Reason codes\n") else { return Vec::new() };
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(page: &str) -> Vec<String> {
        let table = "fn code(self) -> &'static str {\n  match self {\n  Self::Ok => \"ok\",\n  Self::Gone => \"gone\",\n }\n    }\n";
        let sources = [(TABLE, table), (PAGE, page)];
        let sources = sources.map(|(path, text)| Source { path: path.to_owned(), text: text.to_owned() });
        check(&sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_code_without_a_row_and_a_row_without_a_code_are_problems() {
        assert_eq!(problems("x\n## Reason codes\n| code | |\n| `ok` | a |\n| `gone` | b |\n"), [""; 0]);
        assert!(problems("x\n## Reason codes\n| `ok` | a |\n")[0].contains("`gone` of"));
        assert!(
            problems("x\n## Reason codes\n| `ok` | a |\n| `gone` | a |\n| `old` | a |\n")[0]
                .contains("`old` is not in")
        );
    }
}
