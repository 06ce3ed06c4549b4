//! The command `heddle-controller`: serve, `token`, `check`.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Parser;
use heddle_controller::{
    app,
    check::check,
    config::{Command, CommandLine, Config, ServeArgs, TokenArgs},
    state::StateFolder,
    token::{Caller, Tokens},
};
use std::{io::Write, path::Path, process::ExitCode};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let CommandLine { command, serve } = CommandLine::parse();
    let done = match command {
        None => run(serve).map(|()| ExitCode::SUCCESS),
        Some(Command::Token(args)) => token(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Check(args)) => report(&args.folder),
    };
    done.unwrap_or_else(|error| {
        // Nothing is left to be done when stderr is gone, too.
        let _ = writeln!(std::io::stderr(), "heddle-controller: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: ServeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level).context("--log-level")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let config = Config::try_from(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(app::run(config))?;
    Ok(())
}

fn token(args: TokenArgs) -> anyhow::Result<()> {
    let tokens = Tokens::open(&StateFolder::open(args.state)?)?;
    let caller = Caller { namespace: args.namespace, service_account: args.service_account, pod: args.pod };
    writeln!(std::io::stdout(), "{}", tokens.sign(&caller, args.ttl)?)?;
    Ok(())
}

fn report(folder: &Path) -> anyhow::Result<ExitCode> {
    let report = check(folder);
    let mut out = std::io::stdout().lock();
    for condition in &report.conditions {
        writeln!(out, "{condition}")?;
    }
    let mistakes = report.mistakes();
    if mistakes == 0 {
        writeln!(out, "{} objects in {} files, no mistake", report.objects, report.files)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(std::io::stderr(), "{mistakes} mistakes in {} files", report.files)?;
    Ok(ExitCode::FAILURE)
}
