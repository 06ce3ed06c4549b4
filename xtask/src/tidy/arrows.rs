//! Which crate may know which: the arrows of `docs/architecture.md`, checked against `cargo metadata`.

use super::Problem;
use serde_json::Value;

/// What one crate of the workspace may depend on.
struct Room {
    /// The package.
    package: &'static str,
    /// The crates of the workspace that it may know.
    knows: &'static [&'static str],
    /// Further ones that only its tests may know.
    tests_know: &'static [&'static str],
    /// What it may use from outside of the workspace.
    outside: Outside,
}

enum Outside {
    /// Nothing but these.
    Only(&'static [&'static str]),
    /// Anything but these; a name that ends with `*` stands for all that begin so.
    Never(&'static [&'static str]),
}

use Outside::{Never, Only};

const KUBERNETES: &[&str] = &["kube*", "k8s-openapi", "gateway-api"];

/// Everything that is not a value: runtimes, sockets, clocks, wires, Kubernetes. `mesh` gets by without all of it.
const ROOMS: &[Room] = &[
    Room {
        package: "heddle-mesh",
        knows: &[],
        tests_know: &[],
        outside: Only(&["http", "ipnet", "thiserror", "serde", "proptest"]),
    },
    Room {
        package: "heddle-proto",
        knows: &["heddle-mesh"],
        tests_know: &[],
        outside: Never(&["kube*", "k8s-openapi", "gateway-api", "rustls*", "socket2", "hyper*", "tokio-rustls"]),
    },
    Room {
        package: "heddle-controller-client",
        knows: &["heddle-mesh", "heddle-proto"],
        tests_know: &[],
        outside: Never(KUBERNETES),
    },
    Room {
        package: "heddle-controller",
        knows: &["heddle-mesh", "heddle-proto"],
        tests_know: &[],
        outside: Never(&["netlink*", "aya*", "h2"]),
    },
    Room {
        package: "heddle-dataplane",
        knows: &["heddle-controller-client", "heddle-init-abi", "heddle-mesh"],
        tests_know: &[],
        outside: Never(&["kube*", "k8s-openapi", "gateway-api", "prost*", "tonic*", "netlink*"]),
    },
    Room {
        package: "heddle-init",
        knows: &["heddle-init-abi"],
        tests_know: &[],
        outside: Never(&["kube*", "k8s-openapi", "gateway-api", "prost*", "tonic*", "rustls*", "h2", "hyper*"]),
    },
    Room { package: "heddle-init-abi", knows: &[], tests_know: &[], outside: Only(&[]) },
    Room { package: "heddle-e2e", knows: &[], tests_know: &[], outside: Never(KUBERNETES) },
    Room { package: "xtask", knows: &[], tests_know: &[], outside: Only(&["anyhow", "semver", "serde_json"]) },
];

/// Every dependency that turns an arrow round, and every crate that has no room yet.
pub(crate) fn check(metadata: &Value) -> Vec<Problem> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let path = package["manifest_path"].as_str().unwrap_or_default();
        let mut problem = |what: String| problems.push(Problem { path: relative(path, metadata), line: 0, what });
        let Some(room) = ROOMS.iter().find(|room| room.package == name) else {
            problem(format!(
                "crate {name} has no room; say in xtask/src/tidy/arrows.rs and docs/architecture.md what it may know"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let other = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"] == "dev";
            if let Some(why) = forbidden(room, other, members.contains(&other), in_tests) {
                problem(why);
            }
        }
    }
    problems
}

/// Why `room` may not depend on `other`; none where it may.
fn forbidden(room: &Room, other: &str, is_member: bool, in_tests: bool) -> Option<String> {
    let name = room.package;
    if is_member {
        let known = room.knows.contains(&other) || (in_tests && room.tests_know.contains(&other));
        return (!known).then(|| {
            format!("{name} depends on {other}, an arrow that turns round; it may know: {}", list(room.knows))
        });
    }
    match room.outside {
        Only(few) if !few.contains(&other) => {
            Some(format!("{name} depends on {other}; of other crates it may use: {}", list(few)))
        }
        Never(many) if many.iter().any(|pattern| matches(pattern, other)) => Some(format!(
            "{name} depends on {other}, which belongs to another crate's job; it never uses: {}",
            list(many)
        )),
        Only(_) | Never(_) => None,
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn relative(path: &str, metadata: &Value) -> String {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    path.strip_prefix(root).unwrap_or(path).trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The problems of a workspace in which `package` depends on `other`.
    fn with(package: &str, other: &str, kind: Value) -> Vec<String> {
        let dependency = json!([{ "name": other, "kind": kind }]);
        let mut packages =
            vec![json!({ "name": package, "manifest_path": "/w/x/Cargo.toml", "dependencies": dependency })];
        for room in ROOMS.iter().filter(|room| room.package != package) {
            packages.push(json!({ "name": room.package, "manifest_path": "/w/y/Cargo.toml", "dependencies": [] }));
        }
        let metadata = json!({ "workspace_root": "/w", "packages": packages });
        check(&metadata).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_arrow_that_turns_round_is_a_problem() {
        for (package, other) in [
            ("heddle-mesh", "heddle-proto"),
            ("heddle-mesh", "heddle-dataplane"),
            ("heddle-proto", "heddle-controller-client"),
            ("heddle-controller", "heddle-controller-client"),
            ("heddle-controller", "heddle-dataplane"),
            ("heddle-controller-client", "heddle-dataplane"),
            ("heddle-dataplane", "heddle-proto"),
            ("heddle-dataplane", "heddle-init"),
            ("heddle-init", "heddle-mesh"),
            ("heddle-init-abi", "heddle-init"),
            ("xtask", "heddle-mesh"),
        ] {
            let problems = with(package, other, Value::Null);
            assert_eq!(problems.len(), 1, "{package} -> {other}: {problems:?}");
            assert!(problems[0].starts_with("x/Cargo.toml: ") && problems[0].contains("turns round"), "{problems:?}");
        }
    }

    #[test]
    fn an_arrow_as_drawn_is_none() {
        for (package, other) in [
            ("heddle-proto", "heddle-mesh"),
            ("heddle-controller-client", "heddle-proto"),
            ("heddle-controller", "heddle-proto"),
            ("heddle-dataplane", "heddle-controller-client"),
            ("heddle-dataplane", "tokio"),
            ("heddle-init", "heddle-init-abi"),
            ("xtask", "anyhow"),
        ] {
            assert_eq!(with(package, other, Value::Null), [""; 0], "{package} -> {other}");
        }
    }

    #[test]
    fn a_crate_of_another_job_is_a_problem_in_tests_too() {
        for (package, other) in [
            ("heddle-mesh", "tokio"),
            ("heddle-mesh", "prost"),
            ("heddle-dataplane", "kube-core"),
            ("heddle-dataplane", "tonic"),
            ("heddle-controller-client", "k8s-openapi"),
            ("heddle-init", "rustls"),
            ("xtask", "rustls"),
        ] {
            assert_eq!(with(package, other, Value::Null).len(), 1, "{package} -> {other}");
            assert_eq!(with(package, other, json!("dev")).len(), 1, "{package} -> {other} in tests");
        }
    }

    #[test]
    fn a_crate_without_a_room_is_a_problem() {
        assert!(with("heddle-surprise", "tokio", Value::Null)[0].contains("has no room"));
    }
}
