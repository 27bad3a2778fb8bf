"""Request and response formats that several SDKs share."""
