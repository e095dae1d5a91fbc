"""The commit protocol: put-if-absent, the records, claims, ownership, publishing.

Every ordering decision is a race on :meth:`Store.put_new`; no clock and no lock takes part in it.
"""
