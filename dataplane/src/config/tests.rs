//! The options, as a user gives them.

use super::*;
use clap::{CommandFactory, Parser};
use heddle_controller_client::Discovery;
use std::net::IpAddr;

const NEEDED: [&str; 8] =
    ["--pod-name", "web-0", "--pod-namespace", "shop", "--service-account", "web", "--pod-ips", "10.0.0.1,fd00::1"];

#[test]
fn the_defaults_are_those_of_the_help() {
    let config = config(&[]).expect("the needed options suffice");
    assert_eq!(config.identity.spiffe_id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    let ips: [IpAddr; 2] = ["10.0.0.1".parse().expect("an address"), "fd00::1".parse().expect("an address")];
    assert_eq!(config.identity.pod_ips, ips);
    assert_eq!(config.identity.controller_address.to_string(), "heddle-controller.heddle-system.svc:15012");
    assert_eq!(config.identity.controller_name, "heddle-controller.heddle-system.svc");
    assert_eq!(config.identity.discovery, Discovery::OnDemand);
    assert_eq!(config.identity.certificate_ttl, Duration::from_secs(86_400));
    assert_eq!(config.listen.workers.get(), 1);
    assert_eq!(config.listen.capture_probe, Some(Duration::from_secs(3)));
    assert_eq!(config.limits.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(3_600));
    assert_eq!(config.limits.drain_timeout, Duration::from_secs(25));
    assert_eq!(config.limits.discovery_timeout, Duration::from_secs(1));
    assert_eq!(config.limits.connections_max, 10_000);
    assert_eq!(config.limits.tcp_keepalive, Duration::from_secs(15));
    assert_eq!(config.limits.tcp_user_timeout, Duration::from_secs(30));
    assert_eq!(config.limits.hbone_streams_max, 100);
    assert_eq!(config.limits.hbone_idle_timeout, Duration::from_secs(300));
    assert_eq!(config.telemetry.log_filter.as_str(), "info");
    assert_eq!(config.telemetry.access_log, telemetry::AccessLogFormat::Json);
}

#[test]
fn what_is_given_wins() {
    let config = config(&[
        "--controller-address=[fd00::2]:15012",
        "--controller-name=ctl.example",
        "--workers=4",
        "--capture-probe=off",
        "--access-log=off",
        "--discovery=wildcard",
        "--idle-timeout=1h30m",
        "--trust-domain=example.org",
    ])
    .expect("all of it is sound");
    assert_eq!(config.identity.controller_address.to_string(), "[fd00::2]:15012");
    assert_eq!(config.identity.controller_name, "ctl.example");
    assert_eq!(config.listen.workers.get(), 4);
    assert_eq!(config.listen.capture_probe, None);
    assert_eq!(config.telemetry.access_log, telemetry::AccessLogFormat::Off);
    assert_eq!(config.identity.discovery, Discovery::Wildcard);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(5_400));
    assert_eq!(config.identity.spiffe_id.trust_domain().as_str(), "example.org");
    let settings = config.controller_settings();
    assert_eq!((settings.address.as_str(), settings.server_name.as_str()), ("[fd00::2]:15012", "ctl.example"));
    assert_eq!((settings.node.pod_name.as_str(), settings.node.ips.len()), ("web-0", 2));
    assert_eq!(settings.socket_mark, Some(OWN_MARK));
}

