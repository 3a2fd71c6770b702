//! `keys/<id>`: plain JSON; the master key in it is sealed by a key derived from the password.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::kdf::{self, Cost};
use crate::crypto::{MasterKey, random};

/// One password's way to the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// When it was made.
    pub created: Timestamp,
    /// By whom.
    #[serde(default)]
    pub username: String,
    /// On which machine.
    #[serde(default)]
    pub hostname: String,
    kdf: String,
    #[serde(flatten)]
    cost: Cost,
    salt: String,
    data: String,
}

/// Why a key file does not give the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenKeyError {
    /// Made for another password.
    WrongPassword,
    /// Not a key file that can be used, in words.
    Unusable(String),
}

impl KeyFile {
    /// Seals `master` with a password.
    ///
    /// # Errors
    /// A cost out of bounds.
    pub fn seal(master: &MasterKey, password: &str, cost: Cost, who: (&str, &str), created: Timestamp) -> Result<Self, String> {
        let salt: [u8; 64] = random();
        let mut data = Vec::new();
        kdf::derive(password, &salt, cost)?.seal(&master.to_json(), &mut data);
        Ok(Self {
            created,
            username: who.0.to_owned(),
            hostname: who.1.to_owned(),
            kdf: "scrypt".to_owned(),
            cost,
            salt: data_encoding::BASE64.encode(&salt),
            data: data_encoding::BASE64.encode(&data),
        })
    }

    /// # Errors
    /// Not a key file.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// The JSON that is stored as it is.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    /// Opens the master key. Costs what the file's scrypt parameters say: about half a second.
    ///
    /// # Errors
    /// [`OpenKeyError`].
    pub fn open(&self, password: &str) -> Result<MasterKey, OpenKeyError> {
        let unusable = |why: String| OpenKeyError::Unusable(why);
        if self.kdf != "scrypt" {
            return Err(unusable(format!("key derivation {:?} is not known", self.kdf)));
        }
        let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).map_err(|error| unusable(error.to_string()));
        let mut data = decode(&self.data)?;
        let derived = kdf::derive(password, &decode(&self.salt)?, self.cost).map_err(unusable)?;
        let json = derived.open(&mut data).map_err(|_| OpenKeyError::WrongPassword)?;
        MasterKey::from_json(json).map_err(unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_what_it_sealed() {
        let master = MasterKey::generate();
        let file = KeyFile::seal(&master, "geheim", Cost::LOW, ("root", "host"), Timestamp::UNIX_EPOCH).unwrap();
        let file = KeyFile::decode(&file.encode()).unwrap();
        assert!(file.open("geheim").unwrap() == master);
        assert_eq!(file.open("geheim ").unwrap_err(), OpenKeyError::WrongPassword);
    }

    #[test]
    fn golden_shape() {
        let file = KeyFile::seal(&MasterKey::generate(), "", Cost::DEFAULT, ("u", "h"), Timestamp::UNIX_EPOCH).unwrap();
        let json = String::from_utf8(file.encode()).unwrap();
        assert!(json.starts_with(
            r#"{"created":"1970-01-01T00:00:00Z","username":"u","hostname":"h","kdf":"scrypt","N":32768,"r":8,"p":7,"salt":""#
        ));
    }
}
