use super::*;

fn fingerprint() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

fn empty(directory: &Path) -> Config {
    Config::read(Some(directory.join("keelctl.yaml"))).expect("a file that does not exist is empty")
}

#[test]
fn endpoints_are_read_in_the_forms_that_people_write() {
    let read = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
    for (text, expected) in [
        ("https://192.0.2.1:6400", "https://192.0.2.1:6400"),
        ("https://node-1.example/", "https://node-1.example:6400"),
        ("192.0.2.1", "https://192.0.2.1:6400"),
        ("localhost:1", "https://localhost:1"),
        ("https://[2001:db8::1]:7", "https://[2001:db8::1]:7"),
        ("2001:db8::1", "https://[2001:db8::1]:6400"),
    ] {
        assert_eq!(read(text).expect(text), expected);
    }
    for text in ["", "http://a", "https://", "a:b", "a:70000", "[::1", "[::1]x", "a/b", "a b", "https://a:1/path"] {
        assert!(read(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn fingerprints_are_compared_in_one_form() {
    let read = |text: &str| text.parse::<Fingerprint>().map(|fingerprint| fingerprint.to_string());
    assert_eq!(read(&fingerprint()).expect("a fingerprint"), fingerprint());
    assert_eq!(read(&format!("sha256:{}", vec!["AB"; 32].join(":"))).expect("with colons"), fingerprint());
    for text in ["", "sha256:", "ab", &"ab".repeat(32), &format!("{}0", fingerprint()), "sha256:xyz"] {
        assert!(read(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn a_context_follows_its_cluster_to_other_authorities() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = empty(directory.path());
    config.set_context("a", Some("192.0.2.1"), Some(&fingerprint()), Some("operator.key".into())).expect("a context");
    let own: Fingerprint = fingerprint().parse().expect("a fingerprint");
    let other: Fingerprint = format!("sha256:{}", "cd".repeat(32)).parse().expect("a fingerprint");
    let third: Fingerprint = format!("sha256:{}", "ef".repeat(32)).parse().expect("a fingerprint");
    let learned =
        |shown: &Fingerprint, next: Option<&Fingerprint>| Learned { shown: Some(shown.clone()), next: next.cloned() };
    assert!(!config.learn("a", &learned(&own, None)));
    assert!(!config.learn("a", &learned(&other, None)), "nobody has said that this one is to be believed");
    assert!(config.learn("a", &learned(&own, Some(&other))));
    assert!(!config.learn("a", &learned(&own, Some(&other))), "that is no news");
    assert_eq!(config.context(None).expect("a context").fingerprints(), [own.digest(), other.digest()]);
    config.write().expect("written");
    let mut config = empty(directory.path());
    assert!(!config.learn("a", &learned(&other, Some(&other))), "the new one certifies, and not everywhere yet");
    assert!(config.learn("a", &learned(&other, None)), "the exchange is over");
    assert_eq!(config.context(None).expect("a context").fingerprints(), [other.digest()]);
    assert!(!config.learn("a", &learned(&other, None)));
    assert!(config.learn("a", &learned(&other, Some(&own))), "one more exchange");
    assert!(
        config.learn("a", &learned(&own, Some(&third))),
        "and another one after that, of which the end was not seen"
    );
    assert_eq!(config.context(None).expect("a context").fingerprints(), [own.digest(), third.digest()]);
    config.set_context("a", None, Some(&fingerprint()), None).expect("an operator has compared it");
    assert_eq!(config.context(None).expect("a context").fingerprints(), [own.digest()]);
}

#[test]
fn contexts_are_kept_and_the_first_is_chosen() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = empty(directory.path());
    assert!(matches!(config.context(None), Err(ConfigError::NoCurrent { .. })));
    let key = directory.path().join("operator.key");
    config.set_context("a", Some("192.0.2.1"), Some(&fingerprint()), Some(key.clone())).expect("a context");
    config.set_context("b", Some("192.0.2.2"), Some(&fingerprint()), Some(key.clone())).expect("a context");
    config.write().expect("written");

    let mut config = empty(directory.path());
    assert_eq!(config.context(None).expect("the first").name, "a");
    config.use_context("b").expect("chosen");
    config.set_context("b", Some("192.0.2.3:1"), None, None).expect("changed");
    let context = config.context(None).expect("the second");
    assert_eq!((context.endpoint.to_string(), context.key), ("https://192.0.2.3:1".to_owned(), key));
    config.delete_context("b").expect("deleted");
    assert!(matches!(config.context(None), Err(ConfigError::NoCurrent { .. })));
    let error = config.context(Some("b")).expect_err("deleted").to_string();
    assert!(error.contains("no context \"b\"; it has: a"), "{error}");
}

#[test]
fn mistakes_name_the_file_and_the_field() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keelctl.yaml");
    for (text, expected) in [
        ("contexts: [{name: a, endpoint: 'ftp://a', fingerprint: f, key: k}]", "only https"),
        ("contexts: [{name: a, endpoint: b, fingerprint: f, key: k}]", "64 hexadecimal digits"),
        ("contexts: [{name: a}]", "endpoint"),
        ("context: []", "context"),
        ("[", ""),
    ] {
        std::fs::write(&path, text).expect("written");
        let error = Config::read(Some(path.clone())).expect_err(text).to_string();
        assert!(error.contains("keelctl.yaml") && error.contains(expected), "{text}: {error}");
    }
    let mut config = Config { path, contexts: Contexts::default() };
    for name in ["", "a/b", "../a", ".a", "a b"] {
        assert!(matches!(config.set_context(name, None, None, None), Err(ConfigError::Name { .. })), "{name:?}");
    }
    let error = config.set_context("a", Some("b"), None, None).expect_err("incomplete").to_string();
    assert!(error.contains("--fingerprint"), "{error}");
}

#[test]
fn a_relative_key_counts_from_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keelctl.yaml");
    let text = format!(
        "currentContext: a\ncontexts:\n- name: a\n  endpoint: https://192.0.2.1:6400\n  fingerprint: {}\n  key: operator.key\n",
        fingerprint()
    );
    std::fs::write(&path, text).expect("written");
    let config = Config::read(Some(path)).expect("read");
    assert_eq!(config.context(None).expect("a context").key, directory.path().join("operator.key"));
    assert_eq!(config.certificate("a"), directory.path().join("keelctl-certificates/a.pem"));
}
