//! The files of /etc by which a container finds names: hosts and resolv.conf. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::{Fault, Result};
use crate::protos::containers::Config;

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// /etc/hosts; `host` is the host's own, if the container is in its network.
pub(crate) fn hosts(config: &Config, hostname: &str, host: Option<String>) -> Result<String> {
    let own = match config.domainname.as_str() {
        "" => hostname.to_owned(),
        domain => format!("{hostname}.{domain} {hostname}"),
    };
    let mut text = host.unwrap_or_else(|| format!("{HOSTS}127.0.0.1\t{own}\n"));
    for word in &config.extra_hosts {
        let (name, address) = extra_host(word, &config.network)?;
        // Strings take what is written to them.
        writeln!(text, "{address}\t{name}").ok();
    }
    Ok(text)
}

/// Docker's `host-gateway` is how the host is reached, which is done from its own network only.
fn extra_host<'a>(word: &'a str, network: &str) -> Result<(&'a str, IpAddr)> {
    let wrong = || Fault::new(format!("extra host '{word}' is not NAME:ADDRESS"));
    let (name, address) = word.split_once([':', '=']).ok_or_else(wrong)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let address = match address {
        "host-gateway" if network == "host" => Ipv4Addr::LOCALHOST.into(),
        "host-gateway" => {
            return Err(Fault::new(format!(
                "extra host '{word}': without a network there is no way to the host; there is one with --network host"
            )));
        }
        address => bare.unwrap_or(address).parse().map_err(|_| wrong())?,
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((name, address))
}

/// /etc/resolv.conf: the host's, but for the kinds of lines that were asked for.
pub(crate) fn resolv_conf(config: &Config, host: &str) -> String {
    let replaced = |line: &&str| match line.split_whitespace().next() {
        Some("nameserver") => !config.dns.is_empty(),
        Some("search" | "domain") => !config.dns_search.is_empty(),
        Some("options") => !config.dns_options.is_empty(),
        _ => false,
    };
    let kept = host.lines().filter(|line| !replaced(line));
    let mut lines: Vec<String> = kept.map(str::to_owned).collect();
    lines.extend(config.dns.iter().map(|it| format!("nameserver {it}")));
    for (word, values) in [
        ("search", &config.dns_search),
        ("options", &config.dns_options),
    ] {
        let values: Vec<_> = values.iter().filter(|it| *it != ".").cloned().collect();
        if !values.is_empty() {
            lines.push(format!("{word} {}", values.join(" ")));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// What these files cannot have.
pub(crate) fn check(config: &Config) -> Result<()> {
    for word in &config.extra_hosts {
        extra_host(word, &config.network)?;
    }
    for server in &config.dns {
        if server.parse::<IpAddr>().is_err() {
            return Err(Fault::new(format!("{server} is not an IP address")));
        }
    }
    for word in config.dns_search.iter().chain(&config.dns_options) {
        if word.is_empty() || word.contains(char::is_whitespace) {
            return Err(Fault::new(format!(
                "'{word}' is no domain and no option of resolv.conf"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_the_hosts() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let host = "# c\nnameserver 1.1.1.1\nsearch a b\noptions edns0\n";
        let mut config = Config::default();
        assert_eq!(resolv_conf(&config, host), host);
        config.dns = words(&["9.9.9.9", "::1"]);
        assert_eq!(
            resolv_conf(&config, host),
            "# c\nsearch a b\noptions edns0\nnameserver 9.9.9.9\nnameserver ::1\n"
        );
        config.dns_search = words(&["."]);
        config.dns_options = words(&["ndots:2", "rotate"]);
        assert_eq!(
            resolv_conf(&config, host),
            "# c\nnameserver 9.9.9.9\nnameserver ::1\noptions ndots:2 rotate\n"
        );
        assert!(check(&config).is_ok());
        config.dns = words(&["ns.example"]);
        assert!(check(&config).is_err());
    }

    #[test]
    fn extra_hosts_are_docker_s() {
        let extra_host = |word| super::extra_host(word, "none");
        assert_eq!(extra_host("a:::1").unwrap(), ("a", "::1".parse().unwrap()));
        assert_eq!(extra_host("a=[::1]").unwrap(), extra_host("a:::1").unwrap());
        let gateway = super::extra_host("a:host-gateway", "host").unwrap();
        assert_eq!(gateway, ("a", Ipv4Addr::LOCALHOST.into()));
        for word in ["a", "a:b", ":1.1.1.1", "a b:1.1.1.1", "a:host-gateway"] {
            assert!(extra_host(word).is_err(), "{word}");
        }
    }
}
