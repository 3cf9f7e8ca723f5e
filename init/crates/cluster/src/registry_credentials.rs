//! The operator's credentials for container registries, as PID 1 hands them over: user name and password by the registry's
//! host. They come with the configuration at each boot and are on no disk.
//!
//! Whoever talks to a host is given what is for that host, and nothing else. containerd has those of mirrors, and of
//! registries that have mirrors, in its registry drop-ins ([`crate::container_runtime`]). All others kubelet sends with each
//! pull, by the registry that the image names ([`crate::kubernetes`]): what it sends containerd offers to that registry's
//! mirrors too, so a registry that has mirrors is not among them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_config::{REGISTRY_CREDENTIALS_PATH, RegistryMirror};
use keelson_pki::{Files, FilesError};

use crate::paths::Paths;

#[derive(Debug, thiserror::Error)]
pub enum RegistryCredentialsError {
    #[error(transparent)]
    Files(#[from] FilesError),
    // The cause is not shown: it may quote what it could not read.
    #[error("the credentials of registries are malformed")]
    Form,
}

#[derive(Default)]
pub struct RegistryCredentials(BTreeMap<String, (String, String)>);

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl RegistryCredentials {
    pub fn read(files: &dyn Files, paths: &Paths) -> Result<Self, RegistryCredentialsError> {
        let Some(content) = files.read(&paths.at(REGISTRY_CREDENTIALS_PATH))? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&content).map(Self).map_err(|_| RegistryCredentialsError::Form)
    }

    /// User name and password in one word (RFC 7617), for a host as the configuration names it.
    pub fn of(&self, host: &str) -> Option<String> {
        let is_it = |named: &str| named.strip_suffix(":443").unwrap_or(named).eq_ignore_ascii_case(host);
        let (_, given) = self.0.iter().find(|(named, _)| is_it(named))?;
        Some(word(given))
    }

    /// Those that are for registries without mirrors, in the same form.
    pub fn without_mirrors(&self, mirrors: &[RegistryMirror]) -> BTreeMap<&str, String> {
        let has_mirrors = |host: &str| mirrors.iter().any(|mirror| mirror.registry.eq_ignore_ascii_case(host));
        let given = self.0.iter().filter(|(host, _)| !has_mirrors(host));
        given.map(|(host, given)| (host.as_str(), word(given))).collect()
    }
}

fn word((user, password): &(String, String)) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// The host of a mirror's URL as the configuration names it: with the port if that is not 443.
pub fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    match (has_port, scheme.eq_ignore_ascii_case("https")) {
        (true, true) => Some(host.strip_suffix(":443").unwrap_or(&host).to_owned()),
        (false, true) => Some(host),
        // What was given for TLS does not go without it.
        (true, false) => (!host.ends_with(":443")).then_some(host),
        (false, false) => Some(format!("{host}:80")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn credentials(given: &[(&str, &str, &str)]) -> RegistryCredentials {
        let given = given
            .iter()
            .map(|(host, user, password)| ((*host).to_owned(), ((*user).to_owned(), (*password).to_owned())));
        RegistryCredentials(given.collect())
    }

    #[test]
    fn a_mirrors_host_is_named_as_credentials_name_it() {
        let host = |url| host_of(url).unwrap();
        assert_eq!(host("https://Mirror.example/v2/hub"), "mirror.example");
        assert_eq!(host("https://mirror.example:443"), "mirror.example");
        assert_eq!(host("https://user@mirror.example:5000/v2"), "mirror.example:5000");
        assert_eq!(host("http://mirror.example/"), "mirror.example:80");
        assert_eq!(host("https://[2001:db8::1]/"), "[2001:db8::1]");
        assert_eq!(host("https://[2001:db8::1]:5000"), "[2001:db8::1]:5000");
        assert_eq!(host_of("mirror.example"), None);
        assert_eq!(host_of("http://mirror.example:443"), None, "TLS's port without TLS");
    }

    #[test]
    fn who_has_mirrors_is_not_among_those_that_kubelet_sends_and_nobody_is_shown() {
        let credentials = credentials(&[("docker.io", "d", "secret"), ("registry.example", "u", "p:w")]);
        let mirror = RegistryMirror { registry: "docker.io".to_owned(), endpoints: Vec::new(), override_path: false };
        let others = credentials.without_mirrors(&[mirror]);
        assert_eq!(others, BTreeMap::from([("registry.example", STANDARD.encode("u:p:w"))]));
        assert_eq!(credentials.of("Docker.io"), Some(STANDARD.encode("d:secret")));
        assert_eq!(credentials.of("mirror.example"), None);
        let shown = format!("{credentials:?}");
        assert!(shown.contains("docker.io") && !shown.contains("secret"), "{shown}");
    }
}
