//! Identities: SHA-256 hashes, a type for each kind, so that one cannot be passed for another.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is no id: 64 hexadecimal digits expected")]
pub struct InvalidId {
    text: String,
}

/// Reads 64 hexadecimal digits of either case: other writers of the format may use upper case.
fn parse(text: &str) -> Result<[u8; 32], InvalidId> {
    let invalid = || InvalidId { text: text.chars().take(80).collect() };
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return Err(invalid());
    }
    data_encoding::HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut bytes).map_err(|_| invalid())?;
    Ok(bytes)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first eight digits, as people are shown them.
            #[must_use]
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..4])
            }

            /// All 64 digits.
            #[must_use]
            pub fn hex(&self) -> String {
                HEXLOWER.encode(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut digits = [0; 64];
                HEXLOWER.encode_mut(&self.0, &mut digits);
                serializer.serialize_str(std::str::from_utf8(&digits).expect("hexadecimal digits are UTF-8"))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(HexVisitor).map(Self)
            }
        }
    };
}

struct HexVisitor;

impl serde::de::Visitor<'_> for HexVisitor {
    type Value = [u8; 32];
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hexadecimal digits")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<[u8; 32], E> {
        parse(text).map_err(E::custom)
    }
}

id_type!(
    /// SHA-256 of a blob's plaintext. A tree is a blob too.
    BlobId
);
id_type!(
    /// SHA-256 of a whole pack file as stored; its name.
    PackId
);
id_type!(
    /// SHA-256 of a stored object that is named by its content (index, snapshot, lock, key); its name.
    ObjectId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_either_case_is_read_and_lower_case_written() {
        let text = "AB".repeat(32);
        let id: BlobId = text.parse().unwrap();
        assert_eq!(id.hex(), "ab".repeat(32));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{}\"", "ab".repeat(32)));
    }

    #[test]
    fn anything_but_64_digits_is_refused() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<PackId>().is_err(), "{text}");
        }
    }
}
