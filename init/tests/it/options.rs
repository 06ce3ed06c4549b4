//! The command line as a user meets it.

use crate::pod::Run;
use std::process::Command;

fn init() -> Command {
    Command::new(env!("CARGO_BIN_EXE_heddle-init"))
}

#[test]
fn all_mistakes_are_reported_together() {
    let wrong =
        ["show", "--mode", "nat", "--exclude-inbound-ports", "http,15001", "--exclude-outbound-cidrs", "10.0.0.1/8"];
    let stderr = Run::of(init().args(wrong)).fails();
    for mistake in [
        "4 mistakes in the options",
        "--mode: `nat` is not a mode; write tproxy or ebpf",
        "--exclude-inbound-ports: `http` is not a port",
        "--exclude-inbound-ports: 15001 is where the proxy takes captured connections",
        "--exclude-outbound-cidrs: `10.0.0.1/8` has bits set behind its prefix; write 10.0.0.0/8",
    ] {
        assert!(stderr.contains(mistake), "{mistake:?} is not in:\n{stderr}");
    }
}

#[test]
fn every_option_is_a_variable_too() {
    let by_option = Run::of(init().args([
        "show",
        "--dns",
        "--exclude-inbound-ports",
        "22,23",
        "--exclude-outbound-cidrs",
        "10.0.0.0/8",
    ]));
    let variables = [
        ("HEDDLE_DNS", "true"),
        ("HEDDLE_EXCLUDE_INBOUND_PORTS", "22,23"),
        ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.0.0.0/8"),
        ("HEDDLE_EXCLUDE_INBOUND_CIDRS", ""),
    ];
    let by_variable = Run::of(init().arg("show").envs(variables));
    assert_eq!(by_option.succeeds(), by_variable.succeeds());
}

#[test]
fn help_names_each_option_with_its_variable_and_default() {
    let help = Run::of(init().args(["apply", "--help"])).succeeds();
    for option in [
        "mode",
        "exclude-inbound-ports",
        "exclude-outbound-ports",
        "exclude-inbound-cidrs",
        "exclude-outbound-cidrs",
        "exclude-inbound-interfaces",
        "exclude-outbound-interfaces",
        "dns",
    ] {
        let variable = format!("HEDDLE_{}", option.to_uppercase().replace('-', "_"));
        assert!(help.contains(&format!("--{option}")) && help.contains(&variable), "{option} is not in:\n{help}");
    }
    assert!(help.contains("ip_local_port_range"), "{help}");
}
