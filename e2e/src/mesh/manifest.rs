//! The manifests that a pod of a test stands for: what `kubectl get -o yaml` would print of it, no more than is read.

use crate::pod::State;
use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A meshed namespace.
pub(super) fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    heddle.dev/inject: enabled
"
    )
}

/// A pod with its service account, and with the service that it backs.
pub(super) fn pod(pod: &State, service: Option<(&str, (Ipv4Addr, Ipv6Addr))>) -> String {
    let State { name, uid, namespace, service_account, v4, v6, .. } = pod;
    let mut labels = format!("    app: {name}\n");
    for (key, value) in &pod.labels {
        labels.push_str(&format!("    {key}: \"{value}\"\n"));
    }
    let mut text = format!(
        "apiVersion: v1
kind: ServiceAccount
metadata:
  name: {service_account}
  namespace: {namespace}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  uid: {uid}
  labels:
{labels}spec:
  serviceAccountName: {service_account}
  nodeName: node
  containers:
  - name: application
    image: application
status:
  phase: Running
  podIP: {v4}
  podIPs:
  - ip: {v4}
  - ip: \"{v6}\"
  conditions:
  - type: Ready
    status: \"True\"
"
    );
    if let Some((service, (service_v4, service_v6))) = service {
        let short = service.split_once('.').map_or(service, |(short, _)| short);
        let ports: String = pod.ports.iter().fold(String::new(), |mut text, port| {
            // Writing to a String cannot fail.
            let _ = write!(text, "  - name: tcp-{port}\n    port: {port}\n    targetPort: {port}\n");
            text
        });
        text.push_str(&format!(
            "---
apiVersion: v1
kind: Service
metadata:
  name: {short}
  namespace: {namespace}
spec:
  clusterIP: {service_v4}
  clusterIPs:
  - {service_v4}
  - \"{service_v6}\"
  ipFamilyPolicy: RequireDualStack
  selector:
    {selector}
  ports:
{ports}",
            selector = pod.selector(),
        ));
    }
    text
}
