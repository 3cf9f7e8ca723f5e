//! Tokens: how many there may be, which records of them go, and for which machine they are.

use super::*;
use crate::admission::tokens::{SPENT_MAX, TOKENS_MAX};
use crate::registry::records::Redemption;

const HOUR: i64 = 60 * 60;

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn id(number: usize) -> String {
    format!("{number:016x}")
}

/// One that a control plane has made, and that is good for an hour.
fn record(number: usize) -> TokenRecord {
    TokenRecord {
        version: 1,
        id: id(number),
        secret_hash: Some(String::new()),
        role: Role::Worker,
        expires: now() + HOUR,
        uses: 1,
        redemptions: Vec::new(),
        name: None,
        hardware: None,
        revoked: false,
        created: now(),
        created_by: "ann".to_owned(),
    }
}

fn used(at: i64) -> Vec<Redemption> {
    vec![Redemption { name: "w0".to_owned(), uid: "uid-of-w0".to_owned(), at }]
}

async fn write(cluster: &Cluster, records: impl IntoIterator<Item = TokenRecord>) {
    let change = records.into_iter().try_fold(Change::default(), |change, record| change.put(&record));
    assert!(cluster.registry.commit(change.unwrap()).await.unwrap());
}

async fn ids(cluster: &Cluster) -> BTreeSet<String> {
    let stored = cluster.registry.list::<TokenRecord>().await.unwrap();
    stored.into_iter().map(|stored| stored.value.id).collect()
}

async fn create(cluster: &Cluster, hardware: Option<&str>) -> Result<String, AdmissionError> {
    let request = TokenRequest {
        role: TokenRole::Worker,
        ttl_seconds: 60,
        uses: 1,
        name: None,
        hardware: hardware.map(str::to_owned),
        endpoints: Vec::new(),
    };
    Ok(cluster.admission().create_token(&request, "ann").await?.token)
}

#[tokio::test]
async fn tokens_that_let_nobody_in_take_no_room_from_those_that_do() {
    let cluster = Cluster::new();
    // With every second one a node without a disk comes back.
    let bound = |number| TokenRecord { name: Some("w0".to_owned()), redemptions: used(0), ..record(number) };
    let good = (0..TOKENS_MAX).map(|number| if number.is_multiple_of(2) { record(number) } else { bound(number) });
    let spent = (TOKENS_MAX..).map(|number| match number % 3 {
        0 => TokenRecord { revoked: true, ..record(number) },
        1 => TokenRecord { redemptions: used(0), ..record(number) },
        _ => TokenRecord { expires: now(), ..record(number) },
    });
    write(&cluster, good.chain(spent.take(SPENT_MAX))).await;
    let is_full = |error: &AdmissionError| matches!(error, AdmissionError::TooManyTokens { count: TOKENS_MAX });
    assert!(is_full(&create(&cluster, None).await.unwrap_err()));
    for number in [0, 1] {
        cluster.admission().revoke_token(&id(number), "ann").await.unwrap();
        create(&cluster, None).await.expect("there is room for one more");
        assert!(is_full(&create(&cluster, None).await.unwrap_err()));
    }
    let unknown = cluster.admission().revoke_token("ffffffffffffffff", "ann").await.expect("there always is for that");
    assert_eq!(unknown.state, TokenState::Revoked);
}

