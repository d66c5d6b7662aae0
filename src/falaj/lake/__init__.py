"""Where data lies: offline tables with snapshots and time travel, blobs, and the spool.

Look first at ``ports.py``: the ``Lake`` and the ``BlobStore``.
"""
