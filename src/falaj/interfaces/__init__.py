"""The outside: HTTP API, command line, client, web pages, processes. Thin: no rule of the
business lives here; each interface is built from the actions that the services declare.
"""
