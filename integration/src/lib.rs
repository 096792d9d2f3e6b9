//! The test harness: bundles, runtimes and containers as values.
