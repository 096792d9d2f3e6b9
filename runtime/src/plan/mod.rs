//! Turns a spec into a plan.
