//! What is done to files while no member runs on them: `keelson-store snapshot status|restore` and `keelson-store recover`.
//!
//! Names, flags and exit codes of `snapshot` are etcdutl's, so that what is scripted around it goes on working: 1 after a failure, 128 when it
//! was called wrongly. Answers go to standard output, what is being done to standard error, as the server's log does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use self::arguments::{Arguments, ArgumentsError};
use self::recover::{RecoverError, Stopped};
use self::restore::{Bump, RestoreError, Rewritten};
use self::snapshot_file::{Facts, SnapshotError, SnapshotFile};
use crate::log::LogId;
use crate::logging;
use crate::member::Member;

mod arguments;
mod bbolt;
mod etcd_file;
mod recover;
mod restore;
mod snapshot_file;
#[cfg(test)]
mod tests;

const EXIT_FAILURE: u8 = 1;
/// etcdutl's for a wrong call.
const EXIT_USAGE: u8 = 128;
/// Where a restored member's log begins: behind one entry, which is the checkpoint's.
const RESTORED_AT: LogId = LogId { term: 1, index: 1 };
/// By how much revisions are raised if nothing else is said. What etcd's manual advises: more than any cluster makes between a backup and
/// its loss.
const RECOVERY_BUMP: u64 = 1_000_000_000;

pub const USAGE: &str = "\
Usage: keelson-store snapshot status FILE [-w simple|json|fields]
       keelson-store snapshot restore FILE [--data-dir=DIR] [--name=NAME] [--initial-advertise-peer-urls=URLS]
                     [--advertise-client-urls=URLS] [--bump-revision=N --mark-compacted | --bump-revision=0] [--skip-hash-check]
                     [--drop-users]
       keelson-store recover --data-dir=DIR [--bump-revision=N] [--yes]

snapshot status   says what is in a snapshot, of this store or of etcd
snapshot restore  makes a new data directory of a snapshot, of this store or of etcd (or of an etcd's database file, with
                  --skip-hash-check): one member of a new cluster, which others then join. Revisions are raised by a thousand
                  million and compacted there, since clients may have seen later ones than the snapshot's; --bump-revision=0
                  keeps them
recover           makes a stopped member, whose cluster has lost its quorum for good, a cluster of its own; without --yes only
                  says what the member has
";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    #[error("there is no command {0:?}; see keelson-store {1} --help")]
    Command(String, &'static str),
    #[error("--bump-revision, more than 0, and --mark-compacted go together")]
    Bump,
    #[error(
        "--initial-cluster names other members: one member is restored, and the others join it with empty data directories"
    )]
    OtherMembers,
    #[error("-w {0}: simple, json and fields are known")]
    Form(String),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("write to standard output")]
    Output(#[source] std::io::Error),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Command(..) | Self::Bump | Self::OtherMembers | Self::Form(_) => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
}

/// Whether a first argument asks for one of these and not for the server.
pub fn is_tool(argument: &str) -> bool {
    matches!(argument, "snapshot" | "recover")
}

pub fn main(tool: &str, arguments: impl Iterator<Item = String>) -> ExitCode {
    logging::start(tracing::Level::INFO);
    let result = match tool {
        "snapshot" => snapshot(arguments),
        _ => recover(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = logging::chain(&error), "keelson-store {tool} has failed");
            ExitCode::from(error.exit_code())
        }
    }
}

fn print(text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(Error::Output)
}

fn snapshot(mut arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    match arguments.next().as_deref() {
        Some("status") => status(arguments),
        Some("restore") => restore_snapshot(arguments),
        None | Some("help" | "--help" | "-h") => print(USAGE),
        Some(other) => Err(Error::Command(other.to_owned(), "snapshot")),
    }
}

fn status(arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    let arguments = Arguments::read(arguments, &["write-out"], &[], 1)?;
    if arguments.help {
        return print(USAGE);
    }
    let form = arguments.text("write-out").unwrap_or("simple");
    if !["simple", "json", "fields"].contains(&form) {
        return Err(Error::Form(form.to_owned()));
    }
    let file = SnapshotFile::open(Path::new(arguments.position(0)?))?;
    print(&write_facts(form, &file.facts()?))
}

fn write_facts(form: &str, facts: &Facts) -> String {
    let Facts { hash, revision, total_keys, total_size, version } = facts;
    match form {
        "json" => {
            let facts = json!({
                "hash": hash, "revision": revision, "totalKey": total_keys, "totalSize": total_size, "version": version
            });
            format!("{facts}\n")
        }
        "fields" => format!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_keys}\n\"Size\" : {total_size}\n\"Version\" : {version:?}\n"
        ),
        _ => format!("{hash:x}, {revision}, {total_keys}, {}, {version}\n", size(*total_size)),
    }
}

/// As etcd's tools print sizes: two digits below ten, powers of a thousand.
fn size(bytes: u64) -> String {
    let mut unit = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut divisor = 1_u64;
    let mut name = unit.next().unwrap_or("B");
    while bytes / divisor >= 1000
        && let Some(next) = unit.next()
    {
        divisor *= 1000;
        name = next;
    }
    let tenths = (bytes * 10 + divisor / 2) / divisor;
    if divisor > 1 && tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", (bytes + divisor / 2) / divisor)
    }
}

