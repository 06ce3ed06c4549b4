//! Who gets in: strict and permissive pods, certificates right and wrong, and what a good certificate must not reach.

use crate::{
    peer::{Answer, Identity, Peer},
    support::{Echo, EchoClient, prompt},
};
use anyhow::{Context, Result, ensure};
use heddle_e2e::{
    App, Pod, TestMesh, pod,
    traffic::{
        bulk,
        certificate::{self, Certificate, Wanted},
    },
    wait,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

scenarios! {
    strict_refuses_plaintext_and_permissive_takes_it,
    a_wrong_certificate_is_refused,
    plaintext_to_the_tunnel_port_is_refused,
    a_tunnel_leads_to_its_own_pod_only,
    a_certificate_is_renewed_during_a_transfer,
}

fn strict_refuses_plaintext_and_permissive_takes_it(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let stranger = mesh.pod("stranger").unmeshed().start()?;

    let refused = |times: usize| -> Result<()> {
        let reply = prompt("a refusal", || stranger.curl("http://web.pod/peer"))?;
        ensure!(reply.is_refused(), "{reply:?}");
        let wanted = |entry: &&pod::AccessEntry| entry.reason == "mtls_required" && entry.peer.is_none();
        crate::support::soon("the refusal in the access log", || {
            Ok(web.proxy().access_log()?.iter().filter(wanted).count() == times)
        })
    };
    refused(1)?;
    ensure!(web.app_log(App::Nginx).is_empty(), "{:?}", web.app_log(App::Nginx));

    mesh.apply("mtls-permissive.yaml")?;
    let reply = stranger.curl("http://web.pod/peer")?;
    ensure!(reply.is_ok() && reply.body.trim() == stranger.address().to_string(), "{reply:?}");
    let entry = web.proxy().wait_entry("the plaintext", |entry| entry.reason == "ok")?;
    ensure!(entry.security == "plaintext" && entry.peer.is_none(), "{entry:?}");

    mesh.delete("mtls-permissive.yaml")?;
    refused(2)
}

fn a_wrong_certificate_is_refused(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let thief = mesh.pod("thief").unmeshed().start()?;
    let folder = thief.folder().to_owned();
    let root = mesh_authority(mesh)?;
    let other = certificate::authority(&folder, "other-authority")?;
    let make = |name: &str, by: &Certificate, alternative_name: &str, expired: bool| {
        certificate::signed(&folder, name, by, &Wanted { alternative_name, expired })
    };
    let client = "URI:spiffe://cluster.local/ns/shop/sa/client";
    let wrong = [
        ("no certificate", Identity::None),
        ("another authority", Identity::Of(make("foreign", &other, client, false)?)),
        ("expired", Identity::Of(make("expired", &root, client, true)?)),
        (
            "another trust domain",
            Identity::Of(make("domain", &root, "URI:spiffe://evil.example/ns/shop/sa/client", false)?),
        ),
        ("no SPIFFE ID", Identity::Of(make("name", &root, "DNS:client.shop.svc", false)?)),
        (
            "two SPIFFE IDs",
            Identity::Of(make("two", &root, &format!("{client},URI:spiffe://cluster.local/ns/shop/sa/web"), false)?),
        ),
        ("no service account", Identity::Of(make("short", &root, "URI:spiffe://cluster.local/ns/shop", false)?)),
        (
            "an escape in the ID",
            Identity::Of(make("escape", &root, "URI:spiffe://cluster.local/ns/shop/sa/cli%65nt", false)?),
        ),
    ];
    let handshakes = || -> Result<f64> {
        let labels = [("direction", "inbound"), ("result", "failed")];
        Ok(web.proxy().metrics()?.sum("heddle_hbone_handshakes_total", &labels))
    };
    for (number, (what, identity)) in wrong.into_iter().enumerate() {
        let answer = prompt(what, || Peer::new(&thief, identity).ask(web.at(15008), &web.at(80).to_string()))?;
        ensure!(matches!(answer, Answer::NoTunnel(_)), "{what}: {answer:?}");
        crate::support::soon("the failed handshake in the metrics", || Ok(handshakes()? >= number as f64 + 1.0))?;
    }
    ensure!(web.app_log(App::Nginx).is_empty(), "{:?}", web.app_log(App::Nginx));

    // The positive control: the same client with a right certificate gets in.
    let right = Identity::Of(make("right", &root, client, false)?);
    let answer = Peer::new(&thief, right).ask(web.at(15008), &web.at(80).to_string())?;
    ensure!(answer == Answer::Status(200, None), "{answer:?}");
    Ok(())
}

/// The authority of the mesh itself, whose key only a test may take.
fn mesh_authority(mesh: &TestMesh) -> Result<Certificate> {
    let state = mesh.controller().state();
    let certificate = mesh.controller().root_certificate();
    let key = ["root-key.pem", "root.key"].map(|name| state.join(name)).into_iter().find(|file| file.exists());
    Ok(Certificate { certificate, key: key.with_context(|| format!("no root key in {}", state.display()))? })
}

fn plaintext_to_the_tunnel_port_is_refused(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let thief = mesh.pod("thief").unmeshed().start()?;
    let reply = prompt("a refusal", || thief.curl("http://web.pod:15008/"))?;
    ensure!(reply.status == 0 && reply.exit != 28, "{reply:?}");
    // HTTP/2 with prior knowledge, as a tunnel without TLS would be.
    let mut stream = thief.connect(web.at(15008))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut answer = Vec::new();
    let ended = prompt("a refusal", || match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    });
    ended?;
    // A TLS alert (type 21) at most, and no HTTP/2 frame.
    ensure!(answer.is_empty() || answer[0] == 21, "{}", answer.escape_ascii());
    ensure!(web.app_log(App::Nginx).is_empty(), "{:?}", web.app_log(App::Nginx));
    Ok(())
}

