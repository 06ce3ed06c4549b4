//! The code in `src/gen` is what the .proto files say. `UPDATE=1 cargo test -p heddle-proto generated` rewrites it.

use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn the_generated_code_is_what_the_protos_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (fresh, kept) = (generate(root), root.join("src/gen"));
    if std::env::var_os("UPDATE").is_some() {
        for (name, text) in &fresh {
            fs::write(kept.join(name), text).expect("src/gen can be written");
        }
    }
    let known = read(&kept);
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&known), names(&fresh), "files in src/gen; remove the ones that no .proto file gives");
    for (name, text) in fresh {
        assert!(known[&name] == text, "src/gen/{name} is not what its .proto file says: run this test with UPDATE=1");
    }
}

/// Compiles every .proto file with protox (no protoc needed) and returns the Rust code by file name.
fn generate(root: &Path) -> BTreeMap<String, String> {
    let files = protox::compile(PROTOS, [root.join("proto")]).expect("the .proto files compile");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).expect("the target folder can be written");
    tonic_prost_build::configure()
        .out_dir(&out)
        .btree_map(".") // The same message gives the same bytes, whoever encodes it.
        .compile_fds(files)
        .expect("code can be generated");
    read(&out)
}

fn read(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).expect("the folder exists").map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("generated code is text"))
        })
        .collect()
}

const PROTOS: [&str; 7] = [
    "envoy/node.proto",
    "envoy/discovery.proto",
    "google/status.proto",
    "istio/ca.proto",
    "istio/workload.proto",
    "istio/authorization.proto",
    "heddle/v1/workload.proto",
];