fn restore_snapshot(arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    const VALUES: [&str; 9] = [
        "data-dir",
        "name",
        "initial-advertise-peer-urls",
        "advertise-client-urls",
        "initial-cluster",
        "bump-revision",
        // etcdutl's, without a meaning here.
        "initial-cluster-token",
        "wal-dir",
        "initial-memory-map-size",
    ];
    let arguments = Arguments::read(arguments, &VALUES, &["mark-compacted", "skip-hash-check", "drop-users"], 1)?;
    if arguments.help {
        return print(USAGE);
    }
    for ignored in ["initial-cluster-token", "wal-dir", "initial-memory-map-size"] {
        if arguments.text(ignored).is_some() {
            tracing::warn!(flag = ignored, "this flag has no meaning for keelson-store and is ignored");
        }
    }
    let bump = restored_bump(arguments.number("bump-revision")?, arguments.switch("mark-compacted"))?;
    let name = arguments.text("name").unwrap_or("default");
    let peers = arguments.text("initial-advertise-peer-urls").unwrap_or("http://localhost:2380");
    let others =
        |list: &str| list.split(',').any(|member| member.split_once('=').is_none_or(|(other, _)| other != name));
    if arguments.text("initial-cluster").is_some_and(others) {
        return Err(Error::OtherMembers);
    }
    let data_dir = arguments.text("data-dir").map_or_else(|| PathBuf::from(format!("{name}.keelson")), PathBuf::from);
    let list = |urls: &str| urls.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let member = Member {
        name: name.to_owned(),
        peer_urls: list(peers),
        client_urls: list(arguments.text("advertise-client-urls").unwrap_or_default()),
        ..Member::default()
    };
    let path = Path::new(arguments.position(0)?);
    let file = SnapshotFile::open(path)?;
    if arguments.switch("skip-hash-check") {
        tracing::warn!(path = %path.display(), "the snapshot is not compared with a checksum");
    } else {
        file.verify()?;
    }
    tracing::info!(path = %path.display(), data_dir = %data_dir.display(), "restoring snapshot");
    let mut rows = Rewritten::new(file.rows(arguments.switch("drop-users"))?, bump);
    let identity = restore::write(&data_dir, member, RESTORED_AT, &mut rows)?;
    tracing::info!(
        data_dir = %data_dir.display(),
        member_id = %identity.member_id,
        cluster_id = format!("{:x}", identity.cluster_id),
        revision = rows.revisions().current,
        compact_revision = rows.revisions().compacted,
        "restored snapshot"
    );
    Ok(())
}

/// etcdutl raises nothing unless it is told to. Whoever restores in a hurry does not tell it, and clients' caches are then wrong without a sign.
fn restored_bump(by: Option<u64>, mark_compacted: bool) -> Result<Bump, Error> {
    match (by, mark_compacted) {
        (None, _) => Ok(Bump::By(RECOVERY_BUMP)),
        (Some(0), false) => Ok(Bump::No),
        (Some(by), true) if by > 0 => Ok(Bump::By(by)),
        (Some(_), _) => Err(Error::Bump),
    }
}

fn recover(arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    let arguments = Arguments::read(arguments, &["data-dir", "bump-revision"], &["yes"], 0)?;
    if arguments.help {
        return print(USAGE);
    }
    let data_dir = PathBuf::from(arguments.required("data-dir")?);
    let bump = match arguments.number("bump-revision")?.unwrap_or(RECOVERY_BUMP) {
        0 => Bump::No,
        by => Bump::By(by),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let stopped = runtime.block_on(Stopped::load(&data_dir))?;
    print(&describe(&data_dir, &stopped))?;
    if !arguments.switch("yes") {
        return print(
            "Nothing was changed. Compare index and term with those of the other members that are left, stop them all, and run this \
             with --yes on the one whose term, then index, is highest. The others join it with empty data directories.\n",
        );
    }
    let (old, identity) = stopped.make_alone(bump)?;
    print(&format!(
        "The member is now {:x}, alone in the cluster {:x}. Its old data is in {}.\n",
        identity.member_id.0,
        identity.cluster_id,
        old.display()
    ))
}

fn describe(data_dir: &Path, stopped: &Stopped) -> String {
    let Stopped { identity, marks, last, members, state, .. } = stopped;
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let (revision, compacted) = state.public().read(|mvcc, revision| (revision, mvcc.compact_revision()));
    format!(
        "data directory: {}\nindex: {}\nterm: {}\ncommitted: {}\nvote: {}\nrevision: {revision}\ncompact revision: {compacted}\n\
         member: {:x}\ncluster: {:x}\nmembers: {members}\n",
        data_dir.display(),
        index(*last),
        last.map_or(0, |last| last.term),
        index(marks.committed),
        marks.vote.map_or(0, |vote| vote.term),
        identity.member_id.0,
        identity.cluster_id,
    )
}