#[test]
fn every_mistake_is_told_in_one_go() {
    let wrong = [
        ("--node-name", "a b"),
        ("--cluster-id", ""),
        ("--network", "n\u{fc}"),
        ("--trust-domain", "Example.org"),
        ("--controller-address", "controller"),
        ("--controller-name", "no name"),
        ("--controller-root-cert", ""),
        ("--token-file", ""),
        ("--certificate-ttl", "1s"),
        ("--discovery", "lazy"),
        ("--workers", "0"),
        ("--capture-probe", "yes"),
        ("--capture-probe-interval", "5"),
        ("--connect-timeout", "2"),
        ("--idle-timeout", "0s"),
        ("--drain-timeout", "2h"),
        ("--discovery-timeout", "-1s"),
        ("--connections-max", "many"),
        ("--tcp-keepalive", "1500ms"),
        ("--tcp-user-timeout", ""),
        ("--hbone-streams-max", "1001"),
        ("--hbone-idle-timeout", "2d"),
        ("--log-level", "loud"),
        ("--access-log", "xml"),
    ];
    let arguments: Vec<String> = wrong.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
    let arguments = std::iter::once("heddle-proxy").chain(arguments.iter().map(String::as_str));
    let error = Config::try_from(Args::parse_from(arguments)).expect_err("everything is wrong");

    let missing = ["--pod-name", "--pod-namespace", "--service-account", "--pod-ips"];
    for (mistake, flag) in error.mistakes.iter().zip(missing) {
        assert_eq!((mistake.flag, &mistake.value), (flag, &None));
    }
    let told: Vec<(&str, &str)> = error.mistakes[4..]
        .iter()
        .map(|mistake| (mistake.flag, mistake.value.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(told, wrong);
    let text = error.to_string();
    assert!(text.starts_with("28 mistakes in the options"), "{text}");
    assert!(text.contains("--connect-timeout (HEDDLE_CONNECT_TIMEOUT) \"2\": a number without a unit"), "{text}");
    assert!(text.contains("--pod-name (HEDDLE_POD_NAME) is missing: give it"), "{text}");
    assert!(
        text.contains("--drain-timeout (HEDDLE_DRAIN_TIMEOUT) \"2h\": out of range; write a duration from 0s to 1h")
    );
}

#[test]
fn pod_addresses_are_addresses_of_a_pod() {
    for ips in
        ["", "10.0.0.1,", "10.0.0.1,10.0.0.2", "fd00::1,fd00::2", "127.0.0.1", "::", "224.0.0.1", "web", "10.0.0.1/24"]
    {
        let mistakes = mistakes(&[&format!("--pod-ips={ips}")]);
        assert_eq!(mistakes.len(), 1, "{ips:?} was taken for the addresses of a pod");
    }
    assert!(config(&["--pod-ips= fd00::1 , 10.0.0.1"]).is_ok());
}

#[test]
fn names_are_kubernetes_names() {
    for name in ["", "Web", "web/../x", "-web", "web.", "a..b", "web~1", "web\n", &"a".repeat(254)] {
        let mistakes = mistakes(&[&format!("--pod-name={name}"), &format!("--service-account={name}")]);
        assert_eq!(mistakes.len(), 2, "{name:?} was taken for a name");
    }
    assert!(config(&["--pod-name=web-7d9f.x-1"]).is_ok());
}

#[test]
fn addresses_of_the_controller() {
    for good in ["controller.example:15012", "10.0.0.1:1", "[::1]:65535"] {
        assert_eq!(good.parse::<identity::HostPort>().expect(good).to_string(), good);
    }
    for bad in ["", ":15012", "host", "host:0", "host:70000", "::1:15012", "[host]:1", "[::1]", "a b:1", "http://h:1"] {
        assert!(bad.parse::<identity::HostPort>().is_err(), "{bad:?} was taken for an address");
    }
}

#[test]
fn a_long_value_is_cut_in_its_mistake() {
    let mistakes = mistakes(&[&format!("--workers={}", "9".repeat(10_000))]);
    assert_eq!(mistakes[0].value.as_ref().map(String::len), Some(128));
}

#[test]
fn every_option_has_a_variable_of_its_name_and_a_help_that_explains_it() {
    let command = Args::command();
    for option in command.get_arguments() {
        let flag = option.get_long().expect("every option has a long name");
        let variable = Mistake { flag: "", value: None, problem: String::new() }.variable();
        assert_eq!(variable, "HEDDLE_");
        let variable = format!("HEDDLE_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(option.get_env().and_then(|env| env.to_str()), Some(variable.as_str()), "--{flag}");
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.len() > 20, "--{flag} has no help");
    }
    Args::command().debug_assert();
}

#[test]
fn the_config_dump_shows_every_option_under_its_name() {
    let given = serde_json::to_value(config(&[]).expect("sound").given).expect("strings are JSON");
    for option in Args::command().get_arguments() {
        let name = option.get_long().expect("every option has a long name").replace('-', "_");
        assert!(given.get(&name).is_some(), "{name} is missing in {given}");
    }
}

fn config(more: &[&str]) -> Result<Config, ConfigError> {
    // A later flag of the same name must win, as in a wrapper's command line.
    let replaced = |flag: &str| more.iter().any(|more| more.starts_with(&format!("{flag}=")));
    let needed = NEEDED.chunks(2).filter(|pair| !replaced(pair[0])).flatten().copied();
    let arguments = std::iter::once("heddle-proxy").chain(needed).chain(more.iter().copied());
    Config::try_from(Args::try_parse_from(arguments).expect("known flags"))
}

fn mistakes(more: &[&str]) -> Vec<Mistake> {
    config(more).expect_err("something is wrong").mistakes
}
