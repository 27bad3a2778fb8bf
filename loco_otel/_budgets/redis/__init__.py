"""The ledger on a server that processes of several hosts share."""
