//! What happened to the cluster.

use keelson_api::{EventList, EventQuery};

use super::members::{Powers, refusal};
use super::respond::{self, Refusal};
use super::router::Context;
use crate::events;

pub(super) async fn list(context: &Context, query: Option<&str>) -> Result<EventList, Refusal> {
    let EventQuery { after } = parse(query)?;
    let powers = Powers::of(context)?;
    events::list(&powers.registry, after).await.map_err(|error| refusal(&error.into()))
}

fn parse(query: Option<&str>) -> Result<EventQuery, Refusal> {
    let mut parsed = EventQuery::default();
    for parameter in respond::parameters(query) {
        match parameter {
            ("after", value) => {
                let revision = value.parse().ok().filter(|revision| *revision >= 0);
                let problem = || Refusal::invalid("after", format!("{value:?} is not a revision"));
                parsed.after = Some(revision.ok_or_else(problem)?);
            }
            (name, _) => return Err(Refusal::invalid(name, "there is no such parameter; there is after")),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_mistakes_are_told_by_name() {
        assert_eq!(parse(None).map(|query| query.after), Ok(None));
        assert_eq!(parse(Some("after=7")).map(|query| query.after), Ok(Some(7)));
        for (query, field) in [("after=", "after"), ("after=-1", "after"), ("before=7", "before")] {
            assert_eq!(parse(Some(query)).expect_err(query).body.field.as_deref(), Some(field), "{query}");
        }
    }
}
