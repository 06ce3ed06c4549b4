//! What a connection holds while nothing happens on it: futures are memory.

use crate::support::{Mesh, accept_one, echo, local};
use heddle_dataplane::{
    relay::{Meter, RelayLimits, relay},
    stream::Transport,
};
use http::HeaderMap;

#[test]
fn a_relay_is_small() {
    local(async {
        let mesh = Mesh::start().await;
        let tunnel = mesh.open(echo().await).await.expect("opened");
        let (_client, near) = accept_one().await;
        let (limits, bytes) = (RelayLimits::default(), Meter::default());
        let future = relay(near, Transport::Tunnel(tunnel), &limits, &bytes);
        let size = size_of_val(&future);
        assert!(size <= 1024, "a relay takes {size} bytes");
    });
}

#[test]
fn opening_a_tunnel_is_small() {
    local(async {
        let mesh = Mesh::start().await;
        let headers = HeaderMap::new();
        let future = mesh.pool.open(&mesh.key, "10.0.0.7:80".parse().expect("an address"), &headers);
        let size = size_of_val(&future);
        assert!(size <= 512, "opening a tunnel takes {size} bytes");
    });
}
