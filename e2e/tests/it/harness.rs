//! The harness itself: pods without a mesh, real applications, captures, and that nothing stays behind.

use anyhow::{Result, ensure};
use heddle_e2e::{App, Family, TestMesh, app::NGINX_BODY, netns, traffic::bulk};
use std::{fs, io::Write, net::Shutdown, panic, thread};

fn both(test: &str, check: fn(&TestMesh) -> Result<()>) {
    for family in [Family::V4, Family::V6] {
        let mesh = TestMesh::builder(family).test(test).without_controller().build().expect("root can make a mesh");
        mesh.conclude(check(&mesh));
    }
}

#[test]
fn a_capture_reads_what_is_plain() {
    both("harness::a_capture_reads_what_is_plain", |mesh| {
        let web = mesh.pod("web").unmeshed().serve(App::Nginx)?;
        let client = mesh.pod("client").unmeshed().start()?;
        let capture = web.capture()?;
        let reply = client.curl("http://web.pod/")?;
        ensure!(reply.is_ok(), "{reply:?}");
        let peer = client.curl("http://web.pod/peer")?;
        ensure!(peer.body.trim() == client.address().to_string(), "{peer:?}");
        ensure!(web.app_log(App::Nginx).len() == 2, "{:?}", web.app_log(App::Nginx));

        let traffic = capture.finish()?;
        ensure!(traffic.occurrences(NGINX_BODY) == 1, "{traffic:?}");
        ensure!(traffic.readable_bytes() == traffic.payload_bytes() && traffic.tls_records() == 0, "{traffic:?}");
        ensure!(traffic.dialled_ports() == [80], "{:?}", traffic.dials);
        ensure!(traffic.check_encrypted(NGINX_BODY).is_err());
        Ok(())
    });
}

#[test]
fn databases_serve_other_pods() {
    both("harness::databases_serve_other_pods", |mesh| {
        let database = mesh.pod("database").unmeshed().serve(App::Redis)?;
        database.run_app(App::Postgres)?;
        let client = mesh.pod("client").unmeshed().start()?;
        let pong = client.exec(&["redis-cli", "-h", "database.pod", "ping"])?.success()?;
        ensure!(pong.trim() == "PONG", "{pong}");
        let query = "select host(inet_client_addr())";
        let seen = client.exec(&["psql", "-h", "database.pod", "-U", "postgres", "-Atc", query])?.success()?;
        ensure!(seen.trim() == client.address().to_string(), "{seen}");
        Ok(())
    });
}

#[test]
fn sockets_of_a_pod_carry_bulk() {
    both("harness::sockets_of_a_pod_carry_bulk", |mesh| {
        let server = mesh.pod("server").unmeshed().start()?;
        let client = mesh.pod("client").unmeshed().start()?;
        let listener = server.listen(9000)?;
        let mut stream = client.connect(server.at(9000))?;
        let receiver = thread::spawn(move || bulk::receive(listener.accept()?.0));
        let sent = bulk::send(&mut stream, 1, 8 << 20)?;
        stream.flush()?;
        stream.shutdown(Shutdown::Write)?;
        ensure!(receiver.join().expect("the receiver does not panic")? == sent);
        Ok(())
    });
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let mesh = TestMesh::builder(Family::V4).without_controller().build().expect("root can make a mesh");
    let folder = mesh.folder().to_owned();
    let prefix = folder.file_name().expect("it has a name").to_str().expect("of ASCII").to_owned();
    let namespaces = || netns::list(&format!("{prefix}-")).len();
    let web = mesh.pod("web").unmeshed().serve(App::Nginx).expect("nginx runs");
    let processes = web.netns().processes();
    let cgroup = web.cgroup().path().to_owned();
    let of_mesh = cgroup.ancestors().nth(2).expect("its pods are two levels below a mesh").to_owned();
    assert!(cgroup.is_dir() && of_mesh.ends_with(&prefix), "{}", cgroup.display());
    assert_eq!((namespaces(), folder.exists(), processes.len()), (2, true, 2));
    let panicked = panic::catch_unwind(panic::AssertUnwindSafe(move || {
        let (_mesh, _web) = (mesh, web);
        panic!("this panic is wanted");
    }));
    assert!(panicked.is_err());
    assert_eq!((namespaces(), folder.exists(), of_mesh.exists()), (0, false, false));
    let alive = |pid: &&i32| std::path::Path::new("/proc").join(pid.to_string()).join("exe").exists();
    assert_eq!(processes.iter().filter(alive).count(), 0);
}

#[test]
fn a_missing_program_is_named() {
    let mesh = TestMesh::builder(Family::V4).without_controller().build().expect("root can make a mesh");
    let pod = mesh.pod("client").unmeshed().start().expect("a pod needs no program");
    let error = pod.exec(&["no-such-program"]).expect_err("there is none").to_string();
    assert!(error.contains("`no-such-program` is not installed"), "{error}");
}

#[test]
fn every_container_has_a_cgroup_of_its_own() {
    both("harness::every_container_has_a_cgroup_of_its_own", |mesh| {
        let web = mesh.pod("web").unmeshed().serve(App::Nginx)?;
        let client = mesh.pod("client").unmeshed().start()?;
        let said = |path: &str| -> Result<String> {
            let text = fs::read_to_string(path)?;
            Ok(text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned())
        };
        for (pod, text) in [
            (&web, said(&format!("/proc/{}/cgroup", web.app_pids()[0]))?),
            (&client, client.run(|| said("/proc/thread-self/cgroup"))??),
            (&client, client.exec(&["cat", "/proc/self/cgroup"])?.success()?),
        ] {
            let wanted = format!("/kubepods/pod{}/app", pod.uid());
            ensure!(text.trim_end().lines().any(|line| line.ends_with(&wanted)), "{text} is not in {wanted}");
        }
        let nested = client.cgroup().container("app/nested");
        nested.make()?;
        let inside = client.run_as(&nested, 65534, || said("/proc/thread-self/cgroup"))??;
        ensure!(inside.ends_with("/app/nested"), "{inside}");
        ensure!(web.uid() != client.uid());
        // The harness itself stays where it was.
        ensure!(!said("/proc/self/cgroup")?.contains("kubepods"));
        Ok(())
    });
}
