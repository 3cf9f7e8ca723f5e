//! What is wrong with a configuration, said so that it can be corrected: source, field, fault, what is allowed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::source::Source;

/// One fault. Values of secret fields are never part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ConfigError {
    /// Absent when the fault is that nobody said the field.
    pub source_said: Option<Source>,
    /// The field as the source spells it: `keelson.role`, `ip`, `spec.role`.
    pub field: String,
    /// What is wrong, a clause: `"master" is not a role`.
    pub problem: String,
    /// What would be right, a clause: `control-plane or worker`.
    pub allowed: String,
}

/// A value as a message may repeat it. A long one is not repeated: by a slip of the pen it may be a token.
#[cfg(feature = "sources")]
pub(crate) fn shown(value: &str) -> String {
    const SHOWN_MAX: usize = 40;
    if value.len() <= SHOWN_MAX { format!("{value:?}") } else { format!("a text of {} bytes", value.len()) }
}

impl ConfigError {
    pub fn new(
        source: &Source,
        field: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            source_said: Some(source.clone()),
            field: field.into(),
            problem: problem.into(),
            allowed: allowed.into(),
        }
    }

    /// The field's path in its document, or as a word spells it.
    pub fn place(&self) -> &str {
        let path = self.source_said.as_ref().and_then(|source| source.field.as_deref());
        path.filter(|path| !path.is_empty()).unwrap_or(&self.field)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source_said {
            // The source of a document's value already names the field.
            Some(source @ Source { field: Some(_), .. }) => write!(f, "{source}: {}", self.problem)?,
            Some(source) => write!(f, "{source}, {}: {}", self.field, self.problem)?,
            None => write!(f, "{}: {}", self.field, self.problem)?,
        }
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

/// Every fault that was found; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}