fn a_tunnel_leads_to_its_own_pod_only(mesh: &TestMesh) -> Result<()> {
    let web = mesh.pod("web").serve(App::Nginx)?;
    let other = mesh.pod("other").serve(App::Nginx)?;
    let thief = mesh.pod("thief").unmeshed().start()?;
    let wanted = Wanted { alternative_name: "URI:spiffe://cluster.local/ns/shop/sa/client", expired: false };
    let right = certificate::signed(thief.folder(), "right", &mesh_authority(mesh)?, &wanted)?;
    let peer = Peer::new(&thief, Identity::Of(right));
    let ask = |authority: String| peer.ask(web.at(15008), &authority).with_context(|| format!("CONNECT {authority}"));

    ensure!(ask(web.at(80).to_string())? == Answer::Status(200, None), "the positive control");
    let mut refused = vec![other.at(80).to_string(), mesh.service("other", 80).to_string()];
    refused.extend(
        ["127.0.0.1:80", "[::1]:80", "169.254.169.254:80", "localhost:80", "web.shop.svc.cluster.local:80"]
            .map(str::to_owned),
    );
    refused.extend([15000, 15001, 15006, 15008, 15020, 15021].map(|port| web.at(port).to_string()));
    refused.push("127.0.0.1:15000".to_owned());
    for authority in refused {
        let answer = prompt("a refusal", || ask(authority.clone()))?;
        let reason = Some("authority_refused".to_owned());
        ensure!(answer == Answer::Status(400, reason), "CONNECT {authority}: {answer:?}");
    }
    let served: Vec<String> = [&web, &other].iter().flat_map(|pod| pod.app_log(App::Nginx)).collect();
    ensure!(served.is_empty(), "{served:?}");
    Ok(())
}

fn a_certificate_is_renewed_during_a_transfer(mesh: &TestMesh) -> Result<()> {
    // The shortest that the controller gives; renewed at about half of it.
    let short_lived = ["--certificate-ttl", "60s"];
    let web = mesh.pod("web").ports(&[9000, 9001]).proxy_args(&short_lived).start()?;
    let client = mesh.pod("client").proxy_args(&short_lived).start()?;
    let listener = web.listen(9000)?;
    let _echo = Echo::start(&web, 9001)?;

    let serials = || -> Result<[String; 2]> { Ok([serial(&web)?, serial(&client)?]) };
    let before = serials()?;
    let upstream = client.connect(mesh.service("web", 9000))?;
    let mut live = EchoClient::connect(&client, mesh.service("web", 9001))?;
    let receiver = thread::spawn(move || bulk::receive(listener.accept()?.0));
    let mut digests = bulk::Sender::new(9);
    wait::until_true("new serials in both proxies", Duration::from_secs(60), || {
        // A megabyte for each look, so that bytes flow the whole time.
        digests.send(&upstream, 1 << 20)?;
        live.exchange("still here")?;
        let now = serials()?;
        Ok(now[0] != before[0] && now[1] != before[1])
    })?;
    digests.send(&upstream, 8 << 20)?;
    finish(&upstream)?;
    let received = receiver.join().expect("the receiver does not panic")?;
    ensure!(received == digests.digest(), "sent {:?}, received {received:?}", digests.digest());
    live.exchange("and on")?;
    // What is dialled now uses the new certificates.
    EchoClient::connect(&client, mesh.service("web", 9001))?.exchange("anew")?;
    Ok(())
}

fn finish(stream: &TcpStream) -> Result<()> {
    stream.shutdown(std::net::Shutdown::Write).context("FIN")
}

/// The serial number of the certificate that a pod's proxy uses.
fn serial(pod: &Pod) -> Result<String> {
    let dump = pod.proxy().config_dump()?;
    Ok(dump["certificate"]["serial"].as_str().context("the dump names no serial")?.to_owned())
}
