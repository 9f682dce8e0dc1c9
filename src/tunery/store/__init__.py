"""The database and the blobs: the only state that processes share.

One module per aggregate: functions over a connection, the caller owns the transaction, frozen domain objects come out.
"""
