"""Speech that is still being spoken -> committed words, partial text and phrases. Knows no socket.

`session` reads from top to bottom: sound, the open phrase, its decoding, its end. `phrase` keeps what is
committed, `policies` decides what may be. `runs` lets a session outlive the connection of its client.
"""
