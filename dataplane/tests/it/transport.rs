//! The TLS transport against a network and peers that cut, stall and lie.

use crate::support::{Ca, Pattern, accept_one, listen, local};
use heddle_dataplane::tls::{self, TlsStream};
use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, task::Poll, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Both ends of a TLS connection over these sockets.
async fn secure(client: TcpStream, server: TcpStream) -> (TlsStream, TlsStream) {
    let ca = Ca::new();
    let svid = ca.svid(WEB);
    let client_config = tls::client_config(&svid, std::slice::from_ref(svid.id()));
    let server_config = tls::server_config(&svid, svid.id().trust_domain());
    let (client, server) = tokio::join!(tls::connect(client, client_config), tls::accept(server, server_config));
    (client.expect("a good server").0, server.expect("a good client").0)
}

/// A network that passes on at most `piece_bytes` at a time.
async fn slicing_to(server: SocketAddr, piece_bytes: usize) -> SocketAddr {
    let (listener, address) = listen().await;
    spawn_local(async move {
        let (client, _) = listener.accept().await.expect("accepts");
        let server = TcpStream::connect(server).await.expect("connects");
        for tcp in [&client, &server] {
            tcp.set_nodelay(true).expect("can be set");
        }
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        for (mut read, mut write) in [(client_read, server_write), (server_read, client_write)] {
            spawn_local(async move {
                let mut piece = vec![0; piece_bytes];
                while let Ok(read @ 1..) = read.read(&mut piece).await {
                    if write.write_all(&piece[..read]).await.is_err() {
                        return;
                    }
                    // The next piece is another segment, and another turn of the receiver.
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    address
}

#[test]
fn records_may_arrive_in_any_pieces() {
    for piece_bytes in [1, 2, 5, 17, 1400] {
        local(async move {
            let (listener, address) = listen().await;
            let client = TcpStream::connect(slicing_to(address, piece_bytes).await).await.expect("connects");
            let (server, _) = listener.accept().await.expect("accepts");
            let (client, server) = secure(client, server).await;
            // Long enough for several records, where a byte at a time allows.
            let length = if piece_bytes < 16 { 40_000 } else { 500_000 };
            exchange(client, server, length).await;
        });
    }
}

#[test]
fn much_goes_both_ways_at_once() {
    local(async {
        let (client, server) = accept_one().await;
        let (client, server) = secure(client, server).await;
        exchange(client, server, 16 << 20).await;
    });
}

/// Sends `length` bytes both ways at once, each side ending its own half, and looks at what arrives.
async fn exchange(client: TlsStream, server: TlsStream, length: u64) {
    let side = |stream: TlsStream, seed_out, seed_in| async move {
        let (mut read, mut write) = tokio::io::split(stream);
        let send = async {
            let mut pattern = Pattern::new(seed_out);
            let mut left = length;
            while left > 0 {
                let piece = pattern.next(left);
                write.write_all(&piece).await.expect("sent");
                left -= piece.len() as u64;
            }
            write.shutdown().await.expect("ended");
        };
        let receive = async {
            let mut pattern = Pattern::new(seed_in);
            let mut received = 0;
            let mut buffer = vec![0; 50_000];
            loop {
                let read = read.read(&mut buffer).await.expect("received");
                if read == 0 {
                    break;
                }
                pattern.check(&buffer[..read]);
                received += read as u64;
            }
            assert_eq!(received, length);
        };
        tokio::join!(send, receive)
    };
    tokio::join!(side(client, 1, 2), side(server, 2, 1));
}

#[test]
fn a_cut_connection_does_not_look_whole() {
    local(async {
        let (listener, address) = listen().await;
        let (middle, middle_address) = listen().await;
        let client = TcpStream::connect(middle_address).await.expect("connects");
        let (middle, _) = middle.accept().await.expect("accepts");
        let onward = TcpStream::connect(address).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        let network = spawn_local(async move {
            let (mut middle, mut onward) = (middle, onward);
            tokio::io::copy_bidirectional(&mut middle, &mut onward).await
        });
        let (mut client, mut server) = secure(client, server).await;
        client.write_all(b"half a sen").await.expect("sent");
        client.flush().await.expect("sent");
        let mut received = [0; 10];
        server.read_exact(&mut received).await.expect("received");
        // The network ends both TCP connections in order, which anybody on the way could do.
        network.abort();
        let error = server.read(&mut received).await.expect_err("cut");
        assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
        assert!(server.read(&mut received).await.is_err(), "and it stays so");
    });
}

#[test]
fn an_end_in_order_is_an_end() {
    local(async {
        let (client, server) = accept_one().await;
        let (mut client, mut server) = secure(client, server).await;
        client.write_all(b"bye").await.expect("sent");
        client.shutdown().await.expect("ended");
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.expect("received");
        assert_eq!(received, b"bye");
        assert!(client.write_all(b"more").await.is_err(), "nothing goes after the end");
        // The other half is still open.
        server.write_all(b"and you").await.expect("sent");
        server.shutdown().await.expect("ended");
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("received");
        assert_eq!(received, b"and you");
    });
}

#[test]
fn a_reset_is_an_error() {
    local(async {
        let (client, server) = accept_one().await;
        let (raw, secured, mut server) = secure_with_raw_client(client, server).await;
        raw.set_zero_linger().expect("can be set");
        drop((raw, secured));
        let error = server.read(&mut [0; 10]).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn bytes_that_were_tampered_with_end_the_connection() {
    local(async {
        let (client, server) = accept_one().await;
        let (mut raw, _secured, mut server) = secure_with_raw_client(client, server).await;
        raw.write_all(&[0x17, 3, 3, 0, 32]).await.expect("sent");
        raw.write_all(&[0xaa; 32]).await.expect("sent");
        let error = server.read(&mut [0; 10]).await.expect_err("tampered with");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(server.read(&mut [0; 10]).await.is_err(), "and it stays so");
        // An alert record (21), encrypted, so it looks like data.
        let mut head = [0; 5];
        raw.read_exact(&mut head).await.expect("the alert");
        assert_eq!(head[0], 0x17);
    });
}

#[test]
fn an_oversized_record_ends_the_connection() {
    local(async {
        let (client, server) = accept_one().await;
        let (mut raw, _secured, mut server) = secure_with_raw_client(client, server).await;
        raw.write_all(&[0x17, 3, 3, 0xff, 0xff]).await.expect("sent");
        let _ = raw.write_all(&[0; 65_535]).await;
        let error = server.read(&mut [0; 10]).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    });
}

/// A server's stream whose client is, after the handshake, the test itself with the bare socket.
async fn secure_with_raw_client(client: TcpStream, server: TcpStream) -> (TcpStream, TlsStream, TlsStream) {
    let raw = client.into_std().expect("a socket");
    let again = TcpStream::from_std(raw.try_clone().expect("descriptors are left")).expect("a socket");
    let (secured, server) = secure(again, server).await;
    (TcpStream::from_std(raw).expect("a socket"), secured, server)
}

#[test]
fn a_writer_waits_for_a_reader_that_does_not_read() {
    local(async {
        let (client, server) = accept_one().await;
        let (mut client, mut server) = secure(client, server).await;
        let bytes = vec![7; 100_000];
        let mut written = 0_u64;
        // Until the socket's buffers and ours are full.
        loop {
            let write = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &bytes))).await;
            match write {
                Poll::Ready(result) => written += result.expect("sent") as u64,
                Poll::Pending => match tokio::time::timeout(Duration::from_millis(50), client.write(&bytes)).await {
                    Ok(result) => written += result.expect("sent") as u64,
                    Err(_) => break,
                },
            }
            assert!(written < 64 << 20, "nothing bounds what is written");
        }
        let reading = spawn_local(async move {
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.expect("received");
            received.len() as u64
        });
        client.shutdown().await.expect("ended");
        assert_eq!(reading.await.expect("joined"), written);
    });
}
