//! Limits. Pure.

use protobuf::MessageField;
use serde_json::{Value, json};

use super::{Fault, Result};
use crate::protos::containers::Resources;

/// A limit of a block device.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) rate: u64,
}

/// The limits of block devices whose numbers have been looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) read_bps: Vec<Rate>,
    pub(crate) write_bps: Vec<Rate>,
    pub(crate) read_iops: Vec<Rate>,
    pub(crate) write_iops: Vec<Rate>,
}

/// The kernel's default period.
const PERIOD: i64 = 100_000;
/// What the smallest container needs to come up.
const LEAST_MEMORY: i64 = 512 << 10;

/// `linux.resources`, without devices.
pub(crate) fn resources(asked: &MessageField<Resources>, rates: &Rates) -> Result<Value> {
    let mut made = json!({});
    let Some(asked) = asked.as_ref() else {
        return Ok(made);
    };
    let mut cpu = json!({});
    if asked.nano_cpus < 0 {
        return Err(Fault::new("the number of CPUs cannot be negative"));
    }
    if asked.nano_cpus > 0 {
        cpu["period"] = json!(PERIOD);
        cpu["quota"] = json!(asked.nano_cpus / (1_000_000_000 / PERIOD));
    }
    number(&mut cpu, "period", asked.cpu_period);
    number(&mut cpu, "quota", asked.cpu_quota);
    if asked.cpu_shares != 0 {
        cpu["shares"] = json!(asked.cpu_shares);
    }
    for (name, set) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if !set.is_empty() {
            cpu[name] = json!(set);
        }
    }
    put(&mut made, "cpu", cpu);
    put(&mut made, "memory", memory(asked)?);
    if asked.pids_limit != 0 {
        made["pids"] = json!({ "limit": asked.pids_limit });
    }
    let mut io = json!({});
    if asked.blkio_weight != 0 {
        io["weight"] = json!(asked.blkio_weight);
    }
    for (name, rates) in [
        ("throttleReadBpsDevice", &rates.read_bps),
        ("throttleWriteBpsDevice", &rates.write_bps),
        ("throttleReadIOPSDevice", &rates.read_iops),
        ("throttleWriteIOPSDevice", &rates.write_iops),
    ] {
        let rates = rates
            .iter()
            .map(|rate| json!({ "major": rate.major, "minor": rate.minor, "rate": rate.rate }));
        put(&mut io, name, rates.collect());
    }
    put(&mut made, "blockIO", io);
    Ok(made)
}

/// `swap` of the specification is memory and swap together, as Docker's option; without it there is as much swap again.
fn memory(asked: &Resources) -> Result<Value> {
    let mut memory = json!({});
    if asked.memory == 0 {
        if asked.memory_swap > 0 {
            return Err(Fault::new("a limit of memory and swap needs one of memory"));
        }
        number(&mut memory, "reservation", asked.memory_reservation);
        return Ok(memory);
    }
    if asked.memory < LEAST_MEMORY {
        return Err(Fault::new("the least memory limit is 512k"));
    }
    let swap = match asked.memory_swap {
        0 => asked.memory.saturating_mul(2),
        swap => swap,
    };
    if swap != -1 && swap < asked.memory {
        return Err(Fault::new(
            "the limit of memory and swap is below that of memory",
        ));
    }
    memory["limit"] = json!(asked.memory);
    memory["swap"] = json!(swap);
    number(&mut memory, "reservation", asked.memory_reservation);
    Ok(memory)
}

fn number(into: &mut Value, name: &str, value: i64) {
    if value != 0 {
        into[name] = json!(value);
    }
}

fn put(into: &mut Value, name: &str, value: Value) {
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty);
    if !empty {
        into[name] = value;
    }
}
