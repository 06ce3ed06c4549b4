//! Where connections go when capture is in force and the proxy listens.

use crate::pod::{APP, OUTSIDE, POD, Pod, dial_as_proxy, dns_listener};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7))];

#[test]
fn outbound_connections_reach_the_proxy_with_their_destination() {
    let pod = Pod::new();
    pod.apply("");
    let (_proxy, server) = (pod.proxy(), pod.server(APP));
    for to in [ELSEWHERE, OUTSIDE].concat() {
        let said = pod.dial_out(to, APP).expect("the proxy answers");
        assert_eq!(said, format!("outbound {}", SocketAddr::new(to, APP)));
    }
    assert_eq!(server.served(), 0);
}

#[test]
fn inbound_connections_reach_the_proxy_and_the_application_sees_the_client() {
    for options in ["", "--exclude-inbound-cidrs 10.99.0.0/16"] {
        let pod = Pod::new();
        pod.apply(options);
        let (_proxy, app) = (pod.proxy(), pod.app());
        for (to, client) in POD.into_iter().zip(OUTSIDE) {
            let said = pod.dial_in(to, APP).expect("the proxy answers");
            assert_eq!(said, format!("inbound {}: application saw {client}", SocketAddr::new(to, APP)), "{options}");
        }
        assert_eq!(app.served(), 2);
    }
}

#[test]
fn the_pods_own_address_and_loopback_are_direct() {
    let pod = Pod::new();
    pod.apply("");
    let (proxy, _app) = (pod.proxy(), pod.app());
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for to in [POD, loopback].concat() {
        assert_eq!(pod.dial_out(to, APP).expect("the application answers"), format!("application saw {to}"));
    }
    assert_eq!(proxy.outbound.served() + proxy.inbound.served(), 0);
}

#[test]
fn the_proxys_own_connections_are_direct() {
    for options in ["", "--exclude-inbound-cidrs 10.99.0.0/16"] {
        let pod = Pod::new();
        pod.apply(options);
        let (_proxy, _server) = (pod.proxy(), pod.server(APP));
        for (to, from) in OUTSIDE.into_iter().zip(POD) {
            let said = pod.inside.enter(|| dial_as_proxy(SocketAddr::new(to, APP))).expect("the server answers");
            assert_eq!(said, format!("application saw {from}"), "{options}");
        }
    }
}

#[test]
fn ports_of_the_proxy_are_served_directly() {
    let pod = Pod::new();
    pod.apply("");
    let proxy = pod.proxy();
    for port in heddle_init_abi::SERVED_PORTS {
        let _server = pod.inside.enter(|| crate::pod::Server::plain(port));
        for (to, client) in POD.into_iter().zip(OUTSIDE) {
            assert_eq!(pod.dial_in(to, port).expect("it is served"), format!("application saw {client}"));
        }
    }
    assert_eq!(proxy.inbound.served(), 0);
}

#[test]
fn dns_is_captured_only_when_asked() {
    let pod = Pod::new();
    let proxy = pod.proxy();
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    for (to, any) in OUTSIDE.into_iter().zip(any) {
        let server = pod.outside.enter(|| UdpSocket::bind((to, 53))).expect("port 53 is free");
        server.set_read_timeout(Some(Duration::from_secs(1))).expect("a time is fine");
        let captured = pod.inside.enter(|| dns_listener(any));
        let receives = |socket: &UdpSocket| socket.recv(&mut [0; 16]).is_ok();

        pod.apply("");
        send_query(&pod, to);
        assert!(receives(&server), "without --dns UDP is left alone");
        assert_eq!(pod.dial_out(to, 53).expect("TCP is captured"), format!("outbound {}", SocketAddr::new(to, 53)));
        let at_dns = proxy.dns.served();

        pod.apply("--dns");
        for _ in 0..50 {
            send_query(&pod, to);
            assert!(receives(&captured), "with --dns the proxy gets every query");
        }
        assert_eq!(pod.dial_out(to, 53).expect("TCP is captured"), format!("outbound {}", SocketAddr::new(to, 53)));
        assert_eq!(proxy.dns.served(), at_dns + 1, "with --dns TCP to port 53 goes to the DNS port");
        server.set_nonblocking(true).expect("it is a socket");
        assert!(!receives(&server));
    }
}

#[test]
fn the_dns_port_is_no_open_resolver() {
    let pod = Pod::new();
    let captured = pod.inside.enter(|| dns_listener(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let query = |port| {
        let sent = pod
            .outside
            .enter(|| -> io::Result<usize> { UdpSocket::bind((OUTSIDE[0], 0))?.send_to(b"query", (POD[0], port)) });
        sent.expect("it is sent");
        captured.recv(&mut [0; 16]).is_ok()
    };
    pod.apply("");
    assert!(query(15053), "without --dns nothing of ours is in the way");
    pod.apply("--dns");
    assert!(!query(15053));
}

fn send_query(pod: &Pod, to: IpAddr) {
    let from = if to.is_ipv4() { POD[0] } else { POD[1] };
    let sent = pod.inside.enter(|| -> io::Result<usize> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect((to, 53))?;
        socket.send(b"query")
    });
    assert_eq!(sent.expect("it is sent"), 5);
}
