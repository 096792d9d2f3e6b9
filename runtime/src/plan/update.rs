//! What `update` does: the resources that a container has, and those that are given, into the ones that it has from then on and the
//! files that have to be written for that.
//!
//! Pure. A field that is not given keeps its value. Only what is given is written, so that what somebody else has set in the group
//! stays, together with the fields that share a file with it (quota and period) or that make sense only together (memory and swap).
//! Rules are runc's, except that the device rules can change too.

use super::device_filter::{DeviceFilter, device_filter};
use super::limits::{Limits, limits};
use crate::report::Result;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice,
    LinuxWeightDevice,
};

/// A change of a container's resources.
#[derive(Debug)]
pub(crate) struct Update {
    /// What the container has when the change is done.
    pub(crate) resources: LinuxResources,
    pub(crate) limits: Limits,
    pub(crate) shrink: Shrink,
    /// Absent if the rules stay as they are. Engines repeat those of the config, and some add to the filter behind our back.
    pub(crate) devices: Option<DeviceChange>,
}

/// How memory.max gets below what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shrink {
    /// By reclaiming, and if that does not suffice, not at all.
    Reclaim,
    /// At once; the kernel kills what does not fit.
    Kill,
}

/// A device filter and the one it replaces.
#[derive(Debug)]
pub(crate) struct DeviceChange {
    pub(crate) new: DeviceFilter,
    pub(crate) old: DeviceFilter,
}

/// Plans the change. `force` accepts that processes are killed for a lower memory limit, and so does `checkBeforeUpdate: false`, which
/// is how an engine says it. `true` is the specification's check: no attempt to reclaim.
pub(crate) fn update(
    current: &LinuxResources,
    given: &LinuxResources,
    force: bool,
) -> Result<Update> {
    let mut resources = current.clone();
    let mut written = given.clone();
    let mut shrink = Shrink::Reclaim;
    if let Some(given) = given.memory() {
        let (memory, write) = memory(current.memory().unwrap_or_default(), *given, force);
        if force || memory.check_before_update() == Some(false) {
            shrink = Shrink::Kill;
        }
        resources.set_memory(Some(memory));
        written.set_memory(Some(write));
    }
    if let Some(given) = given.cpu() {
        let (cpu, write) = cpu(current.cpu().clone().unwrap_or_default(), given);
        resources.set_cpu(Some(cpu));
        written.set_cpu(Some(write));
    }
    if let Some(given) = given.block_io() {
        let current = current.block_io().clone().unwrap_or_default();
        resources.set_block_io(Some(block_io(current, given)));
    }
    if given.pids().is_some() {
        resources.set_pids(*given.pids());
    }
    if let Some(given) = given.hugepage_limits() {
        let same = |a: &LinuxHugepageLimit, b: &LinuxHugepageLimit| a.page_size() == b.page_size();
        resources.set_hugepage_limits(replace(current.hugepage_limits(), given, same));
    }
    if let Some(given) = given.rdma() {
        let devices = resources.rdma_mut().get_or_insert_default();
        devices.extend(given.iter().map(|(name, limit)| (name.clone(), *limit)));
    }
    if let Some(given) = given.unified() {
        let files = resources.unified_mut().get_or_insert_default();
        files.extend(given.clone());
    }
    wake(current, given, &mut resources, &mut written);
    let devices = devices(current, given)?;
    if devices.is_some() {
        resources.set_devices(given.devices().clone());
    }
    Ok(Update {
        resources,
        limits: limits(&written)?,
        shrink,
        devices,
    })
}

/// What is had from then on, and what is written.
fn memory(current: LinuxMemory, mut given: LinuxMemory, force: bool) -> (LinuxMemory, LinuxMemory) {
    let set = |amount: Option<i64>| amount.filter(|n| *n != 0);
    if given.limit() == Some(-1) && set(given.swap()).is_none() {
        // On v1, lifting the memory limit lifted that of swap too.
        given.set_swap(Some(-1));
    }
    let mut memory = current;
    let limit = set(given.limit()).or(current.limit());
    let swap = set(given.swap()).or(current.swap());
    let check = given
        .check_before_update()
        .or(current.check_before_update());
    memory
        .set_limit(limit)
        .set_swap(swap)
        .set_reservation(set(given.reservation()).or(current.reservation()))
        .set_check_before_update(check);
    let mut write = given;
    if set(given.limit()).is_some() || set(given.swap()).is_some() {
        write.set_limit(limit).set_swap(swap);
    }
    write.set_check_before_update(check.filter(|_| !force));
    (memory, write)
}

