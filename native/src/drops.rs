//! Why a datagram went no further: the reasons of `meshnode.dataplane.DropReason` that a batch can have.

/// One reason per cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Drop {
    /// Fewer bytes than transport data has.
    TooShort,
    /// No session has that index.
    UnknownReceiverIndex,
    /// The session was wiped.
    ExpiredKey,
    /// Forged or damaged.
    InvalidTag,
    /// Seen already, too old, or beyond the limit.
    ReplayedCounter,
    /// Its length does not fit, or it is no IP packet.
    MalformedInnerPacket,
    /// The peer does not own the source.
    SourceNotAllowed,
}

impl Drop {
    /// All of them, in order, with the names that they have in Python.
    pub const ALL: [(Drop, &str); 7] = [
        (Drop::TooShort, "TOO_SHORT"),
        (Drop::UnknownReceiverIndex, "UNKNOWN_RECEIVER_INDEX"),
        (Drop::ExpiredKey, "EXPIRED_KEY"),
        (Drop::InvalidTag, "INVALID_TAG"),
        (Drop::ReplayedCounter, "REPLAYED_COUNTER"),
        (Drop::MalformedInnerPacket, "MALFORMED_INNER_PACKET"),
        (Drop::SourceNotAllowed, "SOURCE_NOT_ALLOWED"),
    ];
}

/// How often each reason occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u32; Drop::ALL.len()]);

impl Drops {
    /// Count one.
    #[inline]
    pub fn count(&mut self, reason: Drop) {
        self.0[reason as usize] += 1;
    }

    /// Count all that `other` counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, more) in self.0.iter_mut().zip(other.0) {
            *mine += more;
        }
    }

    /// How many of `reason` there were.
    pub fn of(&self, reason: Drop) -> u32 {
        self.0[reason as usize]
    }

    /// Whether nothing was dropped.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&count| count == 0)
    }
}
