//! Idle connections: opens many, uses each once, holds them, and tells what each costs the proxies' heaps.

use crate::{
    bed::Bed,
    http,
    proc::{self, Memory},
    web,
};
use anyhow::{Context, Result};
use std::time::Duration;

/// Connections held at the same time.
pub(crate) const CONNECTIONS: usize = 2000;

/// Time in which a proxy may give back what the one request needed.
const SETTLE: Duration = Duration::from_secs(3);

/// Growth of anonymous memory in each of `proxies` for each held connection, in KiB.
pub(crate) fn kib_per_connection(bed: &Bed, proxies: [u32; 2]) -> Result<[f64; 2]> {
    let before = anonymous_kib(proxies)?;
    let held = bed.client.run(|| {
        (0..CONNECTIONS)
            .map(|number| {
                let mut stream = http::connect(bed.application())?;
                http::get_all(&mut stream, web::SMALL)
                    .with_context(|| format!("connection {} of {CONNECTIONS}", number + 1))?;
                Ok(stream)
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut held = held.with_context(|| format!("{}: hold idle connections", bed.subject))?;
    proc::pause(SETTLE);
    let after = anonymous_kib(proxies)?;
    // Held to the end: each connection still answers.
    for stream in &mut held {
        http::get_all(stream, web::SMALL).with_context(|| format!("{}: an idle connection was lost", bed.subject))?;
    }
    Ok([0, 1].map(|side: usize| (after[side] - before[side]) / CONNECTIONS as f64))
}

fn anonymous_kib(proxies: [u32; 2]) -> Result<[f64; 2]> {
    let [client, server] = proxies;
    Ok([Memory::of(client)?.anonymous_kib as f64, Memory::of(server)?.anonymous_kib as f64])
}
