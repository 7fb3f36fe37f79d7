"""What the end-to-end tests share: processes, arrays, attachment, stamps, an independent md reader.

Nothing in here knows the Rust code; it knows the command line of `uraid`, the NBD protocol and md's
format on disk. That independence is its worth: keep it.
"""
