//! `check` on folders with mistakes.

use crate::support::{Scratch, e2e_manifests};
use heddle_controller::{
    check::check,
    source::{document, folder::Manifests},
    translate::{Settings, translate},
};
use heddle_mesh::identity::TrustDomain;
use std::{fs, path::Path, sync::Arc};

#[test]
fn a_folder_with_many_mistakes_has_each_named_with_line_and_remedy() {
    let report = check(&e2e_manifests("mistakes"));
    let said: Vec<String> = report.conditions.iter().map(ToString::to_string).collect();
    let mut wanted = 0;
    // Every mistake is announced in the line above it: `# mistake: <part of what is said>`.
    for entry in fs::read_dir(e2e_manifests("mistakes")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a manifest");
        for (line, number) in text.lines().zip(2..) {
            let Some((_, part)) = line.split_once("# mistake: ") else { continue };
            wanted += 1;
            let place = format!("{}:{number}: ", path.display());
            let found = said.iter().any(|said| said.starts_with(&place) && said.contains(part) && said.contains("; "));
            assert!(found, "{place}{part}\nis not among\n{}", said.join("\n"));
        }
    }
    assert!(wanted >= 10, "{wanted}");
    assert_eq!(report.mistakes(), wanted, "{}", said.join("\n"));
}

#[test]
fn the_demo_has_none() {
    let report = check(&e2e_manifests("demo"));
    assert_eq!(report.mistakes(), 0, "{:?}", report.conditions);
    assert!(report.objects >= 5);
}

#[test]
fn an_empty_and_a_missing_folder_are_mistakes() {
    let scratch = Scratch::new();
    assert_eq!(check(&scratch.manifests()).mistakes(), 1);
    assert_eq!(check(&scratch.manifests().join("none")).mistakes(), 1);
}

#[test]
fn hostile_files_are_survived() {
    let scratch = Scratch::new();
    let bytes: Vec<u8> = (0..65_536_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let laughs = (1..60).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, at| {
        text + &format!("a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 9].join(","))
    });
    let deep = format!("kind: {}", "[".repeat(50_000));
    let deep_block: String = (0..2_000).map(|at| format!("{}a:\n", " ".repeat(at))).collect();
    let numbers = "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: y}\nspec: {ports: [{port: 99999999999999999999999}]}\n";
    let ports = "apiVersion: v1\nkind: Service\nmetadata: {name: z, namespace: y}\nspec: {ports: [{port: -1}, {port: 70000}]}\n";
    let names =
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: \"../../x\"}}\n", "a".repeat(100_000));
    let hostile: [(&str, &[u8]); 12] = [
        ("garbage.yaml", &bytes),
        ("laughs.yaml", laughs.as_bytes()),
        ("deep.yaml", deep.as_bytes()),
        ("deep-block.yaml", deep_block.as_bytes()),
        ("numbers.yaml", numbers.as_bytes()),
        ("ports.yaml", ports.as_bytes()),
        ("names.yaml", names.as_bytes()),
        ("empty.yaml", b""),
        ("empty-documents.yaml", b"---\n---\n--- \n...\n---\n# nothing\n"),
        ("list.yaml", b"kind: List\napiVersion: v1\nitems: 7\n"),
        ("lists.yaml", b"kind: ListListList\napiVersion: v1\nitems: [{kind: List, apiVersion: v1, items: [{}]}]\n"),
        ("scalar.yaml", b"just a text"),
    ];
    for (file, bytes) in hostile {
        fs::write(scratch.manifests().join(file), bytes).expect("a written file");
    }
    let report = check(&scratch.manifests());
    assert_eq!(report.files, hostile.len());
    assert!(report.mistakes() >= 9, "{:#?}", report.conditions);
    for condition in &report.conditions {
        let text = condition.to_string();
        assert!(!text.contains('\n') && text.len() < 2_000, "{text}");
    }
}

#[test]
fn damaged_manifests_are_survived() {
    let texts = ["mistakes/workloads.yaml", "mistakes/policies.yaml", "demo/services.yaml"]
        .map(|file| fs::read(e2e_manifests(file)).expect("a manifest"));
    let file: Arc<Path> = Path::new("m.yaml").into();
    let settings = Settings { cluster_id: "k".into(), trust_domain: TrustDomain::default() };
    // A fixed sequence (Knuth's MMIX generator), so that a failure can be repeated.
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("31 bits") % below
    };
    let pieces: [&[u8]; 12] =
        [b"{", b"]", b": ", b"\n- ", b"\n", b"*a", b"&a ", b"---\n", b"\"", b"-1", b"99999999999", b"\xff"];
    for _ in 0..1_000 {
        let mut bytes = texts[next(texts.len())].clone();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes.truncate(at.max(1)),
                1 => drop(bytes.splice(at..at, pieces[next(pieces.len())].iter().copied())),
                _ => drop(bytes.drain(at..(at + next(40)).min(bytes.len() - 1).max(at))),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let contents = document::read(&file, &text);
        let manifests =
            Manifests { objects: contents.objects, conditions: contents.conditions, ..Manifests::default() };
        translate(&manifests, &settings);
    }
}
