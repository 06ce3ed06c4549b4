-- One line that the bench can read without knowing wrk's units. `latency` is in microseconds.
done = function(summary, latency, requests)
  io.write(string.format(
    "bench requests=%.0f duration_us=%.0f connect=%.0f read=%.0f write=%.0f timeout=%.0f status=%.0f p50_us=%.0f p99_us=%.0f\n",
    summary.requests, summary.duration, summary.errors.connect, summary.errors.read, summary.errors.write,
    summary.errors.timeout, summary.errors.status, latency:percentile(50), latency:percentile(99)))
end
