//! `heddle-proxy`: the sidecar's arguments, and its exit code.

use clap::Parser;
use heddle_dataplane::{
    allocator, app,
    config::{Args, Config},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let config = match Config::try_from(Args::parse()) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(2);
        }
    };
    allocator::keep_freed_memory();
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
