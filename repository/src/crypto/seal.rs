//! The envelope of everything stored: `nonce (16) || AES-256-CTR ciphertext || Poly1305-AES tag (16)`.
//!
//! The tag covers the ciphertext alone, under the one-time key `r || AES128_k(nonce)`; there is no associated data.

use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use poly1305::Poly1305;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::random;

/// Bytes that sealing adds: nonce and tag.
pub const OVERHEAD: usize = NONCE + TAG;
pub(crate) const NONCE: usize = 16;
const TAG: usize = 16;

type Aes256Ctr = ctr::Ctr128BE<aes::Aes256>;

/// The bytes are not what was sealed with this key: another key, or damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be opened: damaged, or sealed with another key")]
pub struct SealError;

/// The key that seals a repository's content, or, derived from a password, the master key itself.
#[derive(Clone, Zeroize, ZeroizeOnDrop, PartialEq, Eq)]
pub struct MasterKey {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// `{"mac":{"k":..,"r":..},"encrypt":..}`, base64, as restic stores it inside a key file.
#[derive(Serialize, Deserialize)]
struct MasterKeyJson {
    mac: MacJson,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacJson {
    k: String,
    r: String,
}

impl MasterKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = Self { encrypt: random(), mac_k: random(), mac_r: random() };
        key.clamp();
        key
    }

    /// From 64 derived bytes: AES-256 key, then `k` and `r` of Poly1305-AES.
    #[must_use]
    pub fn from_derived(derived: &[u8; 64]) -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&derived[..32]);
        key.mac_k.copy_from_slice(&derived[32..48]);
        key.mac_r.copy_from_slice(&derived[48..]);
        key.clamp();
        key
    }

    /// Clears the bits of `r` that Poly1305 ignores; old readers expect them cleared.
    fn clamp(&mut self) {
        for i in [3, 7, 11, 15] {
            self.mac_r[i] &= 0x0f;
        }
        for i in [4, 8, 12] {
            self.mac_r[i] &= 0xfc;
        }
    }

    /// From the JSON inside a key file.
    ///
    /// # Errors
    /// Another shape, wrong lengths or an all-zero key.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let parsed: MasterKeyJson = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).map_err(|error| error.to_string());
        let exact = |bytes: Vec<u8>| <[u8; 16]>::try_from(bytes).map_err(|_| "16 bytes expected".to_owned());
        let mut key = Self {
            encrypt: decode(&parsed.encrypt)?.try_into().map_err(|_| "32 bytes expected".to_owned())?,
            mac_k: exact(decode(&parsed.mac.k)?)?,
            mac_r: exact(decode(&parsed.mac.r)?)?,
        };
        if key.encrypt == [0; 32] || key.mac_k == [0; 16] || key.mac_r == [0; 16] {
            return Err("a key of zeros".to_owned());
        }
        key.clamp();
        Ok(key)
    }

    /// The JSON that goes, sealed, into a key file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let encode = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
        let json = MasterKeyJson { mac: MacJson { k: encode(&self.mac_k), r: encode(&self.mac_r) }, encrypt: encode(&self.encrypt) };
        serde_json::to_vec(&json).expect("strings always serialise")
    }

    /// Appends `plain`, sealed with a fresh random nonce, to `out`: `plain.len() + OVERHEAD` bytes.
    pub fn seal(&self, plain: &[u8], out: &mut Vec<u8>) {
        self.seal_with_nonce(&random(), plain, out);
    }

    fn seal_with_nonce(&self, nonce: &[u8; NONCE], plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(plain.len() + OVERHEAD);
        out.extend_from_slice(nonce);
        out.extend_from_slice(plain);
        let cipher = &mut out[start + NONCE..];
        Aes256Ctr::new(&self.encrypt.into(), nonce.into()).apply_keystream(cipher);
        let tag = self.tag(nonce, cipher);
        out.extend_from_slice(&tag);
    }

    /// Seals a payload that begins with `NONCE` bytes of room, where it lies.
    pub(crate) fn seal_in_place(&self, payload: &mut Vec<u8>) {
        let nonce: [u8; NONCE] = random();
        payload[..NONCE].copy_from_slice(&nonce);
        let cipher = &mut payload[NONCE..];
        Aes256Ctr::new(&self.encrypt.into(), &nonce.into()).apply_keystream(cipher);
        let tag = self.tag(&nonce, cipher);
        payload.extend_from_slice(&tag);
    }

    /// Checks the tag of `sealed` and reads its plaintext piece by piece, leaving it as it is.
    ///
    /// # Errors
    /// Too short, or the tag does not fit.
    pub fn open_reader<B: AsRef<[u8]>>(&self, sealed: B) -> Result<OpenedReader<B>, SealError> {
        let bytes = sealed.as_ref();
        let (nonce, rest) = bytes.split_first_chunk::<NONCE>().ok_or(SealError)?;
        let (cipher, tag) = rest.split_last_chunk::<TAG>().ok_or(SealError)?;
        if self.tag(nonce, cipher) != *tag {
            return Err(SealError);
        }
        let cipher = Aes256Ctr::new(&self.encrypt.into(), nonce.into());
        Ok(OpenedReader { sealed, at: NONCE, cipher })
    }

    /// Opens `sealed` in place and returns the part of it that is now plaintext.
    ///
    /// # Errors
    /// Too short, or the tag does not fit; the bytes are then untouched.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        if sealed.len() < OVERHEAD {
            return Err(SealError);
        }
        let (nonce, rest) = sealed.split_first_chunk_mut::<NONCE>().expect("the length was checked");
        let (cipher, tag) = rest.split_last_chunk_mut::<TAG>().expect("the length was checked");
        // Not secret: whoever can ask for many guesses already holds the storage.
        if self.tag(nonce, cipher) != *tag {
            return Err(SealError);
        }
        Aes256Ctr::new(&self.encrypt.into(), (&*nonce).into()).apply_keystream(cipher);
        Ok(cipher)
    }

    fn tag(&self, nonce: &[u8; NONCE], cipher: &[u8]) -> [u8; TAG] {
        let mut pad = (*nonce).into();
        aes::Aes128::new(&self.mac_k.into()).encrypt_block(&mut pad);
        let mut one_time = [0; 32];
        one_time[..16].copy_from_slice(&self.mac_r);
        one_time[16..].copy_from_slice(&pad);
        Poly1305::new(&one_time.into()).compute_unpadded(cipher).into()
    }
}

