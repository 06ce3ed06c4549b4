//! Who gets in: the good are let in on both sides, everything else is refused in the handshake.

use crate::support::{Ca, Leaf, accept_one, local};
use heddle_dataplane::tls::{self, TlsError, TlsStream};
use heddle_mesh::identity::SpiffeId;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{AlertDescription, ClientConfig, Error, ServerConfig};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

type Side = Result<(TlsStream, SpiffeId), TlsError>;

/// How a handshake ends on the client's side and on the server's. A TLS 1.3 client is done before the server has looked at its
/// certificate, so the client also waits for the first byte.
async fn shake_hands(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Side, Side) {
    let (client_tcp, server_tcp) = accept_one().await;
    let client = async {
        let (mut stream, peer) = tls::connect(client_tcp, client).await?;
        stream.read_u8().await?;
        Ok((stream, peer))
    };
    let server = async {
        let (mut stream, peer) = tls::accept(server_tcp, server).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok((stream, peer))
    };
    tokio::join!(client, server)
}

fn id(text: &str) -> SpiffeId {
    text.parse().expect("an identity")
}

#[test]
fn both_sides_learn_who_the_other_is() {
    local(async {
        let ca = Ca::new();
        let (web, cart) = (ca.svid(WEB), ca.svid(CART));
        let expected = [id("spiffe://cluster.local/ns/shop/sa/other"), id(CART)];
        let client = tls::client_config(&web, &expected);
        let server = tls::server_config(&cart, web.id().trust_domain());
        let (client, server) = shake_hands(client, server).await;
        assert_eq!(client.expect("the client is content").1, id(CART));
        assert_eq!(server.expect("the server is content").1, id(WEB));
    });
}

#[test]
fn a_bad_client_is_refused_by_the_server() {
    let foreign = Ca::new();
    let constrained = Ca::constrained("example.com");
    let no_uri = Leaf { uris: Vec::new(), ..Leaf::of(WEB) };
    let cases: Vec<(&str, Option<Leaf>)> = vec![
        ("no certificate", None),
        ("expired", Some(Leaf { years: (2000, 2001), ..Leaf::of(WEB) })),
        ("not yet valid", Some(Leaf { years: (2150, 2200), ..Leaf::of(WEB) })),
        ("no SAN", Some(no_uri.clone())),
        ("CN only", Some(Leaf { common_name: WEB.to_owned(), ..no_uri.clone() })),
        ("DNS name only", Some(Leaf { dns: vec!["web.shop.svc.cluster.local".to_owned()], ..no_uri.clone() })),
        ("two workloads", Some(Leaf { uris: vec![WEB.to_owned(), CART.to_owned()], ..no_uri.clone() })),
        ("the same twice", Some(Leaf { uris: vec![WEB.to_owned(), WEB.to_owned()], ..no_uri })),
        ("another trust domain", Some(Leaf::of("spiffe://evil.example/ns/shop/sa/web"))),
        ("a trust domain that begins alike", Some(Leaf::of("spiffe://cluster.local.evil/ns/shop/sa/web"))),
        ("upper case", Some(Leaf::of("spiffe://CLUSTER.local/ns/shop/sa/web"))),
        ("NUL", Some(Leaf::of("spiffe://cluster.local/ns/shop/sa/web\0.evil"))),
        ("percent", Some(Leaf::of("spiffe://cluster.local/ns/shop/sa/w%65b"))),
        ("dot segments", Some(Leaf::of("spiffe://cluster.local/ns/../sa/web"))),
        ("an empty segment", Some(Leaf::of("spiffe://cluster.local/ns//sa/web"))),
        ("a wildcard", Some(Leaf::of("spiffe://cluster.local/ns/shop/sa/*"))),
        ("server usage only", Some(Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Leaf::of(WEB) })),
    ];
    local(async {
        let ca = Ca::new();
        let server = || tls::server_config(&ca.svid(CART), id(CART).trust_domain());
        let (_, sound) = shake_hands(ca.client_config(Some(&Leaf::of(WEB)), &id(CART)), server()).await;
        sound.expect("a sound certificate is let in");
        for (what, leaf) in cases {
            let (client, server) = shake_hands(ca.client_config(leaf.as_ref(), &id(CART)), server()).await;
            assert!(server.is_err(), "{what}: let in");
            assert!(client.is_err(), "{what}: the client got a byte");
        }
        assert!(client_of_other_ca(&ca, &foreign, false).await.is_err(), "another CA: let in");
        client_of_other_ca(&ca, &foreign, true).await.expect("the other CA is trusted, too");
        assert!(client_of_other_ca(&ca, &constrained, true).await.is_err(), "a constrained CA: let in");
    });
}

