//! What the routers of a link say of resolvers, for as long as they say it is true (RFC 8106, 5.1).

use std::net::Ipv6Addr;
use std::time::Duration;

/// Of one link; those that were said first stay.
const KEPT_MAX: usize = 8;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertised {
    servers: Vec<(Ipv6Addr, Duration)>,
    domains: Vec<(String, Duration)>,
}

impl Advertised {
    pub fn servers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.servers.iter().map(|(server, _)| *server)
    }

    pub fn domains(&self) -> impl Iterator<Item = &String> {
        self.domains.iter().map(|(domain, _)| domain)
    }

    pub fn hear_servers(&mut self, servers: Vec<Ipv6Addr>, lifetime: Duration, now: Duration) {
        for server in servers {
            keep(&mut self.servers, server, lifetime, now);
        }
    }

    pub fn hear_domains(&mut self, domains: Vec<String>, lifetime: Duration, now: Duration) {
        for domain in domains {
            keep(&mut self.domains, domain, lifetime, now);
        }
    }

    /// Forgets what is no longer true.
    pub fn expire(&mut self, now: Duration) {
        self.servers.retain(|(_, until)| *until > now);
        self.domains.retain(|(_, until)| *until > now);
    }

    pub fn deadline(&self) -> Option<Duration> {
        let servers = self.servers.iter().map(|(_, until)| *until);
        servers.chain(self.domains.iter().map(|(_, until)| *until)).min()
    }
}

/// No time at all takes a value back.
fn keep<T: PartialEq>(values: &mut Vec<(T, Duration)>, value: T, lifetime: Duration, now: Duration) {
    let until = now.saturating_add(lifetime);
    if let Some((_, known)) = values.iter_mut().find(|(known, _)| *known == value) {
        *known = until;
    } else if values.len() < KEPT_MAX {
        values.push((value, until));
    }
    values.retain(|(_, until)| *until > now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_is_true_for_its_time() {
        let second = Duration::from_secs;
        let server: Ipv6Addr = "fd00::1".parse().unwrap();
        let mut advertised = Advertised::default();
        advertised.hear_servers(vec![server], second(10), second(100));
        advertised.hear_domains(vec!["test".to_owned()], second(30), second(100));
        assert_eq!(advertised.deadline(), Some(second(110)));
        advertised.hear_servers(vec![server], second(10), second(105));
        advertised.expire(second(112));
        assert_eq!(advertised.servers().count(), 1, "prolonged");
        advertised.hear_servers(vec![server], Duration::ZERO, second(112));
        assert_eq!(advertised.servers().count(), 0, "taken back");
        advertised.expire(second(130));
        assert_eq!(advertised, Advertised::default());
    }

    #[test]
    fn no_router_makes_the_list_long() {
        let mut advertised = Advertised::default();
        for number in 0..100 {
            advertised.hear_servers(vec![Ipv6Addr::from(number)], Duration::from_secs(9), Duration::ZERO);
        }
        assert_eq!(advertised.servers().count(), KEPT_MAX);
        assert_eq!(advertised.servers().next(), Some(Ipv6Addr::from(0)));
    }
}
