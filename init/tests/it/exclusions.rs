//! What the exclusions leave alone, and that they leave nothing else alone.

use crate::pod::{APP, OUTSIDE, OUTSIDE_ETH1, POD, POD_ETH1, Pod, Server};
use std::net::IpAddr;

/// Another port for the application, inside and outside.
const OTHER: u16 = 9_090;

/// Dials everything and compares what is direct with what these options exclude.
fn check(options: &str, excludes: impl Fn(Way) -> bool) {
    let pod = Pod::new();
    pod.apply(options);
    pod.init(&format!("verify {options}")).succeeds();
    let _proxy = pod.proxy();
    let _inside = [APP, OTHER].map(|port| pod.inside.enter(|| Server::plain(port)));
    let _outside = [APP, OTHER].map(|port| pod.outside.enter(|| Server::plain(port)));
    let pairs = || POD.into_iter().zip(OUTSIDE).chain(POD_ETH1.into_iter().zip(OUTSIDE_ETH1));
    for (inside, outside) in pairs() {
        for port in [APP, OTHER] {
            let way = Way { inbound: true, outside, port };
            let said = pod.dial_in(inside, port).unwrap_or_else(|error| panic!("{options}: {way:?}: {error}"));
            let sees = format!("application saw {outside}");
            assert!(said.ends_with(&sees), "{options}: {way:?}: {said}");
            assert_eq!(said == sees, excludes(way), "{options}: {way:?}: {said}");

            let way = Way { inbound: false, outside, port };
            let said = pod.dial_out(outside, port).unwrap_or_else(|error| panic!("{options}: {way:?}: {error}"));
            assert_eq!(said == format!("application saw {inside}"), excludes(way), "{options}: {way:?}: {said}");
        }
    }
}

/// One connection.
#[derive(Debug, Clone, Copy)]
struct Way {
    inbound: bool,
    outside: IpAddr,
    port: u16,
}

#[test]
fn nothing_is_excluded_by_default() {
    check("", |_| false);
}

#[test]
fn inbound_ports() {
    check("--exclude-inbound-ports 9090", |way| way.inbound && way.port == OTHER);
}

#[test]
fn outbound_ports() {
    check("--exclude-outbound-ports 9090", |way| !way.inbound && way.port == OTHER);
}

#[test]
fn inbound_cidrs() {
    check("--exclude-inbound-cidrs 10.78.0.0/24,fd78::/64", |way| way.inbound && OUTSIDE_ETH1.contains(&way.outside));
}

// The application's replies to captured clients inside the block must still find the proxy.
#[test]
fn outbound_cidrs() {
    check("--exclude-outbound-cidrs 10.78.0.0/24,fd78::/64", |way| !way.inbound && OUTSIDE_ETH1.contains(&way.outside));
}

#[test]
fn everything_outbound() {
    check("--exclude-outbound-cidrs 0.0.0.0/0,::/0", |way| !way.inbound);
}

#[test]
fn inbound_interfaces() {
    check("--exclude-inbound-interfaces eth1", |way| way.inbound && OUTSIDE_ETH1.contains(&way.outside));
}

#[test]
fn outbound_interfaces() {
    check("--exclude-outbound-interfaces eth1", |way| !way.inbound && OUTSIDE_ETH1.contains(&way.outside));
}

#[test]
fn interfaces_that_are_not_there_exclude_nothing() {
    check("--exclude-inbound-interfaces eth7 --exclude-outbound-interfaces eth8", |_| false);
}

#[test]
fn both_directions_at_once() {
    check("--exclude-inbound-ports 9090 --exclude-outbound-cidrs 10.77.0.0/24 --dns", |way| {
        if way.inbound { way.port == OTHER } else { way.outside == OUTSIDE[0] }
    });
}

#[test]
fn ports_that_connections_may_also_get() {
    let pod = Pod::new();
    pod.inside.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "9090 9099")).expect("we are root");
    pod.apply("--exclude-inbound-ports 9090");
    let (proxy, server) = (pod.proxy(), pod.server(APP));
    let _app = pod.inside.enter(|| Server::plain(OTHER));
    for (inside, outside) in POD.into_iter().zip(OUTSIDE) {
        assert_eq!(pod.dial_in(inside, OTHER).expect("it is excluded"), format!("application saw {outside}"));
        for _ in 0..20 {
            // Whichever port it gets, it is captured.
            assert!(pod.dial_out(outside, APP).expect("the proxy answers").starts_with("outbound"));
        }
    }
    assert_eq!((proxy.outbound.served(), server.served()), (40, 0));
}
