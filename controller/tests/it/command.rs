//! The command: exit codes, output, signals.

use crate::support::{SHOP, Scratch, e2e_manifests};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heddle-controller"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().expect("the controller");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn check_tells_by_its_exit_code() {
    let path = |name: &str| e2e_manifests(name).to_string_lossy().into_owned();
    let (code, out, _) = run(&["check", &path("demo")]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.ends_with("no mistake\n"), "{out}");
    let (code, out, error) = run(&["check", &path("mistakes")]);
    assert_eq!(code, Some(1));
    assert!(out.lines().count() >= 10 && error.contains("mistakes"), "{out}{error}");
}

#[test]
fn token_prints_a_token_and_nothing_else() {
    let scratch = Scratch::new();
    let state = scratch.state().to_string_lossy().into_owned();
    let (code, out, error) =
        run(&["token", "--state", &state, "--namespace", "shop", "--service-account", "web", "--ttl", "1h"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!((out.lines().count(), out.trim().split('.').count()), (1, 3));
    let (code, _, error) = run(&["token", "--state", &state, "--namespace", "a/b", "--service-account", "web"]);
    assert!(code == Some(1) && error.contains("namespace"), "{error}");
}

#[test]
fn mistyped_options_are_named() {
    let cases: [(&[&str], &str); 5] = [
        (&[], "--manifests"),
        (&["--manifests", "x", "--trust-domain", "A B"], "--trust-domain"),
        (&["--manifests", "x", "--certificate-ttl", "1x"], "no duration"),
        (&["--manifests", "x", "--server-names", "a b"], "--server-names"),
        (&["--manifests", "x", "--log-level", "what=loud"], "--log-level"),
    ];
    for (arguments, part) in cases {
        let (code, _, error) = run(arguments);
        assert!(code.is_some_and(|code| code != 0) && error.contains(part), "{arguments:?}: {error}");
    }
}

#[test]
fn sigterm_ends_it_with_0() {
    let scratch = Scratch::new();
    scratch.write("shop.yaml", SHOP);
    let (manifests, state) = (scratch.manifests(), scratch.state());
    let mut child = command(&["--listen", "127.0.0.1:0", "--monitoring-listen", "127.0.0.1:0", "--manifests"])
        .arg(&manifests)
        .arg("--state")
        .arg(&state)
        .spawn()
        .expect("the controller");
    let log = BufReader::new(child.stderr.take().expect("a log"));
    let mut lines = log.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("serving")), "it never serves");
    assert!(Command::new("kill").arg(child.id().to_string()).status().expect("kill").success());
    let (ended, wait) = mpsc::sync_channel(1);
    thread::spawn(move || ended.send(child.wait().map(|status| status.code())));
    let code = wait.recv_timeout(Duration::from_secs(10)).expect("an end in time");
    assert_eq!(code.expect("a status"), Some(0));
}
