//! Options and what is wrong with them.

use super::*;
use clap::Parser;

fn config(options: &[&str]) -> Result<Config, ConfigError> {
    let cli = Cli::try_parse_from([&["heddle-init", "show"], options].concat()).expect("the options exist");
    let Command::Show(args) = cli.command else { panic!("this is `show`") };
    Config::new(&args)
}

fn check_mistake(options: &[&str], expected: &str) {
    assert_eq!(config(options).expect_err("there is a mistake").to_string(), expected);
}

#[test]
fn nothing_is_excluded_by_default() {
    let config = config(&[]).expect("no options are fine");
    assert_eq!((config.inbound, config.outbound, config.dns), (Exclusions::default(), Exclusions::default(), false));
}

#[test]
fn lists_take_spaces_and_empty_items() {
    let config = config(&["--exclude-inbound-ports", "22, 8080,,"]).expect("only spaces too many");
    assert_eq!(config.inbound.ports, BTreeSet::from([22, 8080]));
}

#[test]
fn an_address_is_a_block_of_one() {
    let config = config(&["--exclude-outbound-cidrs", "10.0.0.1,fd00::1"]).expect("addresses are fine");
    assert_eq!(config.outbound.networks.v4, ["10.0.0.1/32".parse().expect("a block")]);
    assert_eq!(config.outbound.networks.v6, ["fd00::1/128".parse().expect("a block")]);
}

#[test]
fn a_port_is_a_number_from_1() {
    let way_out = "is not a port; write numbers from 1 to 65535, with commas between";
    check_mistake(&["--exclude-outbound-ports", "0"], &format!("--exclude-outbound-ports: `0` {way_out}"));
    check_mistake(
        &["--exclude-inbound-ports", "8000-8100"],
        &format!("--exclude-inbound-ports: `8000-8100` {way_out}"),
    );
}

#[test]
fn the_ports_of_capture_itself_cannot_be_excluded() {
    check_mistake(
        &["--exclude-inbound-ports", "15006"],
        "--exclude-inbound-ports: 15006 is where the proxy takes captured connections, nobody dials it; leave it out",
    );
}

#[test]
fn a_block_has_no_bits_behind_its_prefix() {
    check_mistake(
        &["--exclude-inbound-cidrs", "10.0.0.1/8"],
        "--exclude-inbound-cidrs: `10.0.0.1/8` has bits set behind its prefix; write 10.0.0.0/8",
    );
    check_mistake(
        &["--exclude-inbound-cidrs", "::ffff:10.0.0.0/104"],
        "--exclude-inbound-cidrs: `::ffff:10.0.0.0/104` never appears in a packet; write the IPv4 block itself",
    );
    check_mistake(
        &["--exclude-outbound-cidrs", "example.com"],
        "--exclude-outbound-cidrs: `example.com` is not an address block; write it like 10.0.0.0/8 or 2001:db8::/32",
    );
}

#[test]
fn an_interface_is_named_in_full() {
    for name in ["eth*", "a/b", "sixteen-letters-", "eth0:1", "."] {
        let error = config(&["--exclude-inbound-interfaces", name]).expect_err("no name").to_string();
        assert!(error.contains(&format!("`{name}` is not the name of an interface")), "{error}");
    }
    check_mistake(
        &["--exclude-outbound-interfaces", "lo"],
        "--exclude-outbound-interfaces: a pod's traffic to itself is never captured; leave out `lo`",
    );
}

#[test]
fn dns_cannot_be_captured_and_excluded() {
    check_mistake(
        &["--dns", "--exclude-outbound-ports", "53"],
        "--dns captures port 53, which --exclude-outbound-ports excludes; drop one of them",
    );
}

#[test]
fn all_mistakes_come_together() {
    let options = ["--mode", "nat", "--exclude-inbound-ports", "0,15001", "--exclude-outbound-cidrs", "x"];
    let error = config(&options).expect_err("four mistakes");
    assert_eq!(error.mistakes.len(), 4, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("4 mistakes in the options:\n  --mode: `nat` is not a mode; write tproxy or ebpf\n")
    );
}

#[test]
fn a_probe_may_be_excluded_by_each_means() {
    let probe = "192.0.2.1:9".parse().expect("an address");
    let excludes = |options: &[&str]| config(options).expect("correct options").excludes_outbound(probe);
    assert!(!excludes(&[]));
    assert!(!excludes(&["--exclude-outbound-cidrs", "10.0.0.0/8", "--exclude-inbound-ports", "9"]));
    assert!(excludes(&["--exclude-outbound-ports", "9"]));
    assert!(excludes(&["--exclude-outbound-cidrs", "0.0.0.0/0"]));
    assert!(excludes(&["--exclude-outbound-interfaces", "eth0"]));
}