fn cpu(current: LinuxCpu, given: &LinuxCpu) -> (LinuxCpu, LinuxCpu) {
    let text = |given: &Option<String>, current: &Option<String>| {
        given
            .clone()
            .filter(|text| !text.is_empty())
            .or(current.clone())
    };
    // As with runc, 0 is none; -1 takes the quota away.
    let quota = given
        .quota()
        .filter(|quota| *quota != 0)
        .or(current.quota());
    let period = given
        .period()
        .filter(|period| *period != 0)
        .or(current.period());
    let mut shares = given.shares().or(current.shares());
    let is_idle = |cpu: &LinuxCpu| cpu.idle() == Some(1);
    if given.idle().is_some() && given.shares().is_none() && (is_idle(given) || is_idle(&current)) {
        // An idle group has no weight that could be set, and one that is not idle any more has the default.
        shares = None;
    }
    let mut cpu = current.clone();
    cpu.set_quota(quota)
        .set_period(period)
        .set_burst(given.burst().or(current.burst()))
        .set_shares(shares)
        .set_idle(given.idle().or(current.idle()))
        .set_cpus(text(given.cpus(), current.cpus()))
        .set_mems(text(given.mems(), current.mems()));
    let mut write = given.clone();
    if given.quota().is_some() || given.period().is_some() {
        write.set_quota(quota).set_period(period);
    }
    (cpu, write)
}

/// Who gives an idle group a weight does not want it idle any longer; the kernel would refuse the weight.
fn wake(
    current: &LinuxResources,
    given: &LinuxResources,
    resources: &mut LinuxResources,
    written: &mut LinuxResources,
) {
    fn file<'a>(of: &'a LinuxResources, name: &str) -> Option<&'a String> {
        of.unified().as_ref()?.get(name)
    }
    let field = |of: &LinuxResources| of.cpu().as_ref().and_then(LinuxCpu::idle);
    let is_idle = match file(current, "cpu.idle") {
        Some(idle) => idle.trim() == "1",
        None => field(current) == Some(1),
    };
    let shares = given.cpu().as_ref().and_then(LinuxCpu::shares);
    let weight = file(given, "cpu.weight").or_else(|| file(given, "cpu.weight.nice"));
    let weighs = shares.is_some_and(|shares| shares != 0) || weight.is_some();
    if !is_idle || !weighs || field(given).is_some() || file(given, "cpu.idle").is_some() {
        return;
    }
    if let Some(files) = resources.unified_mut() {
        files.remove("cpu.idle");
    }
    for of in [resources, written] {
        of.cpu_mut().get_or_insert_default().set_idle(Some(0));
    }
}

fn block_io(current: LinuxBlockIo, given: &LinuxBlockIo) -> LinuxBlockIo {
    type Rates<'a> = &'a Option<Vec<LinuxThrottleDevice>>;
    let rates = |current: Rates<'_>, given: Rates<'_>| {
        let same = |a: &LinuxThrottleDevice, b: &LinuxThrottleDevice| {
            (a.major(), a.minor()) == (b.major(), b.minor())
        };
        replace(current, given.as_deref().unwrap_or_default(), same)
    };
    let same = |a: &LinuxWeightDevice, b: &LinuxWeightDevice| {
        (a.major(), a.minor()) == (b.major(), b.minor())
    };
    let weights = given.weight_device().as_deref().unwrap_or_default();
    let mut block_io = LinuxBlockIo::default();
    block_io
        .set_weight(given.weight().or(current.weight()))
        .set_leaf_weight(given.leaf_weight().or(current.leaf_weight()))
        .set_weight_device(replace(current.weight_device(), weights, same))
        .set_throttle_read_bps_device(rates(
            current.throttle_read_bps_device(),
            given.throttle_read_bps_device(),
        ))
        .set_throttle_write_bps_device(rates(
            current.throttle_write_bps_device(),
            given.throttle_write_bps_device(),
        ))
        .set_throttle_read_iops_device(rates(
            current.throttle_read_iops_device(),
            given.throttle_read_iops_device(),
        ))
        .set_throttle_write_iops_device(rates(
            current.throttle_write_iops_device(),
            given.throttle_write_iops_device(),
        ));
    block_io
}

/// The list with the new entries in place of those that are about the same thing.
fn replace<T: Clone>(
    current: &Option<Vec<T>>,
    given: &[T],
    same: impl Fn(&T, &T) -> bool,
) -> Option<Vec<T>> {
    let mut list = current.clone().unwrap_or_default();
    list.retain(|old| !given.iter().any(|new| same(old, new)));
    list.extend_from_slice(given);
    (!list.is_empty()).then_some(list)
}

