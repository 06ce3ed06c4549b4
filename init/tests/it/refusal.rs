//! What happens when the proxy does not listen: refusal at once, and never a connection in the clear.

use crate::pod::{APP, OUTSIDE, POD, Pod, Server, assert_refused, dial};
use heddle_init_abi::CAPTURE_PORTS;
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

const FLAVOURS: [&str; 3] = ["", "--dns", "--exclude-inbound-cidrs 10.99.0.0/16"];

#[test]
fn without_a_proxy_everything_is_refused_at_once() {
    for options in FLAVOURS {
        let pod = Pod::new();
        let (app, server) = (pod.app(), pod.server(APP));
        pod.apply(options);
        // Twice, so that what the first refusal left behind does not matter.
        for _ in 0..2 {
            for (inside, outside) in POD.into_iter().zip(OUTSIDE) {
                assert_refused(|| pod.dial_in(inside, APP), &format!("inbound to {inside} {options}"));
                assert_refused(|| pod.dial_out(outside, APP), &format!("outbound to {outside} {options}"));
                assert_refused(|| pod.dial_out(outside, 53), &format!("TCP 53 to {outside} {options}"));
            }
        }
        assert_eq!(app.served() + server.served(), 0);
        pod.init("undo").succeeds();
        for (inside, outside) in POD.into_iter().zip(OUTSIDE) {
            pod.dial_in(inside, APP).expect("without capture the application is reached");
            pod.dial_out(outside, APP).expect("without capture the server is reached");
        }
    }
}

#[test]
fn a_proxy_that_comes_and_goes_needs_no_change_of_rules() {
    let pod = Pod::new();
    let app = pod.app();
    pod.apply("");
    for _ in 0..2 {
        {
            let _proxy = pod.proxy();
            for (inside, outside) in POD.into_iter().zip(OUTSIDE) {
                assert!(pod.dial_in(inside, APP).expect("the proxy answers").starts_with("inbound"));
                assert!(pod.dial_out(outside, APP).expect("the proxy answers").starts_with("outbound"));
            }
        }
        let served = app.served();
        for (inside, outside) in POD.into_iter().zip(OUTSIDE) {
            assert_refused(|| pod.dial_in(inside, APP), "inbound");
            assert_refused(|| pod.dial_out(outside, APP), "outbound");
        }
        assert_eq!(app.served(), served);
    }
}

#[test]
fn the_ports_of_capture_are_refused_with_and_without_a_proxy() {
    let pod = Pod::new();
    pod.apply("");
    let refused = || {
        for (to, port) in POD.into_iter().flat_map(|to| CAPTURE_PORTS.map(|port| (to, port))) {
            assert_refused(|| pod.dial_in(to, port), &format!("port {port}"));
        }
    };
    refused();
    let proxy = pod.proxy();
    refused();
    assert_eq!(proxy.inbound.served() + proxy.outbound.served() + proxy.dns.served(), 0);
}

// The kernel sends no ICMP from an IPv4 address that is not its own, so that over IPv4 the query is only lost.
#[test]
fn a_query_without_a_dns_listener_goes_nowhere_and_is_refused_over_ipv6() {
    let pod = Pod::new();
    pod.apply("--dns");
    for (from, to) in POD.into_iter().zip(OUTSIDE) {
        let server = pod.outside.enter(|| UdpSocket::bind((to, 53))).expect("port 53 is free");
        server.set_nonblocking(true).expect("it is a socket");
        let answer = pod.inside.enter(|| -> io::Result<usize> {
            let socket = UdpSocket::bind((from, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            socket.connect((to, 53))?;
            socket.send(b"query")?;
            socket.recv(&mut [0; 16])
        });
        let expected = if to.is_ipv6() { io::ErrorKind::ConnectionRefused } else { io::ErrorKind::WouldBlock };
        assert_eq!(answer.expect_err("nobody answers").kind(), expected, "{to}");
        server.recv(&mut [0; 16]).expect_err("the query did not leave");
    }
}

// A dial meets either the former rules or the new ones, never none. Replacing the table forgets whom it is refusing, so that
// a refusal may be lost; then the client's next SYN, a second later, is refused.
#[test]
fn nothing_gets_past_while_rules_are_replaced() {
    let pod = Pod::new();
    let (app, server) = (pod.app(), pod.server(APP));
    pod.apply("");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let dials = scope.spawn(|| {
            let mut dials = 0;
            while !is_done.load(Ordering::Relaxed) {
                for (inside, outside) in POD.into_iter().zip(OUTSIDE) {
                    for refusal in [pod.dial_in(inside, APP), pod.dial_out(outside, APP)] {
                        assert_eq!(refusal.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
                        dials += 1;
                    }
                }
            }
            dials
        });
        for options in ["", "--dns", "--exclude-inbound-cidrs 10.99.0.0/16"].into_iter().cycle().take(60) {
            pod.apply(options);
        }
        is_done.store(true, Ordering::Relaxed);
        assert!(dials.join().expect("every dial is refused") > 20);
    });
    assert_eq!(app.served() + server.served(), 0);
}

#[test]
fn nothing_leaves_in_the_clear_when_routing_is_gone() {
    let pod = Pod::new();
    let (proxy, server) = (pod.proxy(), pod.server(APP));
    for gone in ["ip rule del fwmark 0x539", "ip -6 rule del fwmark 0x539", "ip route flush table 133"] {
        pod.apply("");
        pod.inside.run(gone);
        let to = if gone.contains("-6") { OUTSIDE[1] } else { OUTSIDE[0] };
        pod.dial_out(to, APP).expect_err("it cannot be captured");
    }
    assert_eq!(server.served() + proxy.outbound.served(), 0);
}

#[test]
fn a_served_port_as_source_does_not_escape_capture() {
    for port in [15008, 15021] {
        let pod = Pod::new();
        let server = pod.server(APP);
        for (from, to) in POD.into_iter().zip(OUTSIDE) {
            let escape = || {
                let (from, to) = (SocketAddr::new(from, port), SocketAddr::new(to, APP));
                pod.inside.enter(|| dial(to, Some(from)))
            };
            pod.apply("");
            assert_refused(escape, "without a proxy");
            let _proxy = pod.proxy();
            let _ = escape();
        }
        assert_eq!(server.served(), 0, "from port {port}");
    }
}

#[test]
fn a_served_port_that_nobody_serves_is_refused_by_the_kernel() {
    let pod = Pod::new();
    pod.apply("");
    let _proxy = pod.proxy();
    for to in POD {
        assert_refused(|| pod.dial_in(to, 15008), "HBONE");
    }
    let _hbone = pod.inside.enter(|| Server::plain(15008));
    for to in POD {
        pod.dial_in(to, 15008).expect("HBONE is served");
    }
}
