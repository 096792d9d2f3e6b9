//! Turns a spec into a plan.

#[cfg_attr(not(test), expect(dead_code, reason = "the plan does not load filters yet"))]
mod seccomp;
