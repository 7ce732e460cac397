"""The door: what a client sends -> requests, frames and bodies within limits, or a refusal.

Everything here runs before a request has a place in the service. It counts bytes as they arrive, whatever
headers announce: heads and connections (`connection`), WebSocket frames (`frames`), bodies (`body`), forms
and JSON. It knows no audio and no model.
"""
