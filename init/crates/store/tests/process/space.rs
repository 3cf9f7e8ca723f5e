//! A file system that fills up: writes stop with etcd's error before it does, everything else goes on.

use std::path::Path;

use tonic::Code;

use crate::harness::{Store, get, put};

/// Room for the log's segments, a checkpoint, and less than the reserve beyond them.
const SIZE: &str = "size=128m";

/// A tmpfs that is unmounted again.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(path: &'a Path) -> Self {
        use rustix::mount::{MountFlags, mount};
        let options = std::ffi::CString::new(SIZE).unwrap();
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(path)
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writes_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        println!("not run: mounting a small file system needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = Mount::new(directory.path());
    let data_dir = directory.path().join("data");
    {
        let mut store = Store::start(&data_dir, &[]);
        let mut client = store.client().await;
        let mut refused = None;
        for number in 0..20_000 {
            if let Err(status) = client.put(put(&format!("key-{number:05}"), vec![b'x'; 64 << 10])).await {
                refused = Some((number, status));
                break;
            }
        }
        let (number, status) = refused.expect("the disk is smaller than what was written");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert_eq!(status.message(), "etcdserver: mvcc: database space exceeded");
        assert!(number > 100, "{number} writes fitted");
        store.wait_for("no space: writes are refused");
        assert!(store.is_running(), "{}", store.output());
        assert!(get(&mut client, "key-00001").await.is_some());
        let delete =
            keelson_etcd_api::etcdserverpb::DeleteRangeRequest { key: "key-00001".into(), ..Default::default() };
        client.delete_range(delete).await.unwrap();
        store.terminate();
        assert_eq!(store.wait().code(), Some(0), "{}", store.output());
    }
    {
        let store = Store::start(&data_dir, &[]);
        let mut client = store.client().await;
        assert!(get(&mut client, "key-00001").await.is_none());
        assert!(get(&mut client, "key-00002").await.is_some());
        assert!(client.put(put("more", vec![b'x'; 64 << 10])).await.is_err(), "the alarm stays");
    }
    drop(mount);
}
