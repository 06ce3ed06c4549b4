//! The commands of `heddle-init`: what each does, what it prints, and its exit code.
#![forbid(unsafe_code)]

use anyhow::bail;
use clap::Parser;
use heddle_init::{
    agent, capture, cni,
    config::{Cli, Command},
    install::{self, Installer, options::InstallArgs},
    plan::{Flavour, Plan},
    report,
    verify::probe::{Outcome, probe, probe_programs},
    wait::Waiter,
};
use heddle_init_abi::PROBE_ADDRESSES;
use std::process::ExitCode;

fn main() -> ExitCode {
    if cni::is_called() {
        return cni::main();
    }
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Show(args) => {
            print!("{}", capture::plan(&args)?);
            Ok(())
        }
        Command::Apply(args) => apply(&capture::plan(&args)?),
        Command::Verify(args) => verify(&capture::plan(&args)?),
        Command::Undo(args) => undo(&capture::plan(&args)?),
        Command::Install(args) => install(&args),
        Command::Agent(args) => Ok(agent::run(&args)?),
    }
}

fn apply(plan: &Plan) -> anyhow::Result<()> {
    plan.notes.iter().for_each(|note| eprintln!("heddle-init: note: {note}"));
    capture::apply(plan)?;
    println!("in force and read back: {}", plan.flavour);
    Ok(())
}

fn verify(plan: &Plan) -> anyhow::Result<()> {
    let mut faults = capture::differences(plan)?;
    if faults.is_empty() {
        println!("what the kernel has is as planned: {}", plan.flavour);
    }
    let probe = if plan.flavour == Flavour::Programs { probe_programs } else { probe };
    for to in PROBE_ADDRESSES {
        match probe(to) {
            Ok(Outcome::CapturedByUs) => println!("{to}: a connection was captured, with its destination"),
            Ok(Outcome::CapturedByProxy) => {
                println!(
                    "{to}: a connection was captured; the proxy, which listens already, took it with its destination"
                );
            }
            Ok(Outcome::Refused) => {
                println!("{to}: a connection was captured, and refused, since the proxy does not listen");
            }
            Ok(Outcome::NoRoute(why)) => println!("{to}: not probed, the pod has no route to it ({why})"),
            Err(fault) => faults.push(report::chain(&fault)),
        }
    }
    if !faults.is_empty() {
        bail!("capture is not in force as planned:{}\n`heddle-init apply` puts it back", list(&faults));
    }
    Ok(())
}

fn undo(plan: &Plan) -> anyhow::Result<()> {
    capture::undo(plan)?;
    println!("nothing of ours is left");
    Ok(())
}

fn install(args: &InstallArgs) -> anyhow::Result<()> {
    let tell = |done: Vec<String>, nothing: &str| {
        done.iter().for_each(|done| println!("{done}"));
        if done.is_empty() {
            println!("{nothing}");
        }
    };
    if args.remove {
        tell(install::remove(&args.places, &args.node)?, "nothing of heddle-init was there");
        return Ok(());
    }
    let mut installer = Installer::new(&args.places, args.node.plugin()?);
    if args.watch {
        let mut waiter = Waiter::new()?;
        install::watch(&mut waiter, &args.places)?;
        install::keep_in_place(&mut installer, &waiter);
    } else {
        tell(installer.put_in_place()?, "everything is in place already");
    }
    Ok(())
}

fn list(sentences: &[String]) -> String {
    sentences.iter().map(|sentence| format!("\n  {sentence}")).collect()
}
