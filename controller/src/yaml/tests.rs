//! Lines, documents, type errors and hostile input.

use super::*;
use std::collections::BTreeMap;

fn tree(text: &str) -> Node {
    let documents = documents(text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    parse(documents[0]).expect("sound YAML")
}

#[test]
fn every_value_knows_its_line() {
    let node = tree("# a comment\na:\n  b:\n    - 1\n    - c: x\n      d.e/f: y\n");
    for (path, line) in
        [("a", 2), ("a.b", 3), ("a.b[0]", 4), ("a.b[1].c", 5), ("a.b[1][\"d.e/f\"]", 6), ("a.b[7].c", 3)]
    {
        assert_eq!(node.line_of(path), line, "{path}");
    }
    assert_eq!(node.text(&["a", "b"]), None);
}

#[test]
fn documents_are_split_at_their_markers() {
    let text = "---\n# nothing\n---\na: 1\n---\nb: |\n  ---\n  x\n--- # c\nc: 3\n...\n---\n";
    let found: Vec<_> =
        documents(text).into_iter().map(|one| (one.lines_before, parse(one).map(|node| node.line))).collect();
    assert_eq!(found, [(2, Ok(4)), (4, Ok(6)), (8, Ok(10))]);
    assert!(documents("").is_empty());
    assert!(documents("# only\n\n---\n").is_empty());
    assert_eq!(documents("%YAML 1.2\n---\na: 1\n").len(), 1);
}

#[test]
fn only_true_and_false_are_booleans() {
    let node = tree("n: n\ny: yes\noff: off\nt: true\nnumber: 0644\n");
    let texts = ["n", "y", "off", "t", "number"].map(|key| node.text(&[key]));
    assert_eq!(texts, [Some("n"), Some("yes"), Some("off"), None, Some("0644")]);
}

#[test]
fn a_type_error_names_field_and_line() {
    type Wanted = BTreeMap<String, Vec<BTreeMap<String, u16>>>;
    let error = read::<Wanted>(&tree("x:\n  - a: 1\n  - a: 2\n    b: seven\n")).expect_err("a wrong type");
    assert_eq!((error.field.as_str(), error.line), ("x[1].b", 4));
    assert!(error.problem.contains("seven"), "{error}");
}

#[test]
fn hostile_documents_end_in_an_error_or_a_small_tree() {
    let deep_flow = "[".repeat(100_000);
    let deep_block: String = (0..5_000).map(|at| format!("{}- \n", " ".repeat(at))).collect();
    let laughs: String = (1..40).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, at| {
        let last = at - 1;
        text + &format!("a{at}: &a{at} [*a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}]\n")
    });
    let numbers = "a: 99999999999999999999999999999999999999999999999999\nb: -1e999999\nc: 0x\nd: .inf\ne: 1_0\n";
    let hostile = [
        deep_flow.as_str(),
        &deep_block,
        &laughs,
        numbers,
        "\0\u{1}\u{2}",
        "a: *b",
        "a: &a [*a]",
        "? [a]\n: b",
        "a: b: c",
        "\t- a",
        "a: 'x",
        "!!binary x",
        "<<: [1]",
        "{",
        "}",
        "- - - -",
        "a: !!python/object x",
        "&a",
        "*a",
        "%",
        "--- >",
        "@",
        "`",
    ];
    for text in hostile {
        for document in documents(text) {
            let _ = parse(document);
        }
    }
}

#[test]
fn binary_garbage_is_no_text() {
    let text: String = (0..4096_u32).filter_map(|at| char::from_u32(at.wrapping_mul(2_654_435_761) % 300)).collect();
    let errors = documents(&text).into_iter().filter(|document| parse(*document).is_err()).count();
    assert!(errors > 0);
}
