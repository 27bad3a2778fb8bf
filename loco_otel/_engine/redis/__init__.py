"""The engine that many processes share: Redis or Valkey decides which ticket is granted next."""
