//! `config`: `{"version":2,"id":"<64 hex>","chunker_polynomial":"<hex>"}`, sealed, never compressed.

use serde::{Deserialize, Serialize};

use super::polynomial::Polynomial;
use crate::id::ObjectId;

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// 1 or 2; 2 may compress.
    pub version: u32,
    /// Random; says that two repositories are not the same.
    pub id: ObjectId,
    /// Hexadecimal, irreducible, degree 53.
    pub chunker_polynomial: String,
    /// Set by rustic: nothing may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_only: Option<bool>,
    /// Set by rustic: the data of this repository lies in another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_hot: Option<bool>,
}

impl Config {
    /// The newest version that exists, and that we write.
    pub const VERSION: u32 = 2;

    /// A new repository's config.
    #[must_use]
    pub fn new(id: ObjectId, polynomial: Polynomial) -> Self {
        Self { version: Self::VERSION, id, chunker_polynomial: format!("{:x}", polynomial.0), append_only: None, is_hot: None }
    }

    /// # Errors
    /// Not JSON of this shape, a version we do not know, or a polynomial that is none; in words.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if config.version == 0 || config.version > Self::VERSION {
            return Err(format!("format version {} is not known to this program (1 and 2 are)", config.version));
        }
        if config.is_hot == Some(true) {
            return Err("this is the hot half of a rustic hot/cold repository; use the cold half".to_owned());
        }
        config.polynomial()?;
        Ok(config)
    }

    /// # Errors
    /// Not hexadecimal, or not irreducible.
    pub fn polynomial(&self) -> Result<Polynomial, String> {
        let polynomial = u64::from_str_radix(&self.chunker_polynomial, 16).map(Polynomial);
        match polynomial {
            Ok(polynomial) if polynomial.is_irreducible() => Ok(polynomial),
            _ => Err(format!("chunker_polynomial {:?} is not an irreducible polynomial", self.chunker_polynomial)),
        }
    }

    /// The JSON that is sealed and stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let config = Config::new(ObjectId([0xab; 32]), Polynomial(0x003d_a335_8b4d_c173));
        let json = format!(r#"{{"version":2,"id":"{}","chunker_polynomial":"3da3358b4dc173"}}"#, "ab".repeat(32));
        assert_eq!(String::from_utf8(config.encode()).unwrap(), json);
        assert_eq!(Config::decode(json.as_bytes()).unwrap(), config);
    }

    #[test]
    fn what_is_not_ours_to_open_is_refused() {
        let with = |version: u32, polynomial: &str, more: &str| {
            format!(r#"{{"version":{version},"id":"{}","chunker_polynomial":"{polynomial}"{more}}}"#, "ab".repeat(32))
        };
        for json in [
            with(0, "3da3358b4dc173", ""),
            with(3, "3da3358b4dc173", ""),
            with(2, "3da3358b4dc172", ""),
            with(2, "", ""),
            with(2, "3da3358b4dc173", r#","is_hot":true"#),
            "{}".to_owned(),
            String::new(),
        ] {
            assert!(Config::decode(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Config::decode(with(1, "3da3358b4dc173", r#","chunker":"rabin""#).as_bytes()).is_ok());
    }
}
