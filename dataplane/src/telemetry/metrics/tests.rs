//! The metrics' text, as a scraper sees it.

use super::*;

#[test]
fn a_connection_is_counted_from_its_beginning_to_its_end() {
    let metrics = Metrics::new();
    metrics.captured(Direction::Outbound);
    metrics.opened(Direction::Outbound);
    check(&metrics, &["heddle_connections_active{direction=\"outbound\"} 1"]);
    metrics.closed(Direction::Outbound, Flag::PolicyDenied, 10, 20);
    check(
        &metrics,
        &[
            "heddle_captured_connections_total{direction=\"outbound\"} 1",
            "heddle_captured_connections_total{direction=\"inbound\"} 0",
            "heddle_connections_opened_total{direction=\"outbound\"} 1",
            "heddle_connections_active{direction=\"outbound\"} 0",
            "heddle_connections_closed_total{direction=\"outbound\",reason=\"policy_denied\"} 1",
            "heddle_connections_closed_total{direction=\"inbound\",reason=\"policy_denied\"} 0",
            "heddle_bytes_total{direction=\"outbound\",way=\"sent\"} 10",
            "heddle_bytes_total{direction=\"outbound\",way=\"received\"} 20",
        ],
    );
}

#[test]
fn what_the_kernel_says_is_counted_by_direction_and_side() {
    let metrics = Metrics::new();
    let sample = TcpSample {
        rtt_us: Some(80),
        retransmits: Some(2),
        bytes_retransmitted: Some(2896),
        bytes_acked: Some(5000),
        bytes_received: Some(700),
        ..TcpSample::default()
    };
    metrics.tcp(Direction::Outbound, TcpSide::Upstream, &sample);
    // An old kernel's: nothing is counted that it does not say.
    metrics.tcp(Direction::Outbound, TcpSide::Upstream, &TcpSample::default());
    check(
        &metrics,
        &[
            "heddle_tcp_rtt_seconds_bucket{le=\"0.00005\",direction=\"outbound\",side=\"upstream\"} 0",
            "heddle_tcp_rtt_seconds_bucket{le=\"0.0001\",direction=\"outbound\",side=\"upstream\"} 1",
            "heddle_tcp_rtt_seconds_count{direction=\"outbound\",side=\"upstream\"} 1",
            "heddle_tcp_rtt_seconds_count{direction=\"outbound\",side=\"downstream\"} 0",
            "heddle_tcp_retransmitted_segments_total{direction=\"outbound\",side=\"upstream\"} 2",
            "heddle_tcp_retransmitted_bytes_total{direction=\"outbound\",side=\"upstream\"} 2896",
            "heddle_tcp_acked_bytes_total{direction=\"outbound\",side=\"upstream\"} 5000",
            "heddle_tcp_received_bytes_total{direction=\"outbound\",side=\"upstream\"} 700",
            "heddle_tcp_received_bytes_total{direction=\"inbound\",side=\"downstream\"} 0",
        ],
    );
}

#[test]
fn every_flag_has_a_series_of_its_own() {
    let metrics = Metrics::new();
    for flag in Flag::ALL {
        metrics.opened(Direction::Inbound);
        metrics.closed(Direction::Inbound, flag, 0, 0);
    }
    let closed =
        |flag: Flag| format!("heddle_connections_closed_total{{direction=\"inbound\",reason=\"{}\"}} 1", flag.code());
    let wanted: Vec<String> = Flag::ALL.into_iter().map(closed).collect();
    check(&metrics, &wanted.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_rest_is_counted_too() {
    let metrics = Metrics::new();
    metrics.accept_trouble(AcceptTrouble::Overloaded);
    metrics.accept_trouble(AcceptTrouble::Failed);
    metrics.access_log_dropped();
    metrics.dry_run_denied(2);
    metrics.panicked();
    let open = metrics.carrier(Direction::Outbound);
    metrics.handshake(Direction::Outbound, true);
    metrics.handshake(Direction::Inbound, false);
    metrics.certificate_renewed(true);
    metrics.certificate_renewed(false);
    metrics.certificate_expiry(Some(UNIX_EPOCH + std::time::Duration::from_secs(1_000)));
    metrics.controller_connected(true);
    metrics.config_revision(7);
    check(
        &metrics,
        &[
            "heddle_accept_errors_total{kind=\"overloaded\"} 1",
            "heddle_accept_errors_total{kind=\"failed\"} 1",
            "heddle_access_log_dropped_total 1",
            "heddle_policy_denials_dry_run_total 2",
            "heddle_panics_total 1",
            "heddle_hbone_connections_active{direction=\"outbound\"} 1",
            "heddle_hbone_handshakes_total{direction=\"outbound\",result=\"ok\"} 1",
            "heddle_hbone_handshakes_total{direction=\"inbound\",result=\"failed\"} 1",
            "heddle_certificate_renewals_total{result=\"ok\"} 1",
            "heddle_certificate_renewals_total{result=\"failed\"} 1",
            "heddle_certificate_expiry_timestamp_seconds 1000",
            "heddle_controller_connected 1",
            "heddle_config_age_seconds 0.0",
            "heddle_config_revision 7",
        ],
    );
    metrics.certificate_expiry(None);
    drop(open);
    metrics.controller_connected(false);
    check(
        &metrics,
        &[
            "heddle_certificate_expiry_timestamp_seconds 0",
            "heddle_hbone_connections_active{direction=\"outbound\"} 0",
            "heddle_controller_connected 0",
        ],
    );
}

/// Hazard R6: whatever clients do, the number of series stays what it was at the start.
#[test]
fn the_number_of_series_is_fixed() {
    let metrics = Metrics::new();
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let before = series(&metrics.encode());
    for flag in Flag::ALL {
        for direction in Direction::ALL {
            metrics.opened(direction);
            metrics.closed(direction, flag, 1, 1);
            for side in TcpSide::ALL {
                metrics.tcp(direction, side, &TcpSample { rtt_us: Some(1), ..TcpSample::default() });
            }
        }
    }
    assert_eq!(series(&metrics.encode()), before);
    assert!(before < 200, "{before} series");
}

#[test]
fn the_process_describes_itself() {
    let text = Metrics::new().encode();
    for name in
        ["process_start_time_seconds", "process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

fn check(metrics: &Metrics, wanted: &[&str]) {
    let text = metrics.encode();
    for line in wanted {
        assert!(text.lines().any(|has| has == *line), "{line} is missing in\n{text}");
    }
}
