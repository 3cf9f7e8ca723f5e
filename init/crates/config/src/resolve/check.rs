//! Collects faults instead of ending at the first. A field that fails gets a harmless value, which nobody sees: the
//! result is thrown away if there was any fault.

use crate::error::{ConfigError, ConfigErrors, shown};
use crate::raw::Said;
use crate::source::Source;

#[derive(Debug, Default)]
pub(super) struct Checker {
    errors: Vec<ConfigError>,
}

impl Checker {
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        Self { errors }
    }

    pub(super) fn fault(&mut self, source: &Source, field: &str, problem: impl Into<String>, allowed: &str) {
        self.errors.push(ConfigError::new(source, field, problem, allowed));
    }

    /// A fault of omission.
    pub(super) fn unsaid(&mut self, field: &str, problem: &str, allowed: &str) {
        self.errors.push(ConfigError {
            source_said: None,
            field: field.to_owned(),
            problem: problem.to_owned(),
            allowed: allowed.to_owned(),
        });
    }

    /// The text itself if it has the form.
    pub(super) fn text(
        &mut self,
        said: &Said<String>,
        field: &str,
        has_form: fn(&str) -> bool,
        form: &str,
    ) -> Option<String> {
        self.parsed(&said.source, field, &said.value, form, |text| has_form(text).then(|| text.to_owned()))
    }

    /// What the text means, if anything.
    pub(super) fn parsed<T>(
        &mut self,
        source: &Source,
        field: &str,
        text: &str,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(text);
        if parsed.is_none() {
            self.fault(source, field, format!("{} is not valid", shown(text)), form);
        }
        parsed
    }

    /// Each element of a list that is said as a whole; the elements of a document's list are named by index.
    pub(super) fn each<T>(
        &mut self,
        said: Option<&Said<Vec<String>>>,
        field: &str,
        form: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(said) = said else { return Vec::new() };
        let mut values = Vec::new();
        for (index, text) in said.value.iter().enumerate() {
            values.extend(self.parsed(&said.source.part(&format!("[{index}]")), field, text, form, &parse));
        }
        values
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() { Ok(value) } else { Err(ConfigErrors(self.errors)) }
    }
}
