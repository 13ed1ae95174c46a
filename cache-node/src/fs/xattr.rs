//! `user.forebay.*`: where a file comes from and how much of it is here.

use super::{Error, Filesystem, NodeId};
use forebay_wire::block::BlockIndex;

const SOURCE: &str = "user.forebay.source";
const VERSION: &str = "user.forebay.version";
const CACHED: &str = "user.forebay.cached";

impl Filesystem {
    /// Names of the extended attributes of `id`. A folder has none.
    pub fn extended_attribute_names(&self, id: NodeId) -> Result<Vec<&'static str>, Error> {
        if id.is_directory() {
            self.locate(id)?;
            return Ok(Vec::new());
        }
        self.file_at(id)?;
        Ok(vec![SOURCE, VERSION, CACHED])
    }

    /// `source`: the object's URI. `version`: its ETag or version id. `cached`: `full`, `none`, or `N of M blocks`.
    pub fn extended_attribute(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>, Error> {
        if id.is_directory() {
            self.locate(id)?;
            return Err(Error::NoAttribute);
        }
        let known = [SOURCE, VERSION, CACHED].into_iter().find(|known| known.as_bytes() == name).ok_or(Error::NoAttribute)?;
        let (file, _) = self.file_object(id)?;
        Ok(match known {
            SOURCE => [file.origin.handle.name().as_bytes(), &file.key.0].concat(),
            VERSION => file.version.0.to_vec(),
            _ => {
                let reader = &self.parts.reader;
                let blocks = reader.block_size().count(file.object.size);
                let here = (0..blocks).filter(|index| reader.store().contains(&file.object, BlockIndex(*index))).count();
                match here {
                    here if here == blocks as usize => b"full".to_vec(),
                    0 => b"none".to_vec(),
                    here => format!("{here} of {blocks} blocks").into_bytes(),
                }
            }
        })
    }
}