#[tokio::test]
async fn of_too_many_tokens_the_oldest_go_and_none_that_would_be_good_again() {
    let mut cluster = Cluster::new();
    let (pair, key) = operator();
    cluster.operators = vec![key.clone()];
    let [revoked_offline, used_offline, just_used, bound] = [900_001, 900_002, 900_003, 900_004];
    let oldest = |number: usize| TokenRecord { created: 0, ..record(number) };
    write(
        &cluster,
        [
            TokenRecord { secret_hash: None, revoked: true, ..oldest(revoked_offline) },
            TokenRecord { secret_hash: None, redemptions: used(0), ..oldest(used_offline) },
            TokenRecord { redemptions: used(now()), ..oldest(just_used) },
            TokenRecord { name: Some("w0".to_owned()), redemptions: used(0), ..oldest(bound) },
        ],
    )
    .await;
    let plain = |number: usize| TokenRecord {
        // The oldest come last by their keys.
        created: i64::try_from(SPENT_MAX + 1 - number).unwrap(),
        revoked: number.is_multiple_of(2),
        redemptions: used(0),
        ..record(number)
    };
    write(&cluster, (1..=SPENT_MAX).map(plain)).await;
    create(&cluster, None).await.unwrap();
    let left = ids(&cluster).await;
    for kept in [revoked_offline, used_offline, just_used, bound] {
        assert!(left.contains(&id(kept)), "{kept}");
    }
    // Three of those that stay are among the thousand, and as many of the others are too many.
    let gone: Vec<_> = (1..=SPENT_MAX).filter(|number| !left.contains(&id(*number))).collect();
    assert_eq!(gone, [SPENT_MAX - 2, SPENT_MAX - 1, SPENT_MAX]);

    let join = async |cluster: &Cluster, number: usize| {
        let token = offline(cluster, &pair, &key, &id(number), 1);
        cluster.join(&Machine::new("w1", 7), &token).await.expect_err("it is not good again")
    };
    assert!(matches!(join(&cluster, revoked_offline).await, AdmissionError::Revoked));
    assert!(matches!(join(&cluster, used_offline).await, AdmissionError::Used { .. }));
    // Once they have expired by every clock they go like any other.
    let late = offline(&cluster, &pair, &key, &id(revoked_offline), 1);
    cluster.offset = Duration::seconds(2 * HOUR + 60);
    create(&cluster, None).await.unwrap();
    let left = ids(&cluster).await;
    assert!(!left.contains(&id(revoked_offline)) && !left.contains(&id(used_offline)));
    let error = cluster.join(&Machine::new("w1", 7), &late).await.expect_err("its time is over");
    assert!(matches!(error, AdmissionError::Expired), "{error:?}");
}

#[tokio::test]
async fn a_token_is_for_its_machine_however_the_uuid_was_typed() {
    let mut cluster = Cluster::new();
    let (pair, key) = operator();
    cluster.operators = vec![key.clone()];
    let plain = HARDWARE.replace('-', "");
    for (last, typed) in
        (10..).zip([HARDWARE.to_owned(), plain.clone(), format!("{{{HARDWARE}}}"), format!("urn:uuid:{HARDWARE}")])
    {
        let token = create(&cluster, Some(&typed)).await.unwrap();
        let claimed = Token::parse(&token).unwrap().claims.hardware;
        assert_eq!(claimed, Some(HARDWARE.to_ascii_lowercase()), "{typed}");
        cluster
            .join(&Machine::new(&format!("w{last}"), last), &token)
            .await
            .unwrap_or_else(|error| panic!("{typed}: {error}"));
    }
    // As a keelctl of an older release has signed it.
    let token = offline_with(&cluster, &pair, &key, &id(1), |claims| claims.hardware = Some(plain));
    cluster.join(&Machine::new("w1", 7), &token).await.unwrap();
    let error = create(&cluster, Some("c0ffee")).await.unwrap_err();
    assert!(matches!(error, AdmissionError::Field { field: "hardware", .. }), "{error:?}");
}

#[tokio::test]
async fn a_node_without_a_disk_does_not_come_back_by_what_a_compromised_one_may_have_read() {
    let cluster = Cluster::new();
    let token = cluster.token(|request| request.name = Some("w1".to_owned())).await;
    cluster.join(&Machine::new("w1", 7), &token).await.unwrap();
    cluster.join(&Machine { hardware: None, ..Machine::new("w2", 8) }, &cluster.token(|_| {}).await).await.unwrap();
    let order = RemovalOrder { compromised: true, ..RemovalOrder::default() };
    cluster.admission().remove("w2", "ann", order).await.unwrap();
    let error = cluster.join(&Machine::new("w1", 9), &token).await.expect_err("all tokens are void");
    assert!(matches!(error, AdmissionError::Revoked), "{error:?}");
}
