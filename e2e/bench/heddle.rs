//! Heddle as a user runs it: `heddle-init apply` in both pods, a controller on a folder, a proxy a pod; strict mutual TLS.

use crate::{bed::Proxies, ground::Ground};
use anyhow::{Context, Result};
use heddle_e2e::{
    netns::Namespace,
    process::{Launch, Process, Rights},
    program, wait,
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
};

/// Starts the controller and then both proxies.
///
/// # Errors
/// What a part said before it ended.
pub(crate) fn start(ground: &Ground, folder: &Path) -> Result<(Process, Proxies)> {
    let manifests = folder.join("manifests");
    fs::create_dir_all(&manifests)?;
    fs::write(manifests.join("mesh.yaml"), mesh())?;
    let state = folder.join("state");
    let controller = controller(&ground.node, &manifests, &state, &folder.join("controller"))?;
    ground.capture()?;
    let [client, server] = Ground::addresses();
    let proxies = Proxies {
        client: proxy(&ground.client, CLIENT, client, &state, folder)?,
        server: proxy(&ground.server, SERVER, server, &state, folder)?,
    };
    Ok((controller, proxies))
}

fn controller(node: &Namespace, manifests: &Path, state: &Path, log: &Path) -> Result<Process> {
    let mut controller = Launch::new(node, program::product("heddle-controller")?, Rights::Root)
        .args(["--manifests".as_ref(), manifests.as_os_str(), "--state".as_ref(), state.as_os_str()])
        .spawn(log)?;
    wait::until_true("the controller", wait::PATIENCE, || {
        controller.check_alive()?;
        let listens = node.run(|| TcpStream::connect(controller_address()).is_ok())?;
        Ok(listens && state.join(ROOT_CERTIFICATE).is_file())
    })?;
    Ok(controller)
}

fn proxy(pod: &Namespace, name: &str, address: Ipv4Addr, state: &Path, folder: &Path) -> Result<Process> {
    let token = folder.join(format!("{name}.token"));
    let signed = Launch::new(pod, program::product("heddle-controller")?, Rights::Root)
        .args(["token", "--namespace", NAMESPACE, "--service-account", name, "--state"])
        .args([state])
        .output(wait::PATIENCE)?
        .success()
        .context("signing a token")?;
    fs::write(&token, signed.trim())?;
    let mut arguments = vec![
        format!("--controller-address={}", controller_address()),
        "--controller-name=heddle-controller.heddle-system.svc".to_owned(),
        format!("--controller-root-cert={}", state.join(ROOT_CERTIFICATE).display()),
        format!("--token-file={}", token.display()),
        format!("--pod-name={name}"),
        format!("--service-account={name}"),
        format!("--pod-ips={address}"),
    ];
    arguments.extend([format!("--pod-namespace={NAMESPACE}"), format!("--node-name={NODE}"), "--workers=1".to_owned()]);
    let program = program::product("heddle-proxy")?;
    Launch::new(pod, program, Rights::Capability("net_raw")).args(arguments).spawn(&folder.join(name))
}

fn controller_address() -> SocketAddr {
    SocketAddr::new(Ground::node_address(), 15012)
}

/// The manifests: a namespace in the mesh and two pods, as `kubectl get -o yaml` prints them, shortened.
fn mesh() -> String {
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{heddle.dev/inject: enabled}}}}\n"
    );
    let pods = [CLIENT, SERVER].into_iter().zip(Ground::addresses()).map(|(name, address)| {
        format!(
            "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {NAMESPACE}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {NAMESPACE}, uid: {name}-1, labels: {{app: {name}}}}}
spec: {{serviceAccountName: {name}, nodeName: {NODE}, containers: [{{name: app, image: app}}]}}
status:
  phase: Running
  podIP: {address}
  podIPs: [{{ip: {address}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
"
        )
    });
    namespace + &pods.collect::<String>()
}

const NAMESPACE: &str = "bench";
const NODE: &str = "node";
/// Pod and service account of the client.
const CLIENT: &str = "client";
/// Pod and service account of the server.
const SERVER: &str = "server";
/// In the controller's state folder; what proxies trust.
const ROOT_CERTIFICATE: &str = "root-cert.pem";
