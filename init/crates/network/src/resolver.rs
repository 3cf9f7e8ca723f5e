//! The resolver file, resolv.conf(5), which every process and, through kubelet, every pod reads.

use std::net::IpAddr;

/// glibc asks no more than three servers (`MAXNS`), and kubelet complains of more.
const NAMESERVERS_MAX: usize = 3;
/// The classic limit; pods add three domains of their own.
const SEARCH_MAX: usize = 6;

/// Keeps the first of equals and as many as are of use.
pub fn limit<T: PartialEq>(values: impl IntoIterator<Item = T>, most: usize) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if kept.len() < most && !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

pub fn nameservers(servers: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    limit(servers, NAMESERVERS_MAX)
}

pub fn search(domains: impl IntoIterator<Item = String>) -> Vec<String> {
    limit(domains, SEARCH_MAX)
}

/// The file's text.
pub fn text(nameservers: &[IpAddr], search: &[String]) -> String {
    let mut lines = vec!["# Written by keelson-network.".to_owned()];
    lines.extend(nameservers.iter().map(|server| format!("nameserver {server}")));
    if !search.is_empty() {
        lines.push(format!("search {}", search.join(" ")));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_glibc_reads() {
        let servers = ["10.0.0.1", "10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3"].map(|text| text.parse().unwrap());
        let servers = nameservers(servers);
        assert_eq!(
            text(&servers, &search(["a.example".to_owned(), "a.example".to_owned()])),
            "# Written by keelson-network.\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver 10.0.0.2\nsearch a.example\n"
        );
        assert_eq!(text(&[], &[]), "# Written by keelson-network.\n");
    }
}