/// A list without anything new takes nothing away: engines send their own with every update, which may lack what was added to the container's
/// config after them (the GPUs of nvidia-container-runtime). Who wants to take something away says so by a rule.
fn devices(current: &LinuxResources, given: &LinuxResources) -> Result<Option<DeviceChange>> {
    let old = current.devices().as_deref().unwrap_or_default();
    let has_news = |new: &&[_]| new.iter().any(|rule| !old.contains(rule));
    let Some(new) = given.devices().as_deref().filter(has_news) else {
        return Ok(None);
    };
    Ok(Some(DeviceChange {
        new: device_filter(new)?,
        old: device_filter(old)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::limits::Write;

    fn plan(current: &str, given: &str) -> Update {
        let parse = |text: &str| serde_json::from_str(text).expect("test resources are valid JSON");
        update(&parse(current), &parse(given), false).expect("the update is accepted")
    }

    fn writes(current: &str, given: &str) -> Vec<String> {
        let text = |w: &Write| format!("{}={}", w.file, w.value);
        plan(current, given)
            .limits
            .writes
            .iter()
            .map(text)
            .collect()
    }

    fn after(current: &str, given: &str) -> serde_json::Value {
        serde_json::to_value(plan(current, given).resources).unwrap()
    }

    #[test]
    fn a_quota_or_period_of_zero_is_none() {
        let current = r#"{"cpu":{"quota":50000,"period":100000}}"#;
        for given in [
            r#"{"cpu":{"quota":0,"period":200000}}"#,
            r#"{"cpu":{"period":200000}}"#,
        ] {
            assert_eq!(writes(current, given), ["cpu.max=50000 200000"], "{given}");
            assert_eq!(after(current, given)["cpu"]["quota"], 50000, "{given}");
        }
        let given = r#"{"cpu":{"quota":60000,"period":0}}"#;
        assert_eq!(writes(current, given), ["cpu.max=60000 100000"]);
    }

    #[test]
    fn only_what_is_given_is_written_and_the_rest_is_kept() {
        let current = r#"{"memory":{"limit":100,"reservation":50},"pids":{"limit":9},"cpu":{"shares":512,"cpus":"0"}}"#;
        assert_eq!(writes(current, r#"{"pids":{"limit":7}}"#), ["pids.max=7"]);
        assert_eq!(
            after(
                current,
                r#"{"pids":{"limit":7},"memory":{"limit":200},"cpu":{"cpus":""}}"#
            ),
            serde_json::json!({"memory":{"limit":200,"reservation":50},"pids":{"limit":7},"cpu":{"shares":512,"cpus":"0"}})
        );
        assert_eq!(writes(current, "{}"), [] as [&str; 0]);
        assert_eq!(
            writes(current, r#"{"memory":{},"cpu":{},"blockIO":{}}"#),
            [] as [&str; 0]
        );
    }

    #[test]
    fn quota_and_period_are_written_together() {
        let current = r#"{"cpu":{"quota":500000,"period":1000000}}"#;
        assert_eq!(
            writes(current, r#"{"cpu":{"period":900000}}"#),
            ["cpu.max=500000 900000"]
        );
        assert_eq!(
            writes(current, r#"{"cpu":{"quota":600000}}"#),
            ["cpu.max=600000 1000000"]
        );
        assert_eq!(
            writes(current, r#"{"cpu":{"quota":-1}}"#),
            ["cpu.max=max 1000000"]
        );
        assert_eq!(
            writes("{}", r#"{"cpu":{"quota":600000}}"#),
            ["cpu.max=600000 100000"]
        );
        assert_eq!(
            writes(current, r#"{"cpu":{"burst":5}}"#),
            ["cpu.max.burst=5"]
        );
    }

    #[test]
    fn memory_and_swap_are_counted_together() {
        let current = r#"{"memory":{"limit":100,"swap":300}}"#;
        assert_eq!(
            writes(current, r#"{"memory":{"limit":150}}"#),
            ["memory.swap.max=150", "memory.max=150"]
        );
        assert_eq!(
            writes(current, r#"{"memory":{"swap":100}}"#),
            ["memory.swap.max=0", "memory.max=100"]
        );
        assert_eq!(
            writes(r#"{"memory":{"limit":100}}"#, r#"{"memory":{"limit":90}}"#),
            ["memory.max=90"]
        );
        let parse = |text: &str| serde_json::from_str(text).unwrap();
        let below = update(
            &parse(current),
            &parse(r#"{"memory":{"limit":400}}"#),
            false,
        );
        assert!(below.unwrap_err().to_string().contains("below"));
        let alone = update(&parse("{}"), &parse(r#"{"memory":{"swap":400}}"#), false);
        assert!(
            alone
                .unwrap_err()
                .to_string()
                .contains("needs a memory limit")
        );
    }

    #[test]
    fn lifting_the_memory_limit_lifts_that_of_swap() {
        let current = r#"{"memory":{"limit":100,"swap":300}}"#;
        let lift = r#"{"memory":{"limit":-1}}"#;
        assert_eq!(
            writes(current, lift),
            ["memory.swap.max=max", "memory.max=max"]
        );
        assert_eq!(
            after(current, lift)["memory"],
            serde_json::json!({"limit":-1,"swap":-1})
        );
    }

    #[test]
    fn idle_and_shares_exclude_each_other_and_the_last_word_counts() {
        let shares = r#"{"cpu":{"shares":512}}"#;
        let idle = r#"{"cpu":{"idle":1}}"#;
        assert_eq!(writes(shares, idle), ["cpu.idle=1"]);
        assert_eq!(after(shares, idle)["cpu"], serde_json::json!({"idle":1}));
        assert_eq!(writes(idle, shares), ["cpu.idle=0", "cpu.weight=59"]);
        let (idles, weighs) = (
            r#"{"unified":{"cpu.idle":"1"}}"#,
            r#"{"unified":{"cpu.weight":"8"}}"#,
        );
        for (current, given, weight) in [(idle, weighs, 8), (idles, weighs, 8), (idles, shares, 59)]
        {
            let expected = ["cpu.idle=0".to_owned(), format!("cpu.weight={weight}")];
            assert_eq!(writes(current, given), expected);
            assert_eq!(after(current, given)["cpu"]["idle"], 0);
            assert!(after(current, given).pointer("/unified/cpu.idle").is_none());
        }
        assert_eq!(writes(shares, weighs), ["cpu.weight=8"]);
        assert_eq!(
            after(idle, shares)["cpu"],
            serde_json::json!({"idle":0,"shares":512})
        );
        assert_eq!(
            writes(shares, r#"{"cpu":{"shares":1024}}"#),
            ["cpu.weight=100"]
        );
    }

    #[test]
    fn lists_are_changed_entry_by_entry() {
        let current = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":2}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":1}],"unified":{"memory.high":"5"}}"#;
        let given = r#"{"blockIO":{"weight":20,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]},
            "hugepageLimits":[{"pageSize":"1GB","limit":2}],"unified":{"cgroup.max.depth":"3"}}"#;
        let after = after(current, given);
        assert_eq!(
            after["blockIO"],
            serde_json::json!({"weight":20,"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":2},{"major":8,"minor":0,"rate":9}]})
        );
        assert_eq!(after["hugepageLimits"].as_array().unwrap().len(), 2);
        assert_eq!(
            after["unified"],
            serde_json::json!({"memory.high":"5","cgroup.max.depth":"3"})
        );
        assert!(writes(current, given).contains(&"io.max=8:0 rbps=9".to_owned()));
        assert!(!writes(current, given).iter().any(|w| w.contains("8:1")));
    }

    #[test]
    fn the_device_filter_changes_only_with_the_rules() {
        let rules = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
        assert!(plan(rules, rules).devices.is_none());
        assert!(plan(rules, r#"{"pids":{"limit":5}}"#).devices.is_none());
        let more = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#;
        let change = plan(rules, more).devices.expect("the rules differ");
        assert_ne!(change.new, change.old);
        assert_eq!(after(rules, more)["devices"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn whether_processes_are_killed_is_for_the_user_to_say() {
        let parse = |text: &str| serde_json::from_str(text).unwrap();
        let shrink = |current: &str, given: &str, force| {
            let update = update(&parse(current), &parse(given), force).unwrap();
            (update.shrink, update.limits.memory_check.is_some())
        };
        let less = r#"{"memory":{"limit":5}}"#;
        assert_eq!(shrink("{}", less, false), (Shrink::Reclaim, false));
        assert_eq!(shrink("{}", less, true), (Shrink::Kill, false));
        let unchecked = r#"{"memory":{"limit":5,"checkBeforeUpdate":false}}"#;
        assert_eq!(shrink("{}", unchecked, false), (Shrink::Kill, false));
        let checked = r#"{"memory":{"checkBeforeUpdate":true}}"#;
        assert_eq!(shrink(checked, less, false), (Shrink::Reclaim, true));
        assert_eq!(shrink(checked, less, true), (Shrink::Kill, false));
    }
}
