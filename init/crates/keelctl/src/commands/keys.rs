//! `keelctl key`: operator keys.

use crate::{cli::Key, error::Error, key::OperatorKey, output};

/// The private key is never printed; what is printed is what a node has to be told.
pub(super) fn run(arguments: &Key) -> Result<(), Error> {
    let key = match arguments {
        Key::Generate { file } => OperatorKey::generate(file)?,
        Key::Show { file } => OperatorKey::read(file)?,
    };
    output::line(&key.configuration_word())
}
