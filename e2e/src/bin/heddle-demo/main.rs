//! `heddle-demo`: a mesh of three pods on this machine, real applications in it, and the evidence of what it does.
//!
//! `cargo xtask demo` builds and runs it. Every line of evidence is checked; one that does not hold ends it with exit status 1.

mod report;
mod show;

use anyhow::{Context, Result, bail, ensure};
use heddle_e2e::{
    App, Family, Pod, TestMesh,
    cgroup::{self, Container},
    interrupt, mesh, netns,
    pod::uid,
    process::Rights,
};
use report::Report;
use std::{os::unix::process::CommandExt, path::Path, process::ExitCode};

const HELP: &str = "\
heddle-demo [OPTIONS]          brings up three pods with Heddle, shows what it does, and takes everything down
heddle-demo enter POD [CMD]    a shell (or CMD) in a pod that --keep left up: client, web, database or node
heddle-demo down               takes down what --keep left up

Options
  --keep    leaves the pods up, and prints how to enter each of them
  --ipv6    names resolve to IPv6 addresses
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["down"] => {
            println!("{} namespaces removed", mesh::remove(KEPT)?);
            return Ok(true);
        }
        ["enter", pod, command @ ..] => bail!(enter(pod, command)?.exec()),
        ["--help" | "-h" | "help"] => {
            print!("{HELP}");
            return Ok(true);
        }
        _ => {}
    }
    let (mut keep, mut family) = (false, Family::V4);
    for word in words {
        match word {
            "--keep" => keep = true,
            "--ipv6" => family = Family::V6,
            other => bail!("`{other}` is not an option; see `heddle-demo --help`"),
        }
    }
    ensure!(netns::list(&format!("{KEPT}-")).is_empty(), "a demo is up already; `heddle-demo down` takes it down");
    demo(family, keep)
}

/// The whole demo; whether every check held.
fn demo(family: Family, keep: bool) -> Result<bool> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo");
    let mut builder = TestMesh::builder(family).test("demo").manifests(&folder).outlives_us(keep);
    if keep {
        builder = builder.name("demo");
    }
    interrupt::take_down_first(builder.prefix()).context("watching for Ctrl-C")?;

    let mut report = Report::default();
    report.heading(&format!("a mesh of three pods, made of {}", show::short(&folder)));
    let mesh = builder.build()?;
    // In the order of the addresses that the manifests give them.
    let client = mesh.pod("client").start()?;
    let web = mesh.pod("web").serve(App::Nginx)?;
    let database = mesh.pod("database").ports(App::Postgres.ports()).serve(App::Redis)?;
    database.run_app(App::Postgres)?;
    report.line("node", &format!("{:<12} heddle-controller", mesh.controller().address().to_string()));
    for (pod, applications) in [(&client, "curl, redis-cli, psql"), (&web, "nginx"), (&database, "redis, PostgreSQL")] {
        report.line(pod.name(), &format!("{:<12} {:<45} {applications}", pod.address().to_string(), pod.spiffe_id()));
    }

    let shown = show::everything(&mut report, &mesh, &Pods { client: &client, web: &web, database: &database });
    if let Err(error) = shown {
        report.failure(&format!("{error:#}"));
    }
    report.conclude();
    if keep {
        print_how_to_enter();
        mesh.leave();
    }
    Ok(report.holds())
}

/// The pods of the demo.
struct Pods<'a> {
    client: &'a Pod,
    web: &'a Pod,
    database: &'a Pod,
}

fn print_how_to_enter() {
    let program = std::env::current_exe().map_or_else(|_| "heddle-demo".to_owned(), |path| show::short(&path));
    println!("\nThe pods stay up. In each of them the names `web` and `database` resolve; try curl http://web/");
    for pod in ["client", "web", "database", "node"] {
        println!("  {program} enter {pod}");
    }
    let folder = std::env::temp_dir().join(KEPT);
    println!("What a pod's proxy knows:  {program} enter client curl -s http://127.0.0.1:15000/config_dump");
    println!("Manifests, to be changed:  {}", folder.join("manifests").display());
    println!("Logs:                      {}", folder.join("logs").display());
    println!("Take it down:              {program} down");
}

/// A shell in a kept pod.
fn enter(pod: &str, command: &[&str]) -> Result<std::process::Command> {
    let folder = std::env::temp_dir().join(KEPT);
    let namespace = netns::Namespace::existing(&format!("{KEPT}-{pod}"));
    let namespace = namespace.context("no demo is up; `cargo xtask demo --keep` leaves one up")?;
    let (program, arguments) = command.split_first().unwrap_or((&"sh", &[]));
    let mut launch = heddle_e2e::process::Launch::new(&namespace, *program, Rights::Harness)
        .args(arguments)
        .mount(folder.join("hosts"), "/etc/hosts")
        .mount(folder.join("resolv.conf"), "/etc/resolv.conf")
        .in_the_terminal();
    // The node has none.
    if let Some(container) = Container::existing(KEPT, &uid(KEPT, pod), cgroup::APP)? {
        launch = launch.container(&container);
    }
    launch.command()
}

/// Prefix of a kept demo's namespaces.
const KEPT: &str = "heddle-demo";
