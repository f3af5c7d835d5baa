//! The cryptography of the peer port, and the only importer of `snow`: a Noise handshake with a shared key, and the
//! records after it.
//!
//! `NNpsk0`: nodes have no identities of their own, the shared key is what proves that both belong to the gateway.
//! `psk0` mixes it into the very first message, so a stranger gets no byte in answer (`psk2` would answer anybody);
//! the two ephemeral keys give each connection secrets of its own, which the shared key does not reveal later.
//! The first message can be recorded and sent again, so the answering side believes nothing of it until a record
//! arrives that only the living other end can have made.

use curve25519_dalek::MontgomeryPoint;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::peer::frame;
use crate::peer::key::Key;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";

/// Of the handshake only, which has to outlast versions of what follows it: those are agreed within it.
const PROLOGUE: &[u8] = b"slimfaas peer port, handshake 1";

/// Noise's limit for a message, with its tag.
pub(super) const RECORD_BYTES_MAX: usize = 65_535;
pub(super) const TAG_BYTES: usize = 16;
/// What fits a record.
pub(super) const PLAIN_BYTES_MAX: usize = RECORD_BYTES_MAX - TAG_BYTES;
const _: () = assert!(PLAIN_BYTES_MAX == frame::RECORD_BYTES_MAX, "what is made of frames fits");

/// Beside the payload, in either message of the handshake: an ephemeral key and a tag.
const HANDSHAKE_OVERHEAD: usize = 32 + TAG_BYTES;

/// The other end has another key, or the bytes are not what it sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be decrypted")]
pub(super) struct NotGenuine;

/// One side of a handshake that has begun.
pub(super) struct Handshake(HandshakeState);

impl Handshake {
    /// Of the calling side, with its first message.
    pub(super) fn call(key: &Key, payload: &[u8]) -> (Self, Vec<u8>) {
        let mut handshake = Self(builder(key).build_initiator().expect("nothing is missing for the pattern"));
        let message = handshake.write(payload);
        (handshake, message)
    }

    /// Of the answering side, from the caller's first message; with its payload.
    pub(super) fn answer(key: &Key, message: &[u8]) -> Result<(Self, Vec<u8>), NotGenuine> {
        let mut handshake = Self(builder(key).build_responder().expect("nothing is missing for the pattern"));
        let payload = handshake.read(message)?;
        Ok((handshake, payload))
    }

    pub(super) fn write(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; payload.len() + HANDSHAKE_OVERHEAD];
        let len = self.0.write_message(payload, &mut message).expect("it is our turn and there is room");
        message.truncate(len);
        message
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, NotGenuine> {
        let mut payload = vec![0; message.len()];
        let len = self.0.read_message(message, &mut payload).map_err(|_of_a_stranger| NotGenuine)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// After both messages.
    pub(super) fn finish(self) -> Session {
        Session(self.0.into_stateless_transport_mode().expect("both messages have passed"))
    }
}

/// The two directions of a connection. Record numbers are the caller's to count: each may be used once.
pub(super) struct Session(StatelessTransportState);

impl Session {
    /// Appends the record of `plain` (at most [`PLAIN_BYTES_MAX`]) to `out`.
    pub(super) fn seal(&self, number: u64, plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + plain.len() + TAG_BYTES, 0);
        self.0.write_message(number, plain, &mut out[start..]).expect("the record fits");
    }

    /// Decrypts a record into `plain`, whose former content is lost.
    pub(super) fn open(&self, number: u64, record: &[u8], plain: &mut Vec<u8>) -> Result<(), NotGenuine> {
        plain.resize(record.len(), 0);
        let len = self.0.read_message(number, record, plain).map_err(|_forged| NotGenuine)?;
        plain.truncate(len);
        Ok(())
    }
}

fn builder(key: &Key) -> Builder<'_> {
    let params = PATTERN.parse().expect("the pattern is known");
    let resolver: BoxedCryptoResolver = Box::new(Primitives);
    Builder::with_resolver(params, resolver)
        .psk(0, key.bytes())
        .and_then(|builder| builder.prologue(PROLOGUE))
        .expect("each is given once")
}

/// ring's assembly for what is done per byte. The curve is not ring's, which gives no key to a caller's keeping.
struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(random())
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

