"""Who may do what, and proof of what was done: identities and their credentials, tokens,
the policy, keys and encryption, the audit log, the built-in certificate authority.

Look first at ``ports.py`` for what the room stands on, ``service.py`` and the
``*_service.py`` modules for what it offers.
"""