/// Plaintext of sealed bytes, decrypted as it is read.
pub struct OpenedReader<B> {
    sealed: B,
    at: usize,
    cipher: Aes256Ctr,
}

impl<B> std::fmt::Debug for OpenedReader<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenedReader(..)")
    }
}

impl<B: AsRef<[u8]>> std::io::Read for OpenedReader<B> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let sealed = self.sealed.as_ref();
        let length = into.len().min(sealed.len() - TAG - self.at);
        let part = &mut into[..length];
        part.copy_from_slice(&sealed[self.at..self.at + length]);
        self.cipher.apply_keystream(part);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Poly1305-AES test vectors of Bernstein's paper, as restic's own tests use them.
    #[test]
    fn tags_match_the_published_vectors() {
        let vectors = [
            (
                "f3f6",
                "851fc40c3467ac0be05cc20404f3f700",
                "ec074c835580741701425b623235add6",
                "fb447350c4e868c52ac3275cf9d4327e",
                "f4c633c3044fc145f84f335cb81953de",
            ),
            (
                "",
                "a0f3080000f46400d0c7e9076c834403",
                "75deaa25c09f208e1dc4ce6b5cad3fbf",
                "61ee09218d29b0aaed7e154a2c5509cc",
                "dd3fab2251f11ac759f0887129cc2ee7",
            ),
        ];
        for (message, r, k, nonce, tag) in vectors {
            let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
            let key = MasterKey { encrypt: [1; 32], mac_k: hex(k).try_into().unwrap(), mac_r: hex(r).try_into().unwrap() };
            let nonce: [u8; 16] = hex(nonce).try_into().unwrap();
            assert_eq!(key.tag(&nonce, &hex(message)).to_vec(), hex(tag));
        }
    }

    #[test]
    fn golden_bytes() {
        let key = MasterKey::from_derived(&std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let mut sealed = Vec::new();
        key.seal_with_nonce(&[7; 16], b"estiba", &mut sealed);
        assert_eq!(data_encoding::HEXLOWER.encode(&sealed), "0707070707070707070707070707070762bd9c0d5b20613ea276e7615306d62e0afb867bd559");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = MasterKey::generate();
        let mut sealed = Vec::new();
        key.seal(b"some content", &mut sealed);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&mut damaged), Err(SealError));
        }
        for length in 0..sealed.len() {
            assert_eq!(key.open(&mut sealed[..length].to_vec()), Err(SealError));
        }
        assert_eq!(key.open(&mut sealed.clone()).unwrap(), b"some content");
    }

    #[test]
    fn a_master_key_survives_its_json() {
        let key = MasterKey::generate();
        assert!(MasterKey::from_json(&key.to_json()).unwrap() == key);
        assert!(MasterKey::from_json(br#"{"mac":{"k":"","r":""},"encrypt":""}"#).is_err());
    }
}