/// A client that trusts the server's CA, but whose certificate is another's, which the server may trust or not.
async fn client_of_other_ca(ca: &Ca, other: &Ca, trusted: bool) -> Side {
    let mut client = (*ca.client_config(None, &id(CART))).clone();
    client.client_auth_cert_resolver = Arc::new(other.key(&Leaf::of(WEB)));
    let mut roots = (*ca.roots).clone();
    if trusted {
        roots.roots.extend(other.roots.roots.iter().cloned());
    }
    let cart = ca.svid_trusting(CART, roots);
    shake_hands(Arc::new(client), tls::server_config(&cart, cart.id().trust_domain())).await.1
}

#[test]
fn further_names_that_are_no_workloads_are_passed_over() {
    local(async {
        let ca = Ca::new();
        let uris = ["https://example.com/", "spiffe://cluster.local/agent", WEB].map(str::to_owned).to_vec();
        let leaf = Leaf { uris, dns: vec!["web".to_owned()], ..Leaf::of(WEB) };
        let server = tls::server_config(&ca.svid(CART), id(CART).trust_domain());
        let (_, server) = shake_hands(ca.client_config(Some(&leaf), &id(CART)), server).await;
        assert_eq!(server.expect("let in").1, id(WEB));
    });
}

#[test]
fn a_bad_server_is_refused_by_the_client() {
    let no_uri = Leaf { uris: Vec::new(), ..Leaf::of(CART) };
    let cases = vec![
        ("another account", Leaf::of("spiffe://cluster.local/ns/shop/sa/cart2")),
        ("another namespace", Leaf::of("spiffe://cluster.local/ns/shop2/sa/cart")),
        ("another trust domain", Leaf::of("spiffe://evil.example/ns/shop/sa/cart")),
        ("expired", Leaf { years: (2000, 2001), ..Leaf::of(CART) }),
        ("not yet valid", Leaf { years: (2150, 2200), ..Leaf::of(CART) }),
        ("no SAN", no_uri.clone()),
        ("DNS name only", Leaf { dns: vec!["cart.shop".to_owned()], ..no_uri.clone() }),
        ("expected and another", Leaf { uris: vec![CART.to_owned(), WEB.to_owned()], ..no_uri }),
        ("client usage only", Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::of(CART) }),
    ];
    local(async {
        let ca = Ca::new();
        let client = tls::client_config(&ca.svid(WEB), &[id(CART)]);
        let (sound, _) = shake_hands(client, ca.server_config(&Leaf::of(CART))).await;
        sound.expect("a sound certificate is trusted");
        for (what, leaf) in cases {
            let client = tls::client_config(&ca.svid(WEB), &[id(CART)]);
            let (client, server) = shake_hands(client, ca.server_config(&leaf)).await;
            assert!(client.is_err(), "{what}: trusted");
            assert!(server.is_err(), "{what}: the server is told");
        }
        let other = Ca::new();
        let client = tls::client_config(&ca.svid(WEB), &[id(CART)]);
        let (client, _) = shake_hands(client, other.server_config(&Leaf::of(CART))).await;
        assert!(client.is_err(), "another CA: trusted");
        let client = tls::client_config(&ca.svid(WEB), &[]);
        let (client, _) = shake_hands(client, ca.server_config(&Leaf::of(CART))).await;
        assert!(client.is_err(), "nobody is expected: trusted");
    });
}