/// X25519 for snow, as its own default resolver has it, which cannot be had without ciphers that nothing would use.
#[derive(Default)]
struct X25519 {
    private: [u8; 32],
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = MontgomeryPoint::mul_base_clamped(self.private).to_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        let mut private = [0; 32];
        random.try_fill_bytes(&mut private)?;
        self.set(&private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk::<32>().ok_or(snow::Error::Dh)?;
        let shared = MontgomeryPoint(*public).mul_clamped(self.private);
        out[..32].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

/// The only randomness of the peer port, so that a simulation can replace it.
fn random() -> Box<dyn Random> {
    RingResolver.resolve_rng().expect("ring has a random source")
}

/// Names one run of this process among those before and after it.
pub(super) fn run_number() -> u64 {
    u64::from_be_bytes(secret())
}

/// Bytes that nobody can guess.
pub(super) fn secret<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    random().try_fill_bytes(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// SHA-256 of the parts, one after the other.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = RingResolver.resolve_hash(&HashChoice::SHA256).expect("ring has SHA-256");
    hash.reset();
    parts.iter().for_each(|part| hash.input(part));
    let mut digest = [0; 32];
    hash.result(&mut digest);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::key::Keys;

    fn key(letter: &str) -> Key {
        Keys::parse(&letter.repeat(32)).unwrap().present().unwrap().clone()
    }

    fn sessions() -> (Session, Session) {
        let (mut caller, first) = Handshake::call(&key("a"), b"hello");
        let (mut answerer, hello) = Handshake::answer(&key("a"), &first).unwrap();
        assert_eq!(hello, b"hello");
        let second = answerer.write(b"welcome");
        assert_eq!(caller.read(&second).unwrap(), b"welcome");
        (caller.finish(), answerer.finish())
    }

    #[test]
    fn a_record_is_read_by_the_other_end_only_and_in_its_place_only() {
        let (caller, answerer) = sessions();
        let (stranger, _) = sessions();
        let mut record = Vec::new();
        caller.seal(7, b"one", &mut record);
        let mut plain = Vec::new();
        answerer.open(7, &record, &mut plain).unwrap();
        assert_eq!(plain, b"one");
        assert_eq!(answerer.open(8, &record, &mut plain), Err(NotGenuine));
        assert_eq!(stranger.open(7, &record, &mut plain), Err(NotGenuine));
        assert_eq!(caller.open(7, &record, &mut plain), Err(NotGenuine));
        record[0] ^= 1;
        assert_eq!(answerer.open(7, &record, &mut plain), Err(NotGenuine));
    }

    #[test]
    fn the_largest_record_fits() {
        let (caller, answerer) = sessions();
        let (mut record, mut plain) = (Vec::new(), Vec::new());
        caller.seal(0, &vec![1; PLAIN_BYTES_MAX], &mut record);
        assert_eq!(record.len(), RECORD_BYTES_MAX);
        answerer.open(0, &record, &mut plain).unwrap();
        assert_eq!(plain, vec![1; PLAIN_BYTES_MAX]);
    }

    #[test]
    fn another_key_is_noticed_at_the_first_message() {
        let (_caller, first) = Handshake::call(&key("a"), b"hello");
        assert!(Handshake::answer(&key("b"), &first).is_err());
        assert!(Handshake::answer(&key("a"), &first[..40]).is_err());
        assert!(Handshake::answer(&key("a"), &[]).is_err());
    }

    #[test]
    fn a_replayed_first_message_does_not_give_the_secrets_of_the_connection() {
        let (_gone, first) = Handshake::call(&key("a"), b"hello");
        let (mut answerer, _) = Handshake::answer(&key("a"), &first).unwrap();
        let _second = answerer.write(b"welcome");
        let (forger, _) = sessions();
        let mut record = Vec::new();
        forger.seal(0, b"x", &mut record);
        assert_eq!(answerer.finish().open(0, &record, &mut Vec::new()), Err(NotGenuine));
    }

    #[test]
    fn the_curve_is_that_of_rfc_7748() {
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        // Section 6.1, Bob's keys.
        let mut bob = X25519::default();
        bob.set(&bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        assert_eq!(bob.pubkey(), bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        // Section 5.2, the first iteration.
        let nine = bytes(&format!("09{}", "00".repeat(31)));
        let (mut nines, mut shared) = (X25519::default(), [0; 32]);
        nines.set(&nine);
        nines.dh(&nine, &mut shared).unwrap();
        assert_eq!(shared[..], bytes("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
    }

    #[test]
    fn the_digest_is_sha_256() {
        let abc = digest(&[b"a", b"bc"]);
        assert_eq!(abc[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
