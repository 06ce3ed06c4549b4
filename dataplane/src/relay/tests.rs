//! The idle deadline, by a clock that is moved.

use super::*;
use std::{
    future::poll_fn,
    task::{Poll, Waker},
};
use tokio::time::{Instant, advance};

const IDLE: Duration = Duration::from_secs(400);

/// Whether the timer fires when it is told of traffic or silence now.
fn fires(timer: &mut IdleTimer, active: bool) -> bool {
    timer.poll(&mut std::task::Context::from_waker(Waker::noop()), active).is_ready()
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_after_one_to_one_and_a_quarter() {
    for traffic_until_s in [0, 1, 50, 99, 100, 101, 399, 1000] {
        let mut timer = IdleTimer::new(IDLE);
        let start = Instant::now();
        let mut last = start;
        while last.duration_since(start).as_secs() < traffic_until_s {
            advance(Duration::from_secs(1)).await;
            last = Instant::now();
            assert!(!fires(&mut timer, true), "traffic keeps it");
        }
        let error = poll_fn(|cx| timer.poll(cx, false)).await;
        assert!(matches!(error, RelayError::IdleTimeout(IDLE)));
        let silent = last.elapsed();
        assert!(IDLE <= silent && silent <= IDLE * 5 / 4 + Duration::from_secs(1), "{silent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn seldom_traffic_keeps_it_for_ever() {
    let mut timer = IdleTimer::new(IDLE);
    for _ in 0..100 {
        advance(Duration::from_secs(390)).await;
        assert!(!fires(&mut timer, true));
        assert!(!fires(&mut timer, false));
    }
    assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, false))).await.is_pending());
}

#[test]
fn errors_name_the_side_and_how() {
    let of = |kind: std::io::ErrorKind| RelayError::socket(Side::Near, kind.into());
    assert!(matches!(of(std::io::ErrorKind::ConnectionReset), RelayError::Reset(Side::Near)));
    assert!(matches!(of(std::io::ErrorKind::BrokenPipe), RelayError::ClosedEarly(Side::Near)));
    assert!(matches!(of(std::io::ErrorKind::TimedOut), RelayError::Socket { side: Side::Near, .. }));
    assert_eq!(of(std::io::ErrorKind::TimedOut).side(), Some(Side::Near));
    assert_eq!(RelayError::IdleTimeout(IDLE).side(), None);
}
