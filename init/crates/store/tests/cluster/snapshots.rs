//! A member that was away for longer than the log reaches back takes the whole state.

use keelson_etcd_api::etcdserverpb as pb;

use crate::harness::{Cluster, get, put};
use crate::waiting::wait_until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_behind_a_purge_catches_up_by_snapshot_and_its_watchers_go_on() {
    let mut cluster = Cluster::founded(3, &[]).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let mut kv = cluster.members[leader].kv();
    for number in 0..20 {
        kv.put(put(&format!("early-{number}"), number.to_string())).await.unwrap();
    }
    let before = cluster.members[leader].status().await.unwrap().header.unwrap().revision;
    cluster.members[away].kill();
    // Eight megabytes of log are kept behind a checkpoint, which is made every eight.
    let value = vec![b'x'; 256 << 10];
    let writes = (0..160).map(|number| {
        let mut kv = kv.clone();
        let request = put(&format!("big-{}", number % 40), value.clone());
        async move { kv.put(request).await.map(|_| ()) }
    });
    for write in writes {
        write.await.unwrap();
    }
    let first_segment = cluster.members[leader].data_dir().join("log-0000000000000001");
    wait_until("the purge of what the member lacks", async || !first_segment.exists()).await;
    cluster.members[away].start();
    cluster.members[away].wait_for_log("installed a snapshot").await;
    cluster.members[away].wait_until_ready().await;
    cluster.assert_equal_hashes().await;
    assert_eq!(get(&mut cluster.members[away].kv(), "early-7", true).await.as_deref(), Some("7"));

    // The whole history came with it.
    let (requests, queue) = tokio::sync::mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: "big-0".into(), start_revision: before, ..Default::default() };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut watch = cluster.members[away].watch().max_decoding_message_size(usize::MAX);
    let mut events = watch.watch(queue).await.unwrap().into_inner();
    let mut seen = 0;
    while seen < 4 {
        seen += events.message().await.unwrap().unwrap().events.len();
    }
    kv.put(put("big-0", "small")).await.unwrap();
    assert_eq!(events.message().await.unwrap().unwrap().events[0].kv.as_ref().unwrap().value, "small");
}
