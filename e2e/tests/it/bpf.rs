//! What is attached to a pod, as bpftool(8) sees it, and a program of somebody else beside it.

use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, TestMesh, program};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

/// A program on a pod's cgroup or network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attached {
    /// Where, in bpftool's words.
    pub(crate) hook: String,
    /// Whose it is: the file in the folder of the pod's pins that keeps its link, else the program's own name.
    pub(crate) name: String,
    /// The link's id; none when it is attached without one.
    pub(crate) link: Option<u64>,
}

/// Everything that is attached to the pod, ordered.
pub(crate) fn attached(pod: &Pod) -> Result<Vec<Attached>> {
    let cgroup = fs::metadata(pod.cgroup().path())?.ino();
    let netns = fs::metadata(pod.netns().path())?.ino();
    let links = list(&["-f", "link", "show"])?;
    let (mut found, mut on_cgroup) = (Vec::new(), 0);
    for link in links.iter().filter(|link| link["cgroup_id"] == cgroup || link["netns_ino"] == netns) {
        let hook = link["attach_type"].as_str().with_context(|| link.to_string())?.to_owned();
        let name = pin(link, pod).with_context(|| format!("a link that the pod's folder does not keep: {link}"))?;
        on_cgroup += usize::from(link["cgroup_id"] == cgroup);
        found.push(Attached { hook, name, link: link["id"].as_u64() });
    }
    // The same once more from the cgroup's side, where those without a link are too.
    for entry in list(&["cgroup", "show", &pod.cgroup().path().display().to_string()])? {
        if links.iter().any(|link| link["prog_id"] == entry["id"] && link["cgroup_id"] == cgroup) {
            on_cgroup -= 1;
            continue;
        }
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        found.push(Attached { hook: text("attach_type"), name: text("name"), link: None });
    }
    ensure!(on_cgroup == 0, "{on_cgroup} links are not on the cgroup that they name: {found:?}");
    found.sort();
    Ok(found)
}

/// The name of the file of this pod's that keeps a link.
fn pin(link: &Value, pod: &Pod) -> Option<String> {
    let paths = link["pinned"].as_array()?.iter().filter_map(|path| path.as_str().map(Path::new));
    let mut ours = paths.filter(|path| path.parent().is_some_and(|folder| folder.ends_with(pod.uid())));
    Some(ours.next()?.file_name()?.to_str()?.to_owned())
}

/// Detaches our program from this hook by hand.
pub(crate) fn detach(pod: &Pod, hook: &str) -> Result<()> {
    let attached = attached(pod)?;
    let found = attached.iter().find(|attached| attached.hook == hook && attached.name != FOREIGN);
    let link = found.and_then(|found| found.link).with_context(|| format!("nothing on {hook}: {attached:?}"))?;
    bpftool(&["link", "detach", "id", &link.to_string()]).map(drop)
}

/// Attaches a program of somebody else to the pod.
pub(crate) fn attach_foreign(mesh: &TestMesh, pod: &Pod) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/bpf/foreign.bpf.c");
    let object = pod.folder().join("foreign.bpf.o");
    let mut clang = Command::new(program::system("clang")?);
    run(clang.args(["-target", "bpf", "-O2", "-c"]).arg(&source).arg("-o").arg(&object))?;
    let pin = mesh.folder().join("bpf").join(format!("foreign-{}", pod.name()));
    bpftool(&[OsStr::new("prog"), "load".as_ref(), object.as_ref(), pin.as_ref()])?;
    let cgroup = pod.cgroup().path().as_os_str();
    let words = ["connect4".as_ref(), "pinned".as_ref(), pin.as_os_str(), "multi".as_ref()];
    bpftool(&[&["cgroup".as_ref(), "attach".as_ref(), cgroup], words.as_slice()].concat()).map(drop)
}

/// The name of the program that [`attach_foreign`] attaches.
pub(crate) const FOREIGN: &str = "foreign_connect";

fn list(words: &[&str]) -> Result<Vec<Value>> {
    let text = bpftool(&[&["-j"], words].concat())?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| format!("bpftool {}: {text}", words.join(" ")))
}

fn bpftool<S: AsRef<OsStr>>(words: &[S]) -> Result<String> {
    run(Command::new(program::system("bpftool")?).args(words))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}