#[test]
fn a_refusal_names_both_and_reaches_the_other_side_as_an_alert() {
    local(async {
        let ca = Ca::new();
        let client = tls::client_config(&ca.svid(WEB), &[id("spiffe://cluster.local/ns/shop/sa/other")]);
        let (client, server) = shake_hands(client, ca.server_config(&Leaf::of(CART))).await;
        let error = client.expect_err("refused").to_string();
        assert!(error.contains(CART) && error.contains("ns/shop/sa/other"), "{error}");
        let Err(TlsError::Protocol(Error::AlertReceived(alert))) = server else { panic!("{server:?}") };
        assert_ne!(alert, AlertDescription::CloseNotify);
    });
}

#[test]
fn a_peer_that_does_not_agree_to_http2_is_refused() {
    local(async {
        let ca = Ca::new();
        let mut client = (*tls::client_config(&ca.svid(WEB), &[id(CART)])).clone();
        client.alpn_protocols.clear();
        let server = tls::server_config(&ca.svid(CART), id(CART).trust_domain());
        let (_, server) = shake_hands(Arc::new(client), server).await;
        assert!(matches!(server, Err(TlsError::NoHttp2)), "{server:?}");
    });
}

#[test]
fn what_is_no_tls_is_refused() {
    local(async {
        let ca = Ca::new();
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[0; 300],
            &[0x16; 70_000],
        ] {
            let (mut client, server) = accept_one().await;
            let config = tls::server_config(&ca.svid(CART), id(CART).trust_domain());
            let (_, result) = tokio::join!(client.write_all(bytes), tls::accept(server, config));
            assert!(result.is_err(), "{:?} was taken for TLS", &bytes[..16]);
        }
        let (client, server) = accept_one().await;
        drop(client);
        let config = tls::server_config(&ca.svid(CART), id(CART).trust_domain());
        let result = tls::accept(server, config).await;
        assert!(matches!(result, Err(TlsError::Closed)), "{result:?}");
    });
}

/// Every byte of either side's handshake may be anything: the other side ends it, and does not panic.
#[test]
fn no_change_to_a_handshake_goes_unnoticed() {
    let ca = Ca::new();
    let client = tls::client_config(&ca.svid(WEB), &[id(CART)]);
    let server = tls::server_config(&ca.svid(CART), id(CART).trust_domain());
    for from_client in [true, false] {
        // A prime stride meets heads, lengths and bodies of all messages; the first bytes one by one.
        // Not the record's version: it is to be ignored (RFC 8446, section 5.1).
        for changed in (0..1).chain(3..64).chain((64..4000).step_by(97)) {
            let (client, server) = (client.clone(), server.clone());
            local(async move {
                let (client_tcp, client_far) = accept_one().await;
                let (server_tcp, server_far) = accept_one().await;
                let network = tokio::spawn(tampering(client_far, server_far, from_client, changed));
                let client = async {
                    let (mut stream, _) = tls::connect(client_tcp, client).await?;
                    stream.read_u8().await?;
                    Ok::<_, TlsError>(())
                };
                let server = async {
                    let (mut stream, _) = tls::accept(server_tcp, server).await?;
                    stream.write_u8(1).await?;
                    stream.flush().await?;
                    Ok::<_, TlsError>(stream)
                };
                let patience = Duration::from_millis(500);
                let (client, _) = tokio::join!(timeout(patience, client), timeout(patience, server));
                let reached = network.await.expect("joined");
                assert!(!reached || !matches!(client, Ok(Ok(()))), "byte {changed} was changed: {client:?}");
            });
        }
    }
}

/// A network that changes one byte of one direction. Says whether there was such a byte.
async fn tampering(client: TcpStream, server: TcpStream, from_client: bool, changed: usize) -> bool {
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let pass = |mut read: OwnedReadHalf, mut write: OwnedWriteHalf, tampers: bool| async move {
        let (mut passed, mut done) = (0, false);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if tampers && (passed..passed + length).contains(&changed) {
                buffer[changed - passed] ^= 0x55;
                done = true;
            }
            passed += length;
            if write.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        done
    };
    let (one, other) =
        tokio::join!(pass(client_read, server_write, from_client), pass(server_read, client_write, !from_client));
    one || other
}
