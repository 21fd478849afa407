"""The control protocol's Noise_IK_25519_ChaChaPoly_BLAKE2s, both sides, sans-IO."""
