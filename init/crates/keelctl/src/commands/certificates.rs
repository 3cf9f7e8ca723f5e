//! `keelctl certificates`: what the node has, when each ends and is renewed.

use keelson_api::{CertificateSubject, NodeCertificateList, paths};
use time::OffsetDateTime;

use crate::{
    age,
    cli::Format,
    error::Error,
    output::{self, Table},
    session::Session,
};

pub(super) async fn run(mut session: Session, format: Format) -> Result<(), Error> {
    let list: NodeCertificateList = session.get(paths::CERTIFICATES).await?;
    output::print(format, &list, || {
        let now = OffsetDateTime::now_utc();
        let mut table =
            Table::new(["PURPOSE", "SUBJECT", "AUTHORITY", "NOT BEFORE", "NOT AFTER", "EXPIRES", "RENEWAL"]);
        for certificate in &list.certificates {
            table.row([
                certificate.purpose.clone(),
                subject(&certificate.subject),
                certificate.authority.clone(),
                certificate.not_before.clone(),
                certificate.not_after.clone(),
                age::until(&certificate.not_after, now),
                age::until(&certificate.renewal, now),
            ]);
        }
        table
    })
}

fn subject(subject: &CertificateSubject) -> String {
    let organization = subject.organization.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
    format!("{}{organization}", subject.common_name)
}
