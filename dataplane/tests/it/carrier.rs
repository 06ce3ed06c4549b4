//! Bytes through relay, tunnel and relay: nothing lost, and nothing that was cut looks whole.

use crate::support::{Mesh, echo, local};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn bytes_go_through_and_both_ends_end() {
    local(async {
        let mesh = Mesh::start().await;
        let mut client = mesh.connect(echo().await).await;
        client.write_all(b"hello").await.expect("sent");
        client.shutdown().await.expect("ended");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("received");
        assert_eq!(answer, b"hello");
    });
}
