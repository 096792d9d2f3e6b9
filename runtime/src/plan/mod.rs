//! Turns a spec into a plan.

pub(crate) mod cgroup;
pub(crate) mod device_filter;
pub(crate) mod limits;
